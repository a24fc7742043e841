Connections may be limited, in all and for one address, and so may new connections and logins of an address in a second: ``[limits]``. A reload has other limits hold at once.
