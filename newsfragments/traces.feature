Traces for OpenTelemetry (extra ``trace``, off by default): spans for publish, deliver, settle and commit. ``traceparent``
and ``tracestate`` are carried through HTTP under their own names.
