The server's status (up, writeavoid, draining, read-only, quiescent) is one for all fronts, changed by ``broker status``,
``PUT /status`` or memcache's ``status``, and kept over a restart; so is what ``POST /drain`` says.
