Users may have limits: connections, messages and bytes a second, queues, unsettled messages; in the users file, or for everybody in ``[limits.user]``.
