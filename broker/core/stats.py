"""Numbers about the broker: what there is to count, what each number means, and what it is now.

Each number is defined once, as a field whose annotation holds its `Metric`. The fronts make what they show from these
definitions, under the names their clients know and under the field's own where those know none, so that a new field is
seen everywhere. Counters begin with the broker.

To count something new for the whole broker: a field in `BrokerStats`, raised where it happens. For each queue: a field
in `QueueStats`, filled in `stats_of`; a gauge of the same name in `BrokerGauges` is its sum over all queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

import attrs
import msgspec

from broker.core.counts import Counts
from broker.core.dormant import AtRest
from broker.core.message import OVERHEAD
from broker.core.policy import Policy
from broker.core.queue import Queue
from broker.core.reader import delivery_id


class Metric(msgspec.Struct, frozen=True):
    """What a number means."""

    kind: Literal["counter", "gauge"]
    #: messages, bytes, seconds, milliseconds, ...; empty: it is 1 while something is so, else 0.
    unit: str
    #: One sentence.
    help: str


def counter(unit: str, help: str) -> Metric:
    """A number that grows."""
    return Metric("counter", unit, help)


def gauge(unit: str, help: str) -> Metric:
    """A number that is as things are."""
    return Metric("gauge", unit, help)


def flag(help: str) -> Metric:
    """1 while something is so, else 0. In a field that holds text: while that is not empty."""
    return Metric("gauge", "", help)


@attrs.define(eq=False)
class BrokerStats:
    """What happened in the whole broker."""

    #: When it started (seconds of the wall clock).
    started: float = 0.0
    #: Called for what is known of each front, by its name.
    fronts: Callable[[], Mapping[str, FrontStats]] = attrs.field(default=dict, repr=False)
    logins_failed: Annotated[
        int, counter("logins", "Logins refused: a wrong password or token, or too many of them.")
    ] = 0
    published_bytes: Annotated[int, counter("bytes", "Bodies of publishes that became true.")] = 0
    delivered_bytes: Annotated[int, counter("bytes", "Bodies of deliveries.")] = 0
    published: Annotated[
        int, counter("messages", "Publishes that became true, moves from queue to queue included.")
    ] = 0
    published_to_topics: Annotated[int, counter("messages", "Publishes to topics that became true.")] = 0
    delivered: Annotated[int, counter("messages", "Deliveries made, repeated ones included.")] = 0
    settled: Annotated[int, counter("messages", "Messages acked, or settled by their id.")] = 0
    failed: Annotated[int, counter("messages", "Deliveries that failed: nack, lease over, connection lost.")] = 0
    lapsed: Annotated[int, counter("messages", "Deliveries whose lease ran out.")] = 0
    released: Annotated[int, counter("messages", "Deliveries given back without counting as failed.")] = 0
    expired: Annotated[int, counter("messages", "Messages that left their queue because their time was over.")] = 0
    discarded: Annotated[
        int, counter("messages", "Messages that had failed too often or were rejected: dropped, or moved.")
    ] = 0
    moved: Annotated[
        int, counter("messages", "Messages moved as they expired, had failed too often or were rejected.")
    ] = 0
    replayed: Annotated[int, counter("messages", "Messages that replays put in; they are published, too.")] = 0
    purged: Annotated[int, counter("messages", "Messages removed by purge or with their queue.")] = 0
    touched: Annotated[int, counter("messages", "Loans restarted.")] = 0
    bound: Annotated[int, counter("bindings", "Bindings made.")] = 0
    unbound: Annotated[int, counter("bindings", "Bindings ended.")] = 0
    queues_created: Annotated[int, counter("queues", "Queues made by a publish.")] = 0
    queues_deleted: Annotated[int, counter("queues", "Queues deleted.")] = 0
    queues_expired: Annotated[int, counter("queues", "Queues deleted because nobody had used them for long.")] = 0


class BrokerGauges(msgspec.Struct, frozen=True):
    """The whole broker as it is now."""

    uptime: Annotated[int, gauge("seconds", "Time since the broker started.")]
    trouble: Annotated[str, flag("Whether the store does not commit.")]
    draining: Annotated[bool, flag("Whether it takes no new messages: it stops, or was told to drain.")]
    queues: Annotated[int, gauge("queues", "Queues that exist, empty ones included.")]
    queues_in_use: Annotated[int, gauge("queues", "Queues that hold messages, are bound or have consumers.")]
    topics: Annotated[int, gauge("topics", "Topics that queues are bound to.")]
    replays: Annotated[int, gauge("replays", "Replays that run or are paused.")]
    replays_waiting: Annotated[int, gauge("replays", "Replays that wait for room, or for the store.")]
    bindings: Annotated[int, gauge("bindings", "Bindings of queues to topics and to other queues.")]
    ready: Annotated[int, gauge("messages", "Messages that wait in queues.")]
    bytes: Annotated[int, gauge("bytes", "What the messages of queues take, on loan or not, headers included.")]
    on_loan: Annotated[int, gauge("messages", "Messages on loan to consumers.")]
    incoming: Annotated[int, gauge("messages", "Messages accepted, on their way to the disk.")]
    delayed: Annotated[int, gauge("messages", "Messages that wait for their time.")]
    urgent: Annotated[int, gauge("messages", "Messages with a priority number below 0.")]
    niced: Annotated[int, gauge("messages", "Messages with a priority number above 0.")]
    waiters: Annotated[int, gauge("requests", "Requests that wait for one message.")]
    consumers: Annotated[int, gauge("consumers", "Standing subscriptions to queues.")]
    memory_used: Annotated[int, gauge("bytes", "Memory that messages waiting in queues take.")]
    memory_limit: Annotated[int, gauge("bytes", "Memory that messages waiting in queues may take.")]
    #: None: the store has not said.
    store_data: Annotated[int | None, gauge("bytes", "Size of the data file.")] = None
    store_wal: Annotated[int | None, gauge("bytes", "Size of the write-ahead log.")] = None
    store_free: Annotated[int | None, gauge("bytes", "Room in the data file that is free for further messages.")] = None
    store_unfolded_records: Annotated[int | None, gauge("records", "Commits that no fold has moved yet.")] = None
    store_unfolded: Annotated[int | None, gauge("bytes", "Size of the commits that no fold has moved yet.")] = None
    store_disk_free: Annotated[
        int | None, gauge("bytes", "Room the data file's file system has left; 0 without one.")
    ] = None
    store_commits: Annotated[int | None, counter("commits", "Groups of changes made durable.")] = None
    store_commit_ms: Annotated[
        int | None, counter("milliseconds", "Time it took to make them durable, waiting for one another included.")
    ] = None


class FrontStats(msgspec.Struct, frozen=True):
    """The connections of one front, all its listeners together."""

    connections: Annotated[int, gauge("connections", "Connections that are open.")] = 0
    connections_opened: Annotated[int, counter("connections", "Connections made.")] = 0


class QueueStats(msgspec.Struct, frozen=True):
    """A queue as it is now, and what happened in it."""

    ready: Annotated[int, gauge("messages", "Messages that wait.")] = 0
    on_loan: Annotated[int, gauge("messages", "Messages on loan.")] = 0
    incoming: Annotated[int, gauge("messages", "Messages accepted, on their way to the disk.")] = 0
    waiters: Annotated[int, gauge("requests", "Requests that wait for one message.")] = 0
    consumers: Annotated[int, gauge("consumers", "Standing subscriptions.")] = 0
    bytes: Annotated[int, gauge("bytes", "What its messages take, on loan or not, headers included; about.")] = 0
    oldest_ms: Annotated[int, gauge("milliseconds", "Age of the oldest message; about, until it is in memory.")] = 0
    age_ms: Annotated[
        int, gauge("milliseconds", "How long the last message delivered had waited; 0 when nothing waits.")
    ] = 0
    urgent: Annotated[int, gauge("messages", "Messages with a priority number below 0.")] = 0
    niced: Annotated[int, gauge("messages", "Messages with a priority number above 0.")] = 0
    #: The highest delivery id given to a lane that still holds something; 0 when none does.
    last_id: int = 0
    paused: Annotated[bool, flag("Whether its policy lets nothing be delivered.")] = False
    #: Empty while nothing holds them.
    blocked: Annotated[str, flag("Why messages that should leave the queue stay.")] = ""
    published: Annotated[int, counter("messages", "Messages published to it or to what it is bound to.")] = 0
    delivered: Annotated[int, counter("messages", "Deliveries made, repeated ones included.")] = 0
    settled: Annotated[int, counter("messages", "Messages acked, or settled by their id.")] = 0
    failed: Annotated[int, counter("messages", "Deliveries that failed: nack, lease over, connection lost.")] = 0
    released: Annotated[int, counter("messages", "Deliveries given back without counting as failed.")] = 0
    expired: Annotated[int, counter("messages", "Messages that left it because their time was over.")] = 0
    discarded: Annotated[int, counter("messages", "Messages dropped that had failed too often or were rejected.")] = 0
    moved: Annotated[
        int, counter("messages", "Messages moved as they expired, had failed too often or were rejected.")
    ] = 0


def metrics(of: type) -> Mapping[str, Metric]:
    """The numbers among the fields of one of these classes, in their order."""
    found = {}
    for name, hint in get_type_hints(of, include_extras=True).items():
        for what in getattr(hint, "__metadata__", ()):
            if isinstance(what, Metric):
                found[name] = what
    return found


OF_FRONT = metrics(FrontStats)
OF_QUEUE = metrics(QueueStats)
OF_BROKER = {**metrics(BrokerGauges), **metrics(BrokerStats)}


def values(of: object, wanted: Iterable[str]) -> dict[str, int]:
    """The numbers `wanted` of one of these objects, without those that nobody knows; a text counts as 0 or 1."""
    said = ((name, getattr(of, name)) for name in wanted)
    return {name: int(bool(value) if isinstance(value, str) else value) for name, value in said if value is not None}


def stats_of(queue: Queue, now: int) -> QueueStats:
    """The numbers of one queue, at a time (us); it costs what its lanes and consumers are, not its messages."""
    oldest = min((reader.oldest for reader in queue.readers if reader.waiting), default=0)
    ids = [reader.delivery_id(reader.lane.next - 1) for reader in queue.readers if reader.waiting]
    waiters = sum(subscription.once for subscription in queue.subscriptions)
    ready = queue.ready
    return QueueStats(
        ready=ready,
        on_loan=queue.on_loan,
        incoming=queue.room.incoming,
        waiters=waiters,
        consumers=len(queue.subscriptions) - waiters,
        bytes=max(queue.bytes - queue.waiting * OVERHEAD, 0),
        oldest_ms=max(now - oldest, 0) // 1000 if oldest else 0,
        age_ms=queue.last_age if ready else 0,
        urgent=sum(reader.waiting for reader in queue.readers if reader.priority < 0),
        niced=sum(reader.waiting for reader in queue.readers if reader.priority > 0),
        last_id=max(ids, default=0),
        paused=queue.policy.paused,
        blocked=queue.blocked or queue.stuck,
        **_happened(queue.counts),
    )


def stats_at_rest(state: AtRest, counts: Counts, policy: Policy, now: int) -> QueueStats:
    """The same for a queue at rest."""
    ready, priority = state.waiting, 0 if policy.priority == "off" else state.priority
    return QueueStats(
        ready=ready,
        bytes=max(state.bytes - ready * OVERHEAD, 0),
        oldest_ms=max(now - state.since, 0) // 1000 if ready and state.since else 0,
        age_ms=state.last_age if ready else 0,
        urgent=ready if priority < 0 else 0,
        niced=ready if priority > 0 else 0,
        last_id=delivery_id(state.reader, state.next - 1) if ready else 0,
        paused=policy.paused,
        **_happened(counts),
    )


def _happened(counts: Counts) -> dict[str, Any]:
    return {
        "published": counts.published,
        "delivered": counts.delivered,
        "settled": counts.settled,
        "failed": counts.failed,
        "released": counts.released,
        "expired": counts.expired,
        "discarded": counts.discarded,
        "moved": counts.moved,
    }
