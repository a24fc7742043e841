"""What one connection has on loan: its open reads, and what it was sent and may not have got."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.memcache.dialect import Dialect, Key
from broker.memcache.replies import ReadsOpen
from broker.memcache.stats import Counters


class Reads:
    """The reads of one connection, one at a time.

    Open reads are kept per queue, the oldest first; `close` and `abort` are for the oldest (Kestrel).
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

    async def read(self, key: Key) -> Delivery | None:
        """Do what `key` says; the message it is to be answered with, if there is one.

        `ReadsOpen`; `StoreUnavailable` if a close is not on disk.
        """
        name = key.destination.name
        if key.abort:
            if (oldest := self._oldest(name)) is not None:
                self._broker.release([oldest])
            return None
        if key.close:
            if (oldest := self._oldest(name)) is not None and oldest.on_loan:  # else flushed or deleted meanwhile
                await self._broker.ack([oldest])
            if not key.open:
                return None
        self._check(key, self._open.get(name, ()))
        wait = key.wait / 1000 if self._waits else 0.0
        if key.peek:
            self._counters.cmd_peek += 1
            look = self._broker.peek(name, wait=wait)
        else:
            self._counters.cmd_get += 1
            look = self._broker.take(name, wait=wait)
        delivery = await (self._waited(look) if wait else look)
        if delivery is None:
            self._counters.get_misses += 1
            return None
        self._counters.get_hits += 1
        if key.open:
            self._open.setdefault(name, deque()).append(delivery)
        elif not key.peek and delivery.reader.queue.policy.get_settles == "before":
            await self._broker.ack([delivery])
        return delivery

    def _check(self, key: Key, reads: Sequence[Delivery]) -> None:
        """Raise `ReadsOpen` if the reads that are open do not let this one be."""
        if not reads or key.peek:
            return
        if not (key.open or self._dialect.get_while_open):
            raise ReadsOpen("a read of this queue is open, close it first")
        if key.open and len(reads) >= reads[-1].reader.queue.policy.max_open:
            raise ReadsOpen(f"{len(reads)} reads of this queue are open, no more are allowed")

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

    def _oldest(self, name: str) -> Delivery | None:
        """Take the oldest open read of this queue off the list."""
        reads = self._open.get(name)
        if reads is None:
            return None
        oldest = reads.popleft()
        if not reads:
            del self._open[name]
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
        self._broker.nack(held, reason="connection lost")
        return len(held)

    def give_back(self) -> None:
        """We stop: open reads go back without counting as failed."""
        for reads in self._open.values():
            self._broker.release(reads)
        self._open.clear()
