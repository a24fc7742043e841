``broker debug on PART`` and ``PUT /debug/log`` change from which level on a part of a running broker is logged, and
``broker debug stack``, ``GET /debug/stack`` or SIGQUIT show what every thread of it is doing.
