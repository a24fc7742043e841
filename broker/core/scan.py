"""Scans: how far consumers have looked at a lane, and what of it they hold in memory.

The consumers of a queue stand in one line and share one scan of each of its lanes. A consumer with a selector stands in
a line of its own, because what it does not want, the others may. What nobody in the line may take now does not fill the
window: the scan passes over it (`aside`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core.aside import Aside
from broker.core.message import Message
from broker.core.window import Budget, Window

if TYPE_CHECKING:
    from broker.core.reader import Reader

#: Messages given back that stay in memory; beyond it they are read again when their turn comes.
MAX_RETURNED = 65_536


class Scan:
    """One line of consumers, on one lane."""

    __slots__ = ("_aside", "_budget", "_kept", "_lacks_aside", "_returned", "accepts", "lacks", "loading", "pointer",
                 "reader", "window")  # fmt: skip

    def __init__(self, reader: Reader, budget: Budget, accepts: Callable[[Message], bool] | None = None) -> None:
        self.reader = reader
        #: Which messages the line wants; None: all.
        self.accepts = accepts
        #: Everything below was looked at: it is settled, on loan, given back, passed over or not wanted.
        self.pointer = reader.bits.cursor
        self.window = Window(budget, self.pointer)
        #: True while a read of the store is on its way.
        self.loading = False
        #: True if what comes next is not in memory.
        self.lacks = False
        self._lacks_aside = False
        self._budget = budget
        self._returned: list[int] | None = None
        self._kept: dict[int, Message] | None = None
        self._aside: Aside | None = None

    # -- looking

    def head(self) -> tuple[int, Message] | None:
        """The next message for this line, with its number; None: none, or not in memory (`lacks`)."""
        self.lacks = self._lacks_aside = False
        back = self._back()
        waits = self._aside.head(self.reader.bits, self.reader.on_loan) if self._aside is not None else None
        ahead = self._ahead()
        best = back if ahead is None or (back is not None and back[0] < ahead[0]) else ahead
        if waits is not None and (best is None or waits < best[0]):
            return self._from_aside(waits)
        if best is None:
            self.lacks = self.pointer < self.reader.lane.next and not self.reader.queue.unfinished
        return best

    def _back(self) -> tuple[int, Message] | None:
        """The first message that was given back."""
        returned, kept, reader = self._returned, self._kept, self.reader
        while returned:
            assert kept is not None
            seq = returned[0]
            if seq in kept and seq not in reader.on_loan and seq not in reader.bits:
                return seq, kept[seq]
            heapq.heappop(returned)
            kept.pop(seq, None)
        return None

    def _from_aside(self, seq: int) -> tuple[int, Message] | None:
        assert self._aside is not None
        try:
            message = self._aside.message(seq)
        except LookupError:  # it could not be read and is set aside for good
            self._aside.take(seq)
            return self.head()
        if message is None:
            self.lacks = self._lacks_aside = True
            return None
        return seq, message

    def _ahead(self) -> tuple[int, Message] | None:
        """The first message at or after the pointer that is free and wanted."""
        reader = self.reader
        seq, end, on_loan = self.pointer, reader.lane.next, reader.on_loan
        while True:
            seq = reader.bits.next_open(seq)
            while seq in on_loan:
                seq = reader.bits.next_open(seq + 1)
            found = self.window.head(seq) if seq < end else None
            if found is None:
                break
            if found[0] != seq:
                seq = found[0]  # what lies between is settled by every reader, and no longer stored
                continue
            if self.accepts is None or self.accepts(found[1]):
                break
            if not reader.queue.examine(found[1]):
                found = None
                break
            seq += 1
        self.pointer = seq
        if seq >= end and self.window.bytes:
            self.window.clear(end)  # a thousand queues that are drained would each keep their last batch
        return found

    def known(self) -> list[tuple[int, Message]]:
        """Every message that is in memory for this line, with its number; settled ones may be among them."""
        aside = self._aside.kept() if self._aside is not None else ()
        return [*self.window.all(), *(self._kept or {}).items(), *aside]

    # -- loading

    @property
    def appetite(self) -> int:
        """Bytes to load now, as the budget stands; the store gives a batch at least."""
        return self._budget.allowance(True)

    @property
    def wanted(self) -> tuple[Window, int]:
        """The window that lacks messages, and from which number on."""
        if self._lacks_aside:
            assert self._aside is not None
            return self._aside.window, self._aside.window.end
        return self.window, max(self.window.end, self.pointer)

    # -- moving

    def appended(self, base: int, messages: list[Message], size: int, allowance: int) -> None:
        """Messages were committed to the lane; take them into the window if it ends there and has room."""
        window = self.window
        if window.end < base and self.pointer == base and not window.runs:
            window.end = base
        if window.end == base and (window.bytes + size <= allowance or not self.reader.lane.durable):
            window.append(base, messages, size)

    def taken(self, seq: int) -> None:
        """Message `seq` is on loan."""
        if self._kept and self._kept.pop(seq, None) is not None:
            if self._returned and self._returned[0] == seq:
                heapq.heappop(self._returned)
        elif seq == self.pointer:
            self.pointer = seq + 1
        elif self._aside is not None and self._aside.head(self.reader.bits, ()) == seq:
            self._aside.take(seq)

    def set_aside(self, seq: int, group: str, message: Message) -> None:
        """Pass over what `head` gave: nobody may take it while its group is busy."""
        if self._aside is None:
            self._aside = Aside(self._budget, keep=not self.reader.lane.durable)
        if self._kept and seq in self._kept:
            self.taken(seq)
        elif seq == self.pointer:
            self.pointer = seq + 1
        else:
            self._aside.settle_down()
            return
        self._aside.add(seq, group, message)

    def stir(self, group: str) -> None:
        """Somebody may take messages of this group now."""
        if self._aside is not None:
            self._aside.stir(group)

    @property
    def lowest(self) -> int | None:
        """The lowest number below the pointer that is free, given back or passed over."""
        back = self._back()
        lowest = self._aside.lowest if self._aside is not None else None
        if back is None or (lowest is not None and lowest < back[0]):
            return lowest
        return back[0]

    @property
    def passed_over(self) -> int:
        """Messages passed over, waiting for their group."""
        return self._aside.count if self._aside is not None else 0

    def give_back(self, seq: int, message: Message) -> None:
        """Message `seq` is free again."""
        if seq >= self.pointer:
            return
        known = bool(message.stamp)
        if known and self.accepts is not None and not self.accepts(message):
            return
        if self._kept is None:
            self._kept = {}
        if self.reader.lane.durable and (not known or len(self._kept) >= MAX_RETURNED):
            self.rewind(seq)
            return
        if seq not in self._kept:
            if self._returned is None:
                self._returned = []
            heapq.heappush(self._returned, seq)
            self._kept[seq] = message

    def forget(self, seq: int) -> None:
        """Message `seq` is settled."""
        if self._kept:
            self._kept.pop(seq, None)

    def clear(self, seq: int) -> None:
        """Everything below `seq` is settled or on loan."""
        self.pointer = seq
        self.window.clear(seq)
        self._returned = self._kept = self._aside = None

    def rewind(self, seq: int) -> None:
        """Look again at everything from `seq` on, reading it from the store when it is wanted."""
        self.pointer = min(self.pointer, seq)
        self.window.clear(self.pointer)
        returned = [n for n in self._returned or () if n < self.pointer]
        kept = self._kept or {}
        self._kept = {n: kept[n] for n in returned if n in kept} or None
        self._returned = [n for n in returned if n in kept] or None
        if self._aside is not None:
            self._aside.cut(self.pointer)
            self._aside.window.clear(0)

    def evict(self) -> None:
        """Keep no message in memory."""
        lowest = self.lowest
        self.rewind(self.pointer if lowest is None else min(lowest, self.pointer))
        self._aside = None
