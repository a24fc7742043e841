"""The sweep: settles what has expired where nobody comes to take it, a bounded piece at a time.

Delivery is exact by itself: what has expired is never delivered. Without the sweep it would stay on disk, and in the
counts, until its turn comes. The store knows of each run of messages when the first and the last of it expire, so that
a million expired ones are ranges; they are read only where they go to another queue (``expire_to``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.destination import Kind
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.message import unpack
from broker.core.queue import Queue
from broker.core.reader import Lane, Reader
from broker.core.stats import BrokerStats
from broker.core.store import Batch, IStore, Range
from broker.core.supply import Supply
from broker.errors import BrokerError

#: Seconds between two rounds, and between two pieces of one.
ROUND = 1.0
_PAUSE = 0.1
#: Lanes looked at in a piece, and questions asked of the store (0.2 ms each, in its thread).
_LANES = 2_000
_QUESTIONS = 50
#: Queues at rest of which nothing is known, looked at in a round.
_UNKNOWN = 500
#: What may expire: delayed messages have their time before them, and a replay's record none.
_KINDS = (Kind.QUEUE, Kind.TOPIC)
#: Bytes of messages read at a time.
_READ_BYTES = 256 * 1024


@attrs.define(eq=False)
class Sweep:
    """Goes round all lanes for ever."""

    _log = Logger()

    _store: IStore
    _clock: IReactorTime
    _now: Callable[[], int]
    _directory: Directory
    _journal: Journal
    _supply: Supply
    _stats: BrokerStats
    _stopped: bool = attrs.field(default=False, init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)
    _nap: Deferred[None] | None = attrs.field(default=None, init=False)
    _alarm: IDelayedCall | None = attrs.field(default=None, init=False)
    #: What is left of this piece.
    _lanes: int = attrs.field(default=0, init=False)
    _questions: int = attrs.field(default=0, init=False)

    def start(self) -> None:
        """Begin."""
        self._running = Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: self._log.failure("the sweep for expired messages ended", failure)
        )

    async def stop(self) -> None:
        """End, with the question that is under way."""
        self._stopped = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(0)
        if self._nap is not None:
            self._wake()
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        while not self._stopped:
            await self._sleep(ROUND)
            try:
                await self._go_round()
            except BrokerError as error:
                self._log.warn("cannot look for expired messages: {reason}", reason=error.reason)

    async def _go_round(self) -> None:
        for destination in list(self._directory.logs):  # their names: a queue may come to rest before its turn
            log = self._directory.logs.get(destination)
            if log is None or destination.kind not in _KINDS:
                continue
            for lane in list(log.lanes.values()):
                await self._rest()
                if self._stopped:
                    return
                if not lane.gone and _may_expire(lane):
                    await self._look(lane)
        for queue in self._directory.volatile():
            await self._look_in_memory(queue)
        await self._go_round_dormant()

    async def _go_round_dormant(self) -> None:
        """Wake those of the queues at rest that have something to settle, or of which that is not known."""
        dormant, policies = self._directory.dormant, self._directory.policies
        for _ in range(min(len(dormant.unknown), _UNKNOWN)):
            await self._rest()
            if (name := dormant.unknown.pop()) in dormant and not self._stopped:
                await self._look_at_dormant(name)
        by_policy = policies.speaks_of("ttl")
        for name in dormant.names() if by_policy else list(dormant.expiring):
            await self._rest()
            found = dormant.get(name)
            if found is None or self._stopped:
                continue
            state = found[0]
            due = 0 < state.expiring <= self._now()
            if by_policy and state.waiting and (ttl := policies.of(name).ttl):
                due = due or state.since + ttl * 1000 <= self._now()
            if due:
                await self._look_at_dormant(name)

    async def _look_at_dormant(self, name: str) -> None:
        queue = self._directory.find(name)
        if queue is not None:
            for reader in list(queue.readers):
                await self._look(reader.lane)
            self._supply.usage.rest(queue)

    async def _rest(self) -> None:
        """One more lane is looked at: pause first if there was enough in this piece."""
        self._lanes -= 1
        if self._lanes <= 0 or self._questions <= 0:
            await self._sleep(_PAUSE)

    async def _ask(self) -> None:
        """One more question: the same."""
        self._questions -= 1
        if self._questions <= 0:
            await self._sleep(_PAUSE)

    async def _sleep(self, seconds: float) -> None:
        if not self._stopped:
            self._nap = Deferred()
            self._alarm = self._clock.callLater(seconds, self._wake)
            await self._nap
        self._lanes, self._questions = _LANES, _QUESTIONS

    def _wake(self) -> None:
        nap, self._nap = self._nap, None
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None
        if nap is not None:
            nap.callback(None)

    async def _look(self, lane: Lane) -> None:
        """Settle what has expired in one lane."""
        readers = [reader for reader in lane.readers if reader.waiting > len(reader.on_loan)]
        if readers and lane.expiring and (lane.expiring < 0 or lane.expiring <= self._now()):
            await self._by_message(lane, readers)
        for reader in readers:
            ttl = self._ttl(reader)
            if ttl and reader.since + ttl * 1000 <= self._now():
                await self._ask()
                end = await self._store.seek(lane.id, self._now() - ttl * 1000)
                await self._settle(reader, [(reader.bits.cursor, min(end, reader.terms.until(reader.bits.cursor)))])
                following = await self._store.expired(lane.id, reader.bits.cursor, 0, 1)
                reader.since = max(reader.since, following.stamp)

    async def _look_in_memory(self, queue: Queue) -> None:
        """A look at what would be delivered next settles what has expired before it."""
        more = True
        while more and not self._stopped and not queue.wanted:
            await self._rest()
            queue.rest()
            queue.head(self._now())
            more = queue.unfinished
            self._supply.flush(queue)
            if more:
                await self._sleep(0)

    @staticmethod
    def _ttl(reader: Reader) -> int:
        """How long a message may wait by what the queue or the binding say (ms); 0 = for ever."""
        wishes = (reader.terms.at(reader.bits.cursor).ttl or 0, reader.queue.policy.ttl)
        return min((wish for wish in wishes if wish), default=0)

    async def _by_message(self, lane: Lane, readers: Iterable[Reader]) -> None:
        """What has expired by its own moment."""
        known, lane.expiring = lane.expiring, 0  # what is published meanwhile says when it expires
        following, seq = 0, min(reader.bits.cursor for reader in readers)
        try:
            while seq < lane.next and not self._stopped:
                await self._ask()
                found = await self._store.expired(lane.id, seq, self._now(), _READ_BYTES)
                following = _earlier(following, found.next_expiry)
                for reader in readers:
                    if reader.bits.cursor >= seq:
                        reader.since = max(reader.since, found.stamp)
                    if not await self._settle(reader, found.ranges):
                        following = self._now()
                if found.upto <= seq:
                    break
                seq = found.upto
        except BrokerError:
            following = known
            raise
        finally:
            lane.expiring = -1 if -1 in (following, lane.expiring) else _earlier(lane.expiring, following)

    async def _settle(self, reader: Reader, ranges: Iterable[Range]) -> bool:
        """These have expired, for this reader; False if not all of them could go."""
        queue, gone = reader.queue, True
        for low, high in ranges:
            low = max(low, reader.bits.cursor)
            if low >= high or self._stopped or self._directory.readers.get(reader.id) is not reader:
                continue
            if queue.policy.expire_to:
                # One by one, because each says in its new place where it has been.
                gone = await self._send_away(reader, low, high) and gone
                continue
            before = reader.waiting
            for first, end in reader.settle_range(low, high):
                self._journal.settle(reader, first, end)
            settled = before - reader.waiting
            queue.counts.expired += settled
            self._stats.expired += settled
            self._supply.changed(queue)
        return gone

    async def _send_away(self, reader: Reader, low: int, high: int) -> bool:
        """They go elsewhere, so many at a time as may be on their way; False if they cannot now."""
        queue, seq = reader.queue, reader.bits.next_open(low)
        while seq < high and not self._stopped:
            if queue.crowded:
                await self._sleep(_PAUSE)
                if queue.crowded:
                    return False
            await self._ask()
            batches = await self._store.read(reader.lane.id, seq, _READ_BYTES // 4)
            if not batches or self._directory.readers.get(reader.id) is not reader:
                return True
            for batch in batches:
                seq = self._expire(reader, seq, high, batch)
                if seq >= high or queue.crowded:
                    break
            self._supply.flush(queue)
        return True

    def _expire(self, reader: Reader, low: int, high: int, batch: Batch) -> int:
        """What of a batch has expired goes, if there is room on the way; where to go on."""
        queue = reader.queue
        for seq, message in enumerate(unpack(batch.count, batch.data), batch.base):
            if queue.crowded:
                return seq
            if low <= seq < high and seq not in reader.bits and seq not in reader.on_loan:
                expires = queue.expires(reader, seq, message)
                if expires and expires <= self._now():
                    queue.expire(reader, seq, message)
        return batch.base + batch.count


def _may_expire(lane: Lane) -> bool:
    """False of most lanes: with 10,000 queues, to look more closely takes 20 ms of each second."""
    return bool(lane.expiring) or any(r.queue.policy.ttl or not r.terms.trivial for r in lane.readers)


def _earlier(one: int, other: int) -> int:
    """The earlier of two moments, 0 being none."""
    return min(one, other) if one and other else one or other
