The policy ``open_timeout`` bounds how long a memcache connection may hold a message open. In the dialects memcached and
starling ``+`` is a plain character of a key; in kestrel a queue's name with a dot is refused, as Kestrel refuses it.
