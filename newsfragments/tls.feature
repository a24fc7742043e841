Every front speaks TLS: an entry of ``memcache``, ``stomp`` or ``http`` may have a ``tls`` table with ``certificate`` and
``key``; with ``clients`` a client must show a certificate, whose common name is its user. New certificates are taken over on
reload. TLS on a plain port, and the reverse, are named in the log.
