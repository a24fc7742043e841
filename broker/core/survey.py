"""Surveys: the numbers of a broker at one time, gathered without holding up the reactor."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.destination import Destination, Kind
from broker.core.stats import OF_FRONT, OF_QUEUE, BrokerGauges, BrokerStats, QueueStats, metrics, values
from broker.core.store import Sizes
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.core.broker import Broker

#: Queues looked at in one reactor turn: 500 take 4 ms.
SLICE = 500
#: Seconds for which the sizes of the store are good: whoever asks for them again sooner gets the same.
FRESH = 1.0
#: Seconds a survey waits for a store that is stuck before it goes without.
PATIENCE = 2.0

_gauges, _counters = metrics(BrokerGauges), metrics(BrokerStats)
#: The gauges of the broker that are sums over its queues.
_sums = [name for name in _gauges if name in OF_QUEUE]


class Survey(msgspec.Struct, frozen=True):
    """The broker's numbers at one time: values that may go to another thread."""

    #: Of the whole broker, in the order of `OF_BROKER`.
    broker: dict[str, int]
    #: Of each front, in the order of `OF_FRONT`.
    fronts: dict[str, dict[str, int]]
    #: Of the queues asked for, sorted by name; none of them if they are more than wanted.
    queues: list[tuple[str, QueueStats]]
    #: How many queues were asked for and are not here.
    left_out: int
    #: The bindings that are to topics.
    topic_bindings: int
    #: The highest delivery id of a message that is there; 0 if none is.
    last_id: int


class Surveyor:
    """Surveys one broker. What it tells of several thousand queues is not of one moment: nobody waits for it long."""

    _log = Logger()

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        # the broker's own parts, which nobody else in the fronts' rooms has a use for
        self._directory = broker._directory
        self._budget = broker._budget
        self._store = broker._store
        self._sizes: Sizes | None = None
        self._measured = 0.0
        self._measuring = False
        self._waiting: list[Deferred[None]] = []

    def queues(
        self, wanted: Callable[[str], bool] = lambda name: True, *, after: str = "", most: int | None = None
    ) -> list[str]:
        """The names of the queues that exist and are `wanted`, sorted; the first `most` of those behind `after`."""
        names = (name for name in self._directory.names() if name > after and wanted(name))
        return sorted(names) if most is None else heapq.nsmallest(most, names)

    def in_memory(self, name: str) -> tuple[int, int]:
        """About how many of a queue's messages are in memory, and how many bytes they take there."""
        queue = self._directory.queues.get(name)
        held = [reader for reader in queue.readers if reader.window.runs] if queue is not None else []
        count = sum(min(reader.waiting, reader.window.end - reader.bits.cursor) for reader in held)
        return max(count, 0), sum(reader.window.bytes for reader in held)

    def consumers(self, name: str) -> list[dict[str, object]]:
        """Who asks for messages of a queue, and the loans that are nobody's but end by themselves."""
        queue = self._directory.queues.get(name)  # one that rests has neither
        if queue is None:
            return []
        found: list[dict[str, object]] = [
            {
                "channel": name,
                "kind": "waiting request" if one.once else "subscription",
                "prefetch": one.prefetch,
                "unsettled": len(one.unsettled),
                "priority": one.priority,
                "selector": one.line is not None,
                "paused": one.paused,
            }
            for one in queue.subscriptions
        ]
        leases = sum(loan.subscription is None and not loan.delayed for loan in queue.loans())
        return [*found, {"channel": name, "kind": "leases", "unsettled": leases}] if leases else found

    async def survey(self, wanted: Callable[[str], bool] = lambda name: False, *, most: int = 0) -> Survey:
        """The numbers of the broker, and of the queues that are `wanted`, if those are not more than `most`."""
        sizes = await self._measure()
        found: list[tuple[str, QueueStats]] = []
        asked = in_use = bindings = last_id = 0
        sums = dict.fromkeys(_sums, 0)
        topics: dict[Destination, int] = {}
        broker = self._broker
        names = self._directory.names()
        for number, name in enumerate(names, 1):
            stats = broker.queue_stats(name)
            for what in _sums:
                sums[what] += getattr(stats, what)
            queue = self._directory.queues.get(name)
            bound = queue.bindings if queue is not None else {}
            in_use += bool(bound or stats.consumers or stats.waiters or stats.ready or stats.on_loan)
            bindings += len(bound)
            for source in bound:
                if source.kind is Kind.TOPIC:
                    topics[source] = topics.get(source, 0) + 1
            last_id = max(last_id, stats.last_id)
            if wanted(name):
                asked += 1
                if asked <= most:
                    found.append((name, stats))
            if number % SLICE == 0:
                await deferLater(self._broker.clock, 0)
        if asked > most:
            found.clear()
        replays = [one for one in broker.replays.all() if not one.job.state.over]
        gauges = BrokerGauges(
            uptime=max(int(broker.now() / 1e6 - broker.stats.started), 0),
            trouble=broker.trouble,
            draining=broker.draining,
            queues=len(names),
            queues_in_use=in_use,
            topics=len(topics),
            replays=len(replays),
            replays_waiting=sum(bool(one.waits_for) for one in replays),
            bindings=bindings,
            delayed=broker.delayed,
            memory_used=self._budget.used,
            memory_limit=self._budget.limit,
            **sums,
            **_of_store(sizes),
        )
        return Survey(
            broker=values(gauges, _gauges) | values(broker.stats, _counters),
            fronts={name: values(front, OF_FRONT) for name, front in broker.stats.fronts().items()},
            queues=sorted(found, key=lambda one: one[0]),
            left_out=asked - len(found),
            topic_bindings=sum(topics.values()),
            last_id=last_id,
        )

    async def _measure(self) -> Sizes | None:
        """The store's sizes, at most `FRESH` old; if it does not answer in time, what it said last."""
        clock = self._broker.clock
        if not self._measuring and (self._sizes is None or clock.seconds() - self._measured >= FRESH):
            self._measuring = True
            _ = self._store.measure().addCallbacks(self._has_measured, self._cannot_measure)
        if self._measuring:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            late = clock.callLater(PATIENCE, waiting.callback, None)
            try:
                await waiting
            finally:
                if late.active():
                    late.cancel()
        return self._sizes

    def _has_measured(self, sizes: Sizes | None) -> None:
        self._sizes, self._measured, self._measuring = sizes, self._broker.clock.seconds(), False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.called:
                one.callback(None)

    def _cannot_measure(self, failure: Failure) -> None:
        if not failure.check(BrokerError):
            self._log.failure("while measuring the store", failure)
        self._has_measured(None)


def _of_store(sizes: Sizes | None) -> dict[str, int]:
    if sizes is None:
        return {}
    return {
        "store_data": sizes.data,
        "store_wal": sizes.wal,
        "store_free": sizes.free,
        "store_unfolded_records": sizes.unfolded_records,
        "store_unfolded": sizes.unfolded_bytes,
        "store_disk_free": sizes.disk_free,
        "store_commits": sizes.commits,
        "store_commit_ms": int(sizes.commit_ms),
    }
