"""A queue and pub/sub server for memcache, STOMP and HTTP clients, in one Twisted process."""

__version__ = "0.1.0"
