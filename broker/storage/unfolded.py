"""Where the messages are that no fold has moved yet: an index of the records' parts, in memory.

It is bounded by the fold's thresholds, whatever the backlog.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import attrgetter
from typing import Final

import msgspec

from broker.storage.record import Directory, Part

#: A fold is due when this much waits for it.
FOLD_BYTES: Final = 4 * 1024 * 1024
FOLD_PARTS: Final = 20_000
FOLD_RECORDS: Final = 4_000


class Place(msgspec.Struct, gc=False):
    """A part, and the record it is in."""

    cid: int
    #: Bytes of the record's data.
    size: int
    part: Part


_cid = attrgetter("cid")
_base = attrgetter("part.base")
_t0 = attrgetter("part.t0")
_before = attrgetter("part.before")


class Unfolded:
    """The records in the file, and their parts by lane."""

    def __init__(self) -> None:
        #: (cid, bytes, parts) of every record, oldest first.
        self.records: deque[tuple[int, int, int]] = deque()
        self.lanes: dict[int, list[Place]] = {}
        self.bytes = 0
        self.parts = 0

    def add(self, cid: int, size: int, written: int, directory: Directory) -> None:
        """A record was written; `size`: bytes of its data, `written`: its directory too."""
        parts = 0
        for part in directory.parts:
            if part.offset >= 0:
                self.lanes.setdefault(part.lane, []).append(Place(cid, size, part))
                parts += 1
        self.records.append((cid, written, parts))
        self.bytes += written
        self.parts += parts

    @property
    def due(self) -> bool:
        """True if a fold is due."""
        return self.bytes >= FOLD_BYTES or self.parts >= FOLD_PARTS or len(self.records) >= FOLD_RECORDS

    def upto(self) -> int:
        """The last record the next fold takes: all there are, but not much more than a fold is meant to hold."""
        size = parts = cid = 0
        for record in self.records:
            cid = record[0]
            size += record[1]
            parts += record[2]
            if size >= 2 * FOLD_BYTES or parts >= 2 * FOLD_PARTS:
                break
        return cid

    def forget(self, upto: int) -> None:
        """The records up to this one are gone."""
        while self.records and self.records[0][0] <= upto:
            _, size, parts = self.records.popleft()
            self.bytes -= size
            self.parts -= parts
        for lane in list(self.lanes):
            places = self.lanes[lane]
            if places[0].cid <= upto:
                del places[: bisect_right(places, upto, key=_cid)]
                if not places:
                    del self.lanes[lane]

    def from_number(self, lane: int, seq: int, max_bytes: int) -> tuple[list[Place], bool]:
        """The parts of `lane` that end after `seq`: about `max_bytes`, one at least; and whether there are more."""
        places = self.lanes.get(lane, [])
        first = self._first(places, seq)
        size, end = 0, first
        while end < len(places) and (size < max_bytes or end == first):
            size += places[end].part.length
            end += 1
        return places[first:end], end < len(places)

    def some(self, lane: int, seq: int, most: int) -> tuple[list[Place], bool]:
        """At most `most` parts of `lane` that end after `seq`, and whether there are more."""
        places = self.lanes.get(lane, [])
        first = self._first(places, seq)
        return places[first : first + most], first + most < len(places)

    def _first(self, places: list[Place], seq: int) -> int:
        first = max(bisect_right(places, seq, key=_base) - 1, 0)
        if first < len(places) and places[first].part.base + places[first].part.count <= seq:
            first += 1
        return first

    def around(self, lane: int, stamp: int) -> tuple[Place | None, int | None]:
        """The last part that begins before `stamp`, and the first number of the part after it."""
        places = self.lanes.get(lane, [])
        return self._around(places, bisect_left(places, stamp, key=_t0))

    def around_byte(self, lane: int, byte: int) -> tuple[Place | None, int | None]:
        """The last part that begins at or before that byte of the lane, and the first number of the part after it."""
        places = self.lanes.get(lane, [])
        return self._around(places, bisect_right(places, byte, key=_before))

    def _around(self, places: list[Place], place: int) -> tuple[Place | None, int | None]:
        return places[place - 1] if place else None, places[place].part.base if place < len(places) else None
