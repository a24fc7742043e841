``/metrics`` tells Prometheus how the broker and its queues are; memcache's ``stats`` and HTTP's ``/stats`` show the same
numbers, ``GET /channels?detail=1`` and ``broker queues`` those of every queue, and ``/readyz`` says why it is not ready.
