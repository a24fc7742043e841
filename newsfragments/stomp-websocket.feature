STOMP over WebSocket at `/ws` and `/stomp` of the HTTP port, for browsers.
