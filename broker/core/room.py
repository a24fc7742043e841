"""The room in a queue: what its policy lets in, and what must go for it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.reader import UNLOADED

if TYPE_CHECKING:
    from broker.core.queue import Queue


class Room:
    """What a queue holds as its limits count it: with what is on its way in, without what is to be dropped for that."""

    __slots__ = ("_dropping", "_dropping_bytes", "_incoming_bytes", "_queue", "incoming")

    def __init__(self, queue: Queue) -> None:
        # Weak, so that a queue that comes to rest is gone at once: a cycle waits for a full collection, of which there
        # are few, and 10,000 queues take 30 MB.
        self._queue: Queue = weakref.proxy(queue)
        #: Messages accepted and not yet committed.
        self.incoming = 0
        self._incoming_bytes = 0
        self._dropping = 0
        self._dropping_bytes = 0

    @property
    def busy(self) -> bool:
        """True while something is on its way in, or chosen to be dropped."""
        return bool(self.incoming or self._dropping)

    def full_for(self, message: Message) -> bool:
        """True if there is none for a further message (``max_messages``, ``max_bytes``). A lone one always has some."""
        queue = self._queue
        limit, most = queue.policy.max_messages, queue.policy.most_bytes
        if not (limit or most):
            return False
        count = queue.waiting + self.incoming - self._dropping
        if limit and count >= limit:
            return True
        taken = queue.bytes + self._incoming_bytes - self._dropping_bytes
        return bool(most) and count > 0 and taken + message.size > most

    def crowded_for(self, message: Message) -> bool:
        """True if a replay leaves it alone: a tenth of the room is for what is published."""
        queue = self._queue
        limit, most = queue.policy.max_messages, queue.policy.most_bytes
        if not (limit or most):
            return False
        count, taken = queue.waiting + self.incoming, queue.bytes + self._incoming_bytes
        if limit and count >= max(limit * 9 // 10, 1):
            return True
        return bool(most) and count > 0 and taken + message.size > most * 9 // 10

    @property
    def overfull(self) -> bool:
        """True if it holds more than it may, because nothing could be dropped while that was on its way in."""
        queue = self._queue
        limit, most = queue.policy.max_messages, queue.policy.most_bytes
        count, taken = queue.waiting - self._dropping, queue.bytes - self._dropping_bytes
        return bool(limit and count > limit) or bool(most and count > 1 and taken > most)

    # -- what comes

    def expect(self, size: int, count: int = 1) -> None:
        """Messages are on their way in."""
        self.incoming += count
        self._incoming_bytes += size

    def expected(self, size: int, count: int = 1) -> None:
        """They have come, or will not."""
        self.incoming -= count
        self._incoming_bytes -= size

    # -- what goes

    def choose(self) -> Delivery | None:
        """Choose what is to be dropped next: the oldest of what is least urgent; None if all is on loan."""
        for reader in sorted(self._queue.readers, key=lambda reader: -reader.priority):
            seq = reader.oldest_free() if reader.waiting > len(reader.on_loan) else None
            if seq is not None:
                size = reader.bytes // reader.waiting
                victim = reader.lend(seq, UNLOADED, None, 0, size)
                victim.claimed = True
                self._dropping += 1
                self._dropping_bytes += size
                return victim
        return None

    def dropped(self, victim: Delivery) -> None:
        """What was chosen is gone."""
        self._decided(victim)
        if victim.on_loan:
            victim.reader.settle(victim.seq)
            self._queue.counts.discarded += 1
            if not victim.reader.lane.durable:
                victim.reader.head()  # lets the window go of it

    def spare(self, victim: Delivery) -> None:
        """What was chosen stays after all."""
        self._decided(victim)
        if victim.on_loan:
            victim.reader.give_back(victim, victim.attempts)

    def _decided(self, victim: Delivery) -> None:
        self._dropping -= 1
        self._dropping_bytes -= victim.lease
