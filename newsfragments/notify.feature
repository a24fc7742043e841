The broker tells systemd (``NOTIFY_SOCKET``) that it is ready, reloads or stops, why it takes no messages, and, for a
watchdog, that its reactor turns.
