``broker check``, ``dump``, ``load`` and ``backup`` work on the data file of a stopped broker: is it whole, what is in it as
lines of JSON, put that into another, copy it.
