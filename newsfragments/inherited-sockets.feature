Every front can listen on a socket of systemd (``systemd:domain=INET:name=stomp``), which is checked at the start, shown by
its address, and left as it is: clients that connect while the broker is started again wait instead of being refused.
