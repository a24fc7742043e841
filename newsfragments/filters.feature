A channel's subscription to a topic may have a filter: ``PUT /channels/C/topics/T?match=...`` with conditions on attributes,
headers and places in a JSON body.
