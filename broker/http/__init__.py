"""The HTTP front: Linger's routes over the broker's queues and topics."""
