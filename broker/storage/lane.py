"""A lane and its readers as committed, and what of the lane somebody still wants.

There may be 100,000 of each: a pair takes 150 bytes, and the collector of cycles has nothing to look for in them.
"""

from __future__ import annotations

import msgspec

from broker.core.bits import CHUNK
from broker.core.store import Failure, Range
from broker.storage.settled import Settled


class Reader(msgspec.Struct, eq=False, gc=False):
    """A reader as committed."""

    id: int
    queue: int
    lane: int
    settled: Settled
    reserved: int = 0
    failures: dict[int, Failure] | None = None


class Lane(msgspec.Struct, eq=False, gc=False):
    """A lane as committed; the fields as in `LaneState`."""

    id: int
    destination: int
    priority: int
    run: int
    next: int = 0
    low: int = 0
    bytes: int = 0
    #: Nothing at or above it may go, whatever is settled; None: nothing is retained.
    keep: int | None = None
    readers: tuple[Reader, ...] = ()

    @property
    def kept(self) -> int:
        """`keep`, as a number: where nothing is retained, the end."""
        return self.next if self.keep is None else min(self.keep, self.next)

    @property
    def floor(self) -> int:
        """Below this number nobody wants anything but stragglers, which are kept apart; all of it when nobody reads."""
        return min([self.next, *[reader.settled.cursor for reader in self.readers]])

    @property
    def unwanted(self) -> int:
        """Below this number every reader has settled everything, and nothing is retained."""
        return min([self.kept, *[reader.settled.first_open for reader in self.readers]])

    def freeable(self) -> list[Range]:
        """Ranges of which nobody wants anything: below the cursors, and whole chunks above them."""
        floor, kept = self.floor, self.kept
        ranges = [(0, floor)]
        if self.readers and all(reader.settled.count or reader.settled.cursor > floor for reader in self.readers):
            full = [(reader.settled.cursor // CHUNK, reader.settled.full_chunks()) for reader in self.readers]
            for number in sorted(set().union(*(chunks for _, chunks in full))):
                if all(number < passed or number in chunks for passed, chunks in full):
                    lo, hi = number * CHUNK, (number + 1) * CHUNK
                    ranges[-1:] = [(ranges[-1][0], hi)] if ranges[-1][1] == lo else [ranges[-1], (lo, hi)]
        return [(lo, min(hi, kept)) for lo, hi in ranges if lo < kept]

    def stragglers(self, seq: int) -> list[tuple[int, int]]:
        """The stragglers from `seq` on, in order, each with a reader that has it."""
        found: dict[int, int] = {}
        for reader in self.readers:
            for straggler in reader.settled.stragglers_in(seq, self.next):
                found.setdefault(straggler, reader.id)
        return sorted(found.items())

    def wanted(self, lo: int, hi: int) -> Range:
        """The shortest range that holds what some reader has not settled in ``lo <= n < hi``; empty: ``(hi, hi)``."""
        first = min((reader.settled.next_open(lo) for reader in self.readers), default=hi)
        if first >= hi:
            return hi, hi
        return first, max(reader.settled.last_open(hi) for reader in self.readers) + 1
