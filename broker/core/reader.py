"""Lanes, and readers: a queue on a lane, and where every message of it stands for that queue.

For one reader a message is settled, or on loan, or given back, or still ahead of the pointer. The container it is in
is its state, so the two cannot disagree.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import attrs

from broker.core.binding import Terms
from broker.core.bits import Bits
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.window import Budget, Window

if TYPE_CHECKING:
    from broker.core.queue import Queue, Subscription

#: Bits of a delivery id below the reader's: 8.6e9 messages a lane, a million readers below JSON's 2**53.
SEQ_BITS = 33
#: Numbers reserved beyond what is delivered, so that one commit in 512 messages carries a reservation.
CLAIM = 512
#: Messages on loan or hidden that stay in memory while they are hidden; others are read again afterwards.
MAX_HIDDEN = 1_000
#: Stands for the message of a loan that is not in memory; it is read when it is wanted.
UNLOADED = Message()
#: Messages given back that stay in memory; beyond it they are read again when their turn comes.
MAX_RETURNED = 65_536


@attrs.define(eq=False)
class Lane:
    """The part of a destination's log that has one priority. Immutable but for its growth."""

    id: int
    destination: Destination
    priority: int
    #: The number the next message gets; everything below is committed.
    next: int = 0
    readers: list[Reader] = attrs.field(factory=list)
    #: False: it lives in memory only, and its readers settle there (topics' live subscribers).
    durable: bool = True
    #: Its queue was deleted: what is still on its way to it is dropped.
    gone: bool = False

    def message_id(self, seq: int) -> str:
        """The id of message `seq`, the same for every reader."""
        return f"{self.id}.{seq}"


class Reader:
    """A queue on a lane."""

    __slots__ = (
        "_kept",
        "_returned",
        "bits",
        "claiming",
        "crashed_below",
        "delivered",
        "failed",
        "id",
        "ids",
        "lane",
        "loading",
        "on_loan",
        "pointer",
        "queue",
        "reserved",
        "terms",
        "window",
    )

    def __init__(self, id: int, queue: Queue, lane: Lane, budget: Budget, cursor: int = 0) -> None:
        self.id = id
        self.queue = queue
        self.lane = lane
        self.bits = Bits(cursor)
        self.terms = Terms()
        #: Everything below was looked at: it is settled, on loan or given back.
        self.pointer = cursor
        self.window = Window(budget, cursor)
        self.on_loan: dict[int, Delivery] = {}
        #: Failed deliveries of what is not settled yet; 0 for what was only released.
        self.failed: dict[int, int] = {}
        #: Nothing at or above this number was delivered yet: on disk.
        self.reserved = cursor
        #: The mark that is on its way to the disk.
        self.claiming = cursor
        #: Nothing at or above this number was ever delivered.
        self.delivered = 0
        #: Below this number a message may have been delivered before the last crash.
        self.crashed_below = 0
        #: True while a read of the store is on its way.
        self.loading = False
        #: Of a live subscriber: the ids under which its messages were published.
        self.ids: dict[int, str] | None = None
        self._returned: list[int] | None = None
        self._kept: dict[int, Message] = {}

    # -- names

    def delivery_id(self, seq: int) -> int:
        """The integer that names message `seq` in this queue."""
        return self.id << SEQ_BITS | (seq + 1)

    def message_id(self, seq: int) -> str:
        """The string that names message `seq` for every reader of its log."""
        return self.ids[seq] if self.ids is not None else self.lane.message_id(seq)

    def priority_of(self, seq: int) -> int:
        """The priority of message `seq` in this queue."""
        wish = self.terms.at(seq).priority
        return self.lane.priority if wish is None else wish

    @property
    def priority(self) -> int:
        """The priority of what the lane gets next, in this queue."""
        return self.priority_of(self.lane.next)

    @property
    def own(self) -> bool:
        """True if the lane belongs to the queue's own log."""
        return self.lane.destination == self.queue.destination

    # -- looking

    @property
    def waiting(self) -> int:
        """Messages not settled, on loan or not."""
        return self.lane.next - self.bits.cursor - self.bits.count

    def head(self) -> tuple[int, Message] | None:
        """The next message this reader has for a consumer, with its number; None: none, or not loaded (`behind`)."""
        ahead = self._ahead()
        if self._returned and (ahead is None or self._returned[0] < ahead[0]):
            seq = self._returned[0]
            return seq, self._kept[seq]
        return ahead

    @property
    def behind(self) -> bool:
        """True if the lane holds more than the window, and nothing in memory comes before it."""
        return not self._returned and self.pointer < self.lane.next and self._ahead() is None

    def _ahead(self) -> tuple[int, Message] | None:
        """The first message at or after the pointer that is free."""
        seq = self.pointer
        while True:
            seq = self.bits.next_open(seq)
            while seq in self.on_loan:
                seq = self.bits.next_open(seq + 1)
            found = self.window.head(seq) if seq < self.lane.next else None
            if found is None or found[0] == seq:
                break
            seq = found[0]  # what lies between is settled by every reader, and no longer stored
        self.pointer = seq
        return found

    # -- moving

    def appended(self, base: int, messages: list[Message], size: int, allowance: int) -> None:
        """Messages were committed to the lane; take them into the window if it ends there and has room."""
        window = self.window
        if window.end < base and self.pointer == base and not window.runs:
            window.end = base
        if window.end == base and window.bytes + size <= allowance:
            window.append(base, messages, size)

    def lend(self, seq: int, message: Message, subscription: Subscription | None, due: int, lease: int) -> Delivery:
        """Put message `seq` on loan; it is the one `head` gave, or one not yet reached."""
        delivery = self.look(seq, message)
        delivery.subscription, delivery.due, delivery.lease = subscription, due, lease
        self.on_loan[seq] = delivery
        self.delivered = max(self.delivered, seq + 1)
        if self._returned and seq in self._kept:
            del self._kept[seq]
            if self._returned[0] == seq:
                heapq.heappop(self._returned)
            else:
                self._returned.remove(seq)
                heapq.heapify(self._returned)
        elif seq == self.pointer:
            self.pointer = seq + 1
        return delivery

    def look(self, seq: int, message: Message) -> Delivery:
        """Message `seq` as it would be delivered, not on loan."""
        failed = self.failed.get(seq)
        return Delivery(self, seq, message, failed or 0, failed is not None or seq < self.crashed_below)

    def give_back(self, delivery: Delivery, attempts: int) -> None:
        """End a loan without settling; the message is back at its old place."""
        seq = delivery.seq
        del self.on_loan[seq]
        self.failed[seq] = attempts
        if seq >= self.pointer:
            return
        if self.lane.durable and (not delivery.message.stamp or len(self._kept) >= MAX_RETURNED):
            self.rewind(seq)
            return
        if self._returned is None:
            self._returned = []
        heapq.heappush(self._returned, seq)
        self._kept[seq] = delivery.message

    def hide(self, delivery: Delivery, until: int) -> Delivery:
        """End a loan as failed, and hold the message back until then (us); what holds it is returned."""
        hidden = self.look(delivery.seq, delivery.message if len(self.on_loan) < MAX_HIDDEN else UNLOADED)
        hidden.attempts, hidden.redelivered = delivery.attempts, True
        hidden.due, hidden.delayed = until, True
        self.on_loan[delivery.seq] = hidden
        return hidden

    def settle(self, seq: int) -> bool:
        """Message `seq` is done for good; False if it was settled already."""
        if not self.bits.add(seq):
            return False
        self.on_loan.pop(seq, None)
        self.failed.pop(seq, None)
        if self.ids is not None:
            self.ids.pop(seq, None)
        if self._kept.pop(seq, None) is not None and self._returned is not None:
            self._returned.remove(seq)
            heapq.heapify(self._returned)
        return True

    def purge(self, keep_loans: bool) -> list[tuple[int, int]]:
        """Settle everything that is there, what is on loan only without `keep_loans`; the ranges settled."""
        start = self.bits.cursor
        edges = sorted(self.on_loan) if keep_loans else []
        lows, highs = [start, *(seq + 1 for seq in edges)], [*edges, self.lane.next]
        ranges = [(low, high) for low, high in zip(lows, highs, strict=True) if low < high]
        for low, high in ranges:
            self.bits.add_range(low, high)
        if not keep_loans:
            self.on_loan.clear()
        self.failed = {seq: attempts for seq, attempts in self.failed.items() if seq in self.on_loan}
        if self.ids is not None:
            self.ids = {seq: name for seq, name in self.ids.items() if seq in self.on_loan}
        self.pointer = self.lane.next
        self.window.clear(self.lane.next)
        self._kept.clear()
        self._returned = None
        return ranges

    def rewind(self, seq: int) -> None:
        """Look again at everything from `seq` on, reading it from the store when it is wanted."""
        self.pointer = min(self.pointer, seq)
        self.window.clear(self.pointer)
        returned = [n for n in self._returned or () if n < self.pointer]
        self._kept = {n: self._kept[n] for n in returned}
        self._returned = returned or None

    def evict(self) -> None:
        """Keep no message in memory."""
        self.rewind(min(self._returned[0], self.pointer) if self._returned else self.pointer)
