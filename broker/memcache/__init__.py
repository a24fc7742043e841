"""The memcache front: Starling's, Kestrel's and memcached's text protocol over the broker's queues."""
