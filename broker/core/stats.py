"""Numbers about the broker, read by the fronts. All count since the broker started."""

from __future__ import annotations

import attrs
import msgspec

from broker.core.queue import Queue


@attrs.define(eq=False)
class BrokerStats:
    """What happened in the whole broker."""

    #: When it started (seconds of the wall clock).
    started: float = 0.0
    #: Publishes that became true.
    published: int = 0
    #: Those to topics.
    published_to_topics: int = 0
    #: Deliveries made, repeated ones included.
    delivered: int = 0
    #: Messages acked, or settled by their id.
    settled: int = 0
    #: Deliveries that failed: nack, lease over, connection lost.
    failed: int = 0
    #: Deliveries whose lease ran out.
    lapsed: int = 0
    #: Deliveries given back without counting as failed.
    released: int = 0
    #: Messages dropped because their time was over.
    expired: int = 0
    #: Messages that had failed too often or were rejected: dropped, or moved.
    discarded: int = 0
    #: Messages moved to another queue because they expired, had failed too often or were rejected.
    moved: int = 0
    #: Messages removed by purge or with their queue.
    purged: int = 0
    #: Loans restarted.
    touched: int = 0
    #: Bindings made and ended.
    bound: int = 0
    unbound: int = 0
    #: Queues made and deleted.
    queues_created: int = 0
    queues_deleted: int = 0


class QueueStats(msgspec.Struct, frozen=True):
    """A queue as it is now, and what happened in it."""

    #: Messages that wait.
    ready: int = 0
    #: Messages on loan.
    on_loan: int = 0
    #: Messages accepted, on their way to the disk.
    incoming: int = 0
    #: Requests that wait for one message.
    waiters: int = 0
    #: Standing subscriptions.
    consumers: int = 0
    #: How long the last message delivered had waited (ms); 0 when nothing waits.
    age_ms: int = 0
    #: Messages with a priority number below 0, and above 0.
    urgent: int = 0
    niced: int = 0
    #: The highest delivery id given to a lane that still holds something; 0 when none does.
    last_id: int = 0
    #: Why messages that should leave the queue stay; empty while nothing holds them.
    blocked: str = ""
    published: int = 0
    delivered: int = 0
    settled: int = 0
    failed: int = 0
    released: int = 0
    expired: int = 0
    discarded: int = 0
    moved: int = 0


def stats_of(queue: Queue) -> QueueStats:
    """The numbers of one queue."""
    counts = queue.counts
    ids = [reader.delivery_id(reader.lane.next - 1) for reader in queue.readers if reader.waiting]
    waiters = sum(subscription.once for subscription in queue.subscriptions)
    ready = queue.ready
    return QueueStats(
        ready=ready,
        on_loan=queue.on_loan,
        incoming=queue.incoming,
        waiters=waiters,
        consumers=len(queue.subscriptions) - waiters,
        age_ms=queue.last_age if ready else 0,
        urgent=sum(reader.waiting for reader in queue.readers if reader.priority < 0),
        niced=sum(reader.waiting for reader in queue.readers if reader.priority > 0),
        last_id=max(ids, default=0),
        blocked=queue.blocked,
        published=counts.published,
        delivered=counts.delivered,
        settled=counts.settled,
        failed=counts.failed,
        released=counts.released,
        expired=counts.expired,
        discarded=counts.discarded,
        moved=counts.moved,
    )
