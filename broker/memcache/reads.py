"""What one connection has on loan: its open reads, and what it was sent and may not have got."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.errors import OverLimit
from broker.memcache.dialect import Dialect
from broker.memcache.keys import Key
from broker.memcache.stats import Counters
from broker.memcache.voice import ReadsOpen


class Reads:
    """The reads of one connection, one at a time.

    Open reads are kept per queue, or all together if the dialect says so, the oldest first; `close` and `abort` are for
    the oldest (Kestrel). What was flushed meanwhile, or was open for too long, keeps its place: a close for it must not
    settle the next.
    """

    def __init__(self, broker: Broker, dialect: Dialect, counters: Counters) -> None:
        self._broker = broker
        self._dialect = dialect
        self._counters = counters
        self._open: dict[str, deque[Delivery]] = {}
        self._wait: Deferred[Delivery | None] | None = None
        self._waits = True
        #: Read with a plain get, and not yet out of our send buffer.
        self.unsent: list[Delivery] = []

    @property
    def open(self) -> bool:
        """True while any read is open."""
        return bool(self._open)

    async def read(self, keys: Sequence[Key], room: Callable[[], object], *, look: bool = False) -> Delivery | None:
        """Do what the first of `keys` says, in the queues of all; the message to answer with, if there is one.

        `room` raises `OverLimit` if the client's user may have no more on loan; a close makes room for what it opens.
        `look`: take none, whatever it says. `ReadsOpen`; `StoreUnavailable` if a close is not on disk.
        """
        key, *others = keys
        if key.abort:
            if (oldest := self._take_oldest(key)) is not None:
                self._broker.release([oldest])
            return None
        if key.close:
            await self._close(key)
            if not key.open:
                return None
        self._check(key, look)
        longest = key.wait
        for other in others:
            self._check(other, look)
            longest = max(longest, other.wait)
        if opens := not look and any(one.open for one in keys):
            room()
        wait = longest / 1000 if self._waits else 0.0
        if key.peek or look:
            self._counters.cmd_peek += 1
            looking = self._broker.peek(key.destination.name, wait=wait)
        else:
            self._counters.cmd_get += 1
            name = key.destination.name
            names = [name, *(other.destination.name for other in others)] if others else name
            looking = self._broker.take(names, wait=wait)
        delivery = await (self._waited(looking) if wait else looking)
        if delivery is None:
            self._counters.get_misses += 1
            return None
        if opens:
            try:
                room()  # other reads of his may have used it up meanwhile
            except OverLimit:
                self._broker.release([delivery])
                raise
        self._counters.get_hits += 1
        if look or key.peek:
            return delivery
        if others:
            key = next(one for one in keys if one.destination.name == delivery.queue)
        if key.open:
            self._open.setdefault(self._place(delivery.queue), deque()).append(delivery)
            if most := delivery.reader.queue.policy.open_timeout:
                self._broker.limit(delivery, most)
        elif delivery.reader.queue.policy.get_settles == "before":
            await self._broker.ack([delivery])
        return delivery

    def may_open(self, key: Key) -> bool:
        """True if the connection may have one more open read there."""
        reads = self._reads(key)
        return not reads or len(reads) < self._most(reads)

    async def confirm(self, key: Key, count: int) -> bool:
        """Close the `count` oldest; False, and nothing is closed, if there are not so many."""
        if not 0 < count <= len(self._reads(key)):
            return False
        closed = [self._take_oldest(key) for _ in range(count)]
        await self._broker.ack([delivery for delivery in closed if delivery is not None and delivery.on_loan])
        return True

    def oldest(self, key: Key) -> Delivery | None:
        """The read that a close would be for."""
        reads = self._reads(key)
        return reads[0] if reads else None

    def forget(self, delivery: Delivery) -> None:
        """It was settled by its id: if it is one of ours, no close is to come for it."""
        place = self._place(delivery.queue)
        reads = self._open.get(place, deque())
        if delivery in reads:
            reads.remove(delivery)
            if not reads:
                del self._open[place]

    async def _close(self, key: Key) -> None:
        oldest = self._take_oldest(key)
        if oldest is not None and oldest.on_loan:  # else flushed or deleted meanwhile
            await self._broker.ack([oldest])

    def _check(self, key: Key, look: bool) -> None:
        """Raise `ReadsOpen` if the reads that are open do not let this one be."""
        reads = self._reads(key) if self._open else ()
        if not reads or key.peek or look:
            return
        if not key.open:
            raise ReadsOpen("a read of this queue is open, close it first")
        if len(reads) >= self._most(reads):
            raise ReadsOpen(f"{len(reads)} reads of this queue are open, no more are allowed")

    def _most(self, reads: Sequence[Delivery]) -> int:
        return reads[-1].reader.queue.policy.max_open if self._dialect.open_reads == "queue" else 1

    async def _waited(self, look: Coroutine[Deferred[Any], Any, Delivery | None]) -> Delivery | None:
        self._wait = Deferred.fromCoroutine(look)
        try:
            return await self._wait
        except CancelledError:
            if self._waits:
                raise
            return None  # nothing came for as long as we could wait
        finally:
            self._wait = None

    def _place(self, queue: str) -> str:
        return queue if self._dialect.open_reads == "queue" else ""

    def _reads(self, key: Key) -> Sequence[Delivery]:
        return self._open.get(self._place(key.destination.name), ())

    def _take_oldest(self, key: Key) -> Delivery | None:
        """Take the oldest open read there off the list."""
        place = self._place(key.destination.name)
        reads = self._open.get(place)
        if reads is None:
            return None
        oldest = reads.popleft()
        if not reads:
            del self._open[place]
        return oldest

    def wait_no_more(self) -> None:
        """The wait under way is over without a message, and from now on no read waits for one to come."""
        self._waits = False
        if self._wait is not None:
            self._wait.cancel()

    def sent(self) -> Deferred[None]:
        """Settle what was read with plain gets: it is all out of our send buffer. Fires when that is on disk."""
        sent, self.unsent = self.unsent, []
        return self._broker.ack([delivery for delivery in sent if delivery.on_loan])

    def lost(self) -> int:
        """The client is gone: everything it had goes back as failed. How many messages that was."""
        held = [*self.unsent, *(delivery for reads in self._open.values() for delivery in reads)]
        self.unsent = []
        self._open.clear()
        self._broker.lost(held)
        return len(held)

    def give_back(self) -> None:
        """We stop: open reads go back without counting as failed."""
        for reads in self._open.values():
            self._broker.release(reads)
        self._open.clear()
