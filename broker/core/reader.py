"""Lanes, and readers: a queue on a lane, and where every message of it stands for that queue.

For one reader a message is settled, or on loan, or given back, or still ahead of the pointer. The container it is in
is its state, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from broker.core.binding import Terms
from broker.core.bits import Bits
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.filter import Filter, Subject
from broker.core.message import Message
from broker.core.scan import Scan
from broker.core.window import Budget, Window

if TYPE_CHECKING:
    from broker.core.consumers import Subscription
    from broker.core.queue import Queue

#: Bits of a delivery id below the reader's: 8.6e9 messages a lane, a million readers below JSON's 2**53.
SEQ_BITS = 33
#: Numbers reserved beyond what is delivered, so that one commit in 512 messages carries a reservation.
CLAIM = 512
#: Messages on loan or hidden that stay in memory while they are hidden; others are read again afterwards.
MAX_HIDDEN = 1_000
#: Reasons of failures that a reader remembers.
MAX_REASONS = 1_000
#: Stands for the message of a loan that is not in memory; it is read when it is wanted.
UNLOADED = Message()


@attrs.define(eq=False)
class Lane:
    """The part of a destination's log that has one priority. Immutable but for its growth."""

    id: int
    destination: Destination
    priority: int
    #: The number the next message gets; everything below is committed.
    next: int = 0
    #: 0: what is published; else what replays put in, one at a time for each number (`replays`).
    run: int = 0
    readers: list[Reader] = attrs.field(factory=list)
    #: False: it lives in memory only, and its readers settle there (topics' live subscribers).
    durable: bool = True
    #: Its queue was deleted: what is still on its way to it is dropped.
    gone: bool = False
    #: Nothing at or above this number may go, whatever is settled; -1: nothing is retained.
    keep: int = -1
    #: The earliest moment at which one of its messages expires (us); 0: none does; -1: not known.
    expiring: int = 0

    def link(self) -> None:
        """Have the readers that follow the lane's own queue settle what that settles."""
        own = next((reader for reader in self.readers if reader.own), None)
        for reader in self.readers:
            reader.leader = own if reader.follows and reader is not own else None
        if own is not None:
            own.followers = tuple(reader for reader in self.readers if reader.leader is not None)

    def message_id(self, seq: int) -> str:
        """The id of message `seq`, the same for every reader."""
        return f"{self.id}.{seq}" if self.durable else f"memory.{self.id}.{seq}"


def delivery_id(reader: int, seq: int) -> int:
    """The integer that names message `seq` in the queue whose reader has this id."""
    return reader << SEQ_BITS | (seq + 1)


class Reader:
    """A queue on a lane."""

    __slots__ = (
        "_budget",
        "ahead",
        "bits",
        "bytes",
        "claiming",
        "crashed_below",
        "delivered",
        "failed",
        "followers",
        "follows",
        "id",
        "ids",
        "lane",
        "leader",
        "on_loan",
        "past",
        "queue",
        "reasons",
        "reserved",
        "scans",
        "since",
        "terms",
    )

    def __init__(self, id: int, queue: Queue, lane: Lane, budget: Budget, cursor: int = 0) -> None:
        self.id = id
        self.queue = queue
        self.lane = lane
        self.bits = Bits(cursor)
        self.terms = Terms()
        self.on_loan: dict[int, Delivery] = {}
        #: About how many bytes of memory the messages not settled take, or would take.
        self.bytes = 0
        #: Failed deliveries of what is not settled yet; 0 for what was only released.
        self.failed: dict[int, int] = {}
        #: Why, and when (us; 0: before the last start), deliveries of what is not settled yet failed last.
        self.reasons: dict[int, tuple[str, int]] = {}
        #: Nothing at or above this number was delivered yet: on disk.
        self.reserved = cursor
        #: The mark that is on its way to the disk.
        self.claiming = cursor
        #: Nothing at or above this number was ever delivered.
        self.delivered = 0
        #: Below this number a message may have been delivered before the last crash.
        self.crashed_below = 0
        #: Of a live subscriber: the ids under which its messages were published.
        self.ids: dict[int, str] | None = None
        #: Of a binding that began in the past: up to which number the filter is still to be asked.
        self.past: tuple[int, Filter] | None = None
        #: True if what the lane's own queue settles is settled here too; that queue's reader; and there, who does that.
        self.follows = False
        self.leader: Reader | None = None
        self.followers: tuple[Reader, ...] = ()
        #: That of the consumers without a selector, and those of others. A queue nobody has used has none.
        self.scans: tuple[Scan, ...] = ()
        #: When this number is delivered the last batch in memory is begun: time to read on. -1: nothing was read.
        self.ahead = -1
        #: The stamp of the oldest message not settled, or of one that was.
        self.since = 0
        self._budget = budget

    # -- names

    def delivery_id(self, seq: int) -> int:
        """The integer that names message `seq` in this queue."""
        return delivery_id(self.id, seq)

    def message_id(self, seq: int) -> str:
        """The string that names message `seq` for every reader of its log."""
        return self.ids[seq] if self.ids is not None else self.lane.message_id(seq)

    def priority_of(self, seq: int) -> int:
        """The priority of message `seq` in this queue."""
        if self.queue.policy.priority == "off":
            return 0
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

    @property
    def oldest(self) -> int:
        """About the stamp of its oldest message; 0 if nobody knows."""
        known = [delivery.message.stamp for delivery in islice(self.on_loan.values(), 1)]
        if self.scans and (ahead := self.scans[0].head()) is not None:
            known.append(ahead[1].stamp)
        self.since = max(self.since, min((stamp for stamp in known if stamp), default=0))
        return self.since

    @property
    def at_rest(self) -> bool:
        """True if every message is settled, or waits as it came."""
        odd = self.on_loan or self.failed or self.reasons or self.bits.count or self.scans or self.ids
        return not odd and self.terms.trivial and self.claiming == self.reserved

    def unwanted(self, seq: int, message: Message) -> bool:
        """True if the queue it follows has settled message `seq`, or the filter of its past is not true of it."""
        if self.leader is not None and seq in self.leader.bits:
            return True
        if self.past is None or seq >= self.past[0]:
            return False
        return not self.past[1].matches(Subject(message, self.lane.destination))

    def oldest_free(self) -> int | None:
        """The number of the oldest message that is on loan to nobody; None if there is none."""
        lowest = self.scan.lowest
        ahead = self.bits.next_open(self.scan.pointer)
        while ahead in self.on_loan:
            ahead = self.bits.next_open(ahead + 1)
        if lowest is None or ahead < lowest:
            return ahead if ahead < self.lane.next else None
        return lowest

    @property
    def scan(self) -> Scan:
        """That of the consumers without a selector."""
        if not self.scans:
            self.scans = (Scan(self, self._budget),)
        return self.scans[0]

    def open_scan(self, accepts: Callable[[Message], bool]) -> Scan:
        """A scan for a consumer that wants some messages only, from the oldest on."""
        scan = Scan(self, self._budget, accepts)
        self.scans = (self.scan, *self.scans[1:], scan)
        return scan

    def close_scan(self, scan: Scan) -> None:
        """Its consumer is gone."""
        scan.clear(self.lane.next)
        self.scans = tuple(other for other in self.scans if other is not scan)

    @property
    def window(self) -> Window:
        """What is in memory for the consumers without a selector."""
        return self.scan.window

    def head(self) -> tuple[int, Message] | None:
        """The next message for a consumer without a selector, with its number; None: none, or not in memory."""
        return self.scan.head()

    # -- moving

    def appended(self, base: int, messages: list[Message], size: int, allowance: int) -> None:
        """Messages were committed to the lane: they may be taken into memory."""
        if not self.scans:
            self.scan.clear(self.bits.cursor)
        for scan in self.scans:
            scan.appended(base, messages, size, allowance)

    def lend(self, seq: int, message: Message, subscription: Subscription | None, due: int, lease: int) -> Delivery:
        """Put message `seq` on loan; it is the one `head` gave, or one not yet reached."""
        delivery = self.look(seq, message)
        delivery.subscription, delivery.due, delivery.lease = subscription, due, lease
        self.on_loan[seq] = delivery
        self.delivered = max(self.delivered, seq + 1)
        for scan in self.scans:
            scan.taken(seq)
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
        for scan in self.scans:
            scan.give_back(seq, delivery.message)

    def remember(self, seq: int, reason: str, now: int) -> None:
        """A delivery of message `seq` failed, for people who ask; of very many only the latest are known."""
        self.reasons.pop(seq, None)
        if reason:
            self.reasons[seq] = reason, now
        if len(self.reasons) > MAX_REASONS:
            del self.reasons[next(iter(self.reasons))]

    def hide(self, delivery: Delivery, until: int) -> Delivery:
        """End a loan as failed, and hold the message back until then (us); what holds it is returned."""
        keep = len(self.on_loan) < MAX_HIDDEN or not self.lane.durable
        hidden = self.look(delivery.seq, delivery.message if keep else UNLOADED)
        hidden.attempts, hidden.redelivered, hidden.group = delivery.attempts, True, delivery.group
        hidden.due, hidden.delayed = until, True
        self.on_loan[delivery.seq] = hidden
        return hidden

    def settle(self, seq: int, message: Message = UNLOADED) -> bool:
        """Message `seq` is done for good; False if it was settled already."""
        before = self.waiting
        if not self.bits.add(seq):
            return False
        self.bytes -= message.size if message.stamp else self.bytes // before
        if before == 1:
            self.bytes = 0
        self.on_loan.pop(seq, None)
        if not self.on_loan:
            self.on_loan.clear()  # 160 bytes in each of very many queues
        self.failed.pop(seq, None)
        self.reasons.pop(seq, None)
        if self.ids is not None:
            self.ids.pop(seq, None)
        for scan in self.scans:
            scan.forget(seq)
        return True

    def free(self, low: int, high: int) -> list[tuple[int, int]]:
        """What of ``low <= seq < high`` is not on loan."""
        if high - low == 1:
            return [] if low in self.on_loan else [(low, high)]
        edges = sorted(seq for seq in self.on_loan if low <= seq < high)
        lows, highs = [low, *(seq + 1 for seq in edges)], [*edges, high]
        return [(first, end) for first, end in zip(lows, highs, strict=True) if first < end]

    def settle_range(self, low: int, high: int) -> list[tuple[int, int]]:
        """Settle what is not on loan of ``low <= seq < high``; the ranges settled."""
        ranges = self.free(low, high)
        before = self.waiting
        for first, end in ranges:
            self.bits.add_range(first, end)
        self.bytes = self.bytes * self.waiting // before if before else 0
        if self.failed:
            self.failed = {seq: n for seq, n in self.failed.items() if not low <= seq < high or seq in self.on_loan}
        return ranges

    def follow(self, low: int, high: int) -> list[tuple[int, int]]:
        """The queue it follows settles ``low <= seq < high``; what of it is on loan here waits for its own end."""
        before = self.waiting
        ranges = self.settle_range(low, high)
        self.queue.counts.settled += before - self.waiting
        return ranges

    def purge(self, keep_loans: bool) -> list[tuple[int, int]]:
        """Settle everything that is there, what is on loan only without `keep_loans`; the ranges settled."""
        if not keep_loans:
            self.on_loan.clear()
        ranges = self.settle_range(self.bits.cursor, self.lane.next)
        if self.ids is not None:
            self.ids = {seq: name for seq, name in self.ids.items() if seq in self.on_loan}
        for scan in self.scans:
            scan.clear(self.lane.next)
        return ranges

    def rewind(self, seq: int) -> None:
        """Look again at everything from `seq` on, reading it from the store when it is wanted."""
        for scan in self.scans:
            scan.rewind(seq)

    def evict(self) -> None:
        """Keep no message in memory."""
        if self.lane.durable:
            for scan in self.scans:
                scan.evict()
            if len(self.scans) == 1:
                self.scans = ()
