Messages can be delayed: ``delay`` over HTTP, ``x-delay`` or ``AMQ_SCHEDULED_DELAY`` over STOMP, ``delay`` in a queue's policy.
They are on disk at once, survive restarts, and can be cancelled by the id they wait under.
