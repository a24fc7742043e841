"""What a scan has passed over: messages of groups that somebody else works on, remembered as ranges of numbers.

A message group is worked on by one consumer at a time. What lies in the log for a busy group is passed over, so that it
does not stand in the way of others, and is looked at again when the group is free. A million messages in a row of one
group are one range here.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Container, Iterable

from broker.core.bits import Bits
from broker.core.message import Message
from broker.core.window import Budget, Window


class Aside:
    """The numbers passed over, by group; each group's in order."""

    __slots__ = ("_at", "_kept", "_places", "_ranges", "_stirred", "count", "window")

    def __init__(self, budget: Budget, keep: bool) -> None:
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        #: How many of a group's ranges are used up, so that taking the first costs nothing.
        self._at: dict[str, int] = {}
        #: First numbers of the groups that may have become free, with the group.
        self._stirred: list[tuple[int, str]] = []
        #: The number each of them stands at there; an entry with another is stale. A group that is stirred with every
        #: ack is looked at once, not as often as it was stirred.
        self._places: dict[str, int] = {}
        self._kept: dict[int, Message] | None = {} if keep else None
        self.window = Window(budget)
        #: Numbers in it, settled ones included until they are come upon.
        self.count = 0

    def add(self, seq: int, group: str, message: Message) -> None:
        """Pass over a message."""
        ranges = self._ranges.setdefault(group, [])
        if ranges and ranges[-1][1] == seq:
            ranges[-1] = (ranges[-1][0], seq + 1)
        elif not ranges or ranges[-1][1] < seq:
            ranges.append((seq, seq + 1))
        else:  # it was given back, and was passed over before what is here
            start = self._at.pop(group, 0)
            del ranges[:start]
            ranges.insert(bisect_left(ranges, (seq, seq)), (seq, seq + 1))
        self.count += 1
        if self._kept is not None:
            self._kept[seq] = message

    def kept(self) -> Iterable[tuple[int, Message]]:
        """The messages in it that are nowhere else."""
        return (self._kept or {}).items()

    def stir(self, group: str) -> None:
        """Somebody may take messages of this group now."""
        if group in self._ranges:
            self._stand_at(self._ranges[group][self._at.get(group, 0)][0], group)

    def _stand_at(self, seq: int, group: str) -> None:
        known = self._places.get(group)
        if known is None or seq < known:
            self._places[group] = seq
            heapq.heappush(self._stirred, (seq, group))

    def settle_down(self) -> None:
        """The group at the head is busy after all."""
        self._pop()

    def _pop(self) -> str:
        seq, group = heapq.heappop(self._stirred)
        if self._places.get(group) == seq:
            del self._places[group]
        return group

    def head(self, bits: Bits, on_loan: Container[int]) -> int | None:
        """The lowest number that may be free; None if there is none."""
        while self._stirred:
            seq, group = self._stirred[0]
            if self._places.get(group) != seq:
                heapq.heappop(self._stirred)
                continue
            first = self._first(group, bits, on_loan)
            if first == seq:
                return seq
            self._pop()
            if first is not None:
                self._stand_at(first, group)
        return None

    def message(self, seq: int) -> Message | None:
        """Message `seq`, or None: it must be loaded into the window first. `LookupError`: it is not stored."""
        if self._kept is not None:
            return self._kept[seq]
        window = self.window
        if not window.holds(seq):
            window.clear(seq)
            return None
        found = window.head(seq)
        if found is None or found[0] != seq:
            raise LookupError(seq)
        return found[1]

    def take(self, seq: int) -> None:
        """The head is wanted, or is no more."""
        group = self._pop()
        self._drop_first(group)
        self.stir(group)

    def cut(self, seq: int) -> None:
        """Forget everything at or above `seq`."""
        for group in list(self._ranges):
            ranges = self._ranges[group][self._at.pop(group, 0) :]
            kept = [(low, min(high, seq)) for low, high in ranges if low < seq]
            self.count -= sum(high - low for low, high in ranges) - sum(high - low for low, high in kept)
            if kept:
                self._ranges[group] = kept
            else:
                del self._ranges[group]
        self._places = {group: low for group, low in self._places.items() if low < seq}
        self._stirred = sorted((low, group) for group, low in self._places.items())

    @property
    def lowest(self) -> int | None:
        """The lowest number in it."""
        return min((ranges[self._at.get(group, 0)][0] for group, ranges in self._ranges.items()), default=None)

    def _first(self, group: str, bits: Bits, on_loan: Container[int]) -> int | None:
        """The group's first number that is neither settled nor on loan; others are dropped on the way."""
        while group in self._ranges:
            low, high = self._ranges[group][self._at.get(group, 0)]
            open_ = min(bits.next_open(low), high)
            if open_ == low and low not in on_loan:
                return low
            self._drop_first(group, max(open_ - low, 1))
        return None

    def _drop_first(self, group: str, count: int = 1) -> None:
        ranges, at = self._ranges[group], self._at.get(group, 0)
        low, high = ranges[at]
        self.count -= count
        if self._kept is not None:
            for seq in range(low, low + count):
                self._kept.pop(seq, None)
        if low + count < high:
            ranges[at] = (low + count, high)
        elif at + 1 < len(ranges):
            self._at[group] = at + 1
            if at > 64 and at * 2 > len(ranges):
                del ranges[: self._at.pop(group)]
        else:
            del self._ranges[group]
            self._at.pop(group, None)
