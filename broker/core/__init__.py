"""Queues and topics: what the broker means, without sockets and without SQL."""
