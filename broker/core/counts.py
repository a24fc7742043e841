"""What happened in a queue."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Counts:
    """What happened in a queue since the broker started."""

    #: Messages published to the queue or to what it is bound to.
    published: int = 0
    #: Deliveries made, repeated ones included.
    delivered: int = 0
    #: Messages acked.
    settled: int = 0
    #: Deliveries that failed: nack, lease over, connection lost.
    failed: int = 0
    #: Deliveries given back without counting as failed.
    released: int = 0
    #: Messages dropped because their time was over.
    expired: int = 0
    #: Messages dropped because they had failed `max_attempts` times, or a live subscriber's buffer was full.
    discarded: int = 0
    #: Messages moved to another queue because they expired, failed too often or were rejected.
    moved: int = 0
