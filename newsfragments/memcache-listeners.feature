A memcache listener may close on idle clients (``idle_timeout``) and refuse writes or reads to those who come when there are many connections (``refuse_writes_above``, ``refuse_reads_above``).
