SIGHUP, ``POST /reload`` and memcache's ``reload`` read the configuration's policies and aliases and the users file again,
without a restart; a file with a mistake changes nothing, and the answer or the log says why.
