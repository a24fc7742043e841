On Linux ``twistd broker`` runs on a reactor of its own, Twisted's epoll reactor with half the system calls; ``--reactor``
or ``BROKER_STOCK_REACTOR=1`` give Twisted's.
