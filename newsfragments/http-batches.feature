``/channels/C/lease`` answers ``Accept: multipart/mixed`` with bodies as they are; an ``Idempotency-Key`` whose first publish
is still under way is 409; long batches and long ``/commit`` bodies no longer hold up everybody else while they are read.
