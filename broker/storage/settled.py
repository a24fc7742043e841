"""The settled set of a reader, as the stores need it: chunk by chunk, and with stragglers behind the cursor."""

from __future__ import annotations

from bisect import bisect_left

from broker.core.bits import CHUNK, Bits
from broker.core.store import Range

#: A chunk of which everything is settled.
FULL = (1 << CHUNK) - 1
_NONE: list[int] = []


class Settled(Bits):
    """A settled set whose chunks can be written and loaded one by one.

    *Stragglers* are numbers below the cursor that are not settled: few, and far behind what is read. Their messages are
    kept apart, so that the cursor need not wait for them.
    """

    __slots__ = ("stragglers",)

    def __init__(self, cursor: int = 0) -> None:
        super().__init__(cursor)
        #: In order. Most readers have none: they share an empty list, which nothing is put into.
        self.stragglers = _NONE

    @property
    def first_open(self) -> int:
        """The first number that is not settled, stragglers included."""
        return self.stragglers[0] if self.stragglers else self.cursor

    def __contains__(self, seq: int) -> bool:
        if seq < self.cursor:
            place = bisect_left(self.stragglers, seq)
            return self.stragglers[place : place + 1] != [seq]
        return super().__contains__(seq)

    def stragglers_in(self, low: int, high: int) -> list[int]:
        """The stragglers in ``low <= seq < high``."""
        stragglers = self.stragglers
        return stragglers[bisect_left(stragglers, low) : bisect_left(stragglers, high)] if stragglers else []

    def add_range(self, low: int, high: int) -> int:
        """See `Bits.add_range`."""
        added = 0
        if self.stragglers and low < self.cursor:
            first, end = bisect_left(self.stragglers, low), bisect_left(self.stragglers, high)
            added = max(end - first, 0)
            del self.stragglers[first:end]
        return added + super().add_range(low, high)

    def next_open(self, seq: int) -> int:
        """See `Bits.next_open`."""
        if self.stragglers and seq <= self.stragglers[-1]:
            return self.stragglers[bisect_left(self.stragglers, seq)]
        return super().next_open(seq)

    def pass_over(self, stragglers: list[int], cursor: int) -> None:
        """Move the cursor on, to or beyond `cursor`; what is not settled below it is exactly `stragglers`."""
        self._forget(self.cursor, cursor)
        self.cursor = cursor
        self.keep_apart(stragglers)
        if self.count:
            self._advance()

    def keep_apart(self, stragglers: list[int]) -> None:
        """These, below the cursor and behind those known, are not settled."""
        if stragglers:
            self.stragglers = self.stragglers + stragglers

    def state(self) -> tuple[int, list[Range]]:
        """The same without stragglers: the first number that is not settled, and the ranges above it that are."""
        if not self.stragglers:
            return self.cursor, self.ranges()
        gaps = zip(self.stragglers, [*self.stragglers[1:], self.cursor], strict=True)
        return self.stragglers[0], [(low + 1, high) for low, high in gaps if low + 1 < high] + self.ranges()

    def chunk(self, number: int) -> int:
        """The bits above the cursor of one chunk; 0: there is nothing to keep of it."""
        mask = self._chunks.get(number, 0) if self._chunks else 0
        passed = min(max(self.cursor - number * CHUNK, 0), CHUNK)
        return mask >> passed << passed

    def load(self, number: int, mask: int) -> None:
        """Take one chunk as `chunk` gave it."""
        passed = min(max(self.cursor - number * CHUNK, 0), CHUNK)
        mask = mask >> passed << passed
        if mask:
            if self._chunks is None:
                self._chunks = {}
            self._chunks[number] = mask
            self.count += mask.bit_count()

    def loaded(self) -> bool:
        """All chunks are loaded; True if the cursor has moved over some of it."""
        cursor = self.cursor
        if self.count:
            self._advance()
        return self.cursor != cursor

    def last_open(self, seq: int) -> int:
        """The last number before `seq` that is not settled; if there is none, one that is below all that are not."""
        while seq > self.cursor:
            number, width = (seq - 1) // CHUNK, (seq - 1) % CHUNK + 1
            free = ~self.chunk(number) & ((1 << width) - 1)
            if free:
                return number * CHUNK + free.bit_length() - 1
            seq -= width
        place = bisect_left(self.stragglers, min(seq, self.cursor))
        return self.stragglers[place - 1] if place else -1

    def open_in(self, number: int, most: int) -> list[int] | None:
        """What is not settled of one chunk, from the cursor on; None if it is more than `most`."""
        base = number * CHUNK
        passed = min(max(self.cursor - base, 0), CHUNK)
        free = FULL & ~self.chunk(number) >> passed << passed
        if free.bit_count() > most:
            return None
        found = []
        while free:
            lowest = free & -free
            found.append(base + lowest.bit_length() - 1)
            free ^= lowest
        return found

    def is_full(self, number: int) -> bool:
        """True if everything in a chunk is settled and the cursor has not passed it."""
        return self._chunks is not None and self._chunks.get(number) == FULL

    def full_chunks(self) -> set[int]:
        """The chunks of which `is_full` is true."""
        return {number for number, mask in self._chunks.items() if mask == FULL} if self._chunks else set()
