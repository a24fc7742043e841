The broker can have users (``--users``): passwords and tokens over memcache, STOMP and HTTP, rights by pattern, and
``broker user`` to change them. With users it also listens beyond loopback.
