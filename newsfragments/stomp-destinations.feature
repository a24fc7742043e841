STOMP: wildcards in subscriptions to topics, lists of destinations, virtual topics, `/exchange/` and `/amq/queue/`; MESSAGE gives back the sender's own destination.
