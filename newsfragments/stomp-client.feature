`broker.stomp.client`, a STOMP client for Twisted that connects and subscribes again by itself, and `broker subscribe`, which prints messages as they come.
