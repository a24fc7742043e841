"""When things end: loans, and whatever else has a last moment.

A heap with lazy deletion; when stale entries outnumber the live ones it is rebuilt, so that a million settled loans
leave nothing behind.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

#: Seconds after which one looks again at what is due, whenever that is: the wall clock may have been set forward.
LONGEST = 60.0
#: Below this many entries a rebuild costs more than it frees.
_MIN_REBUILD = 64


class Deadlines(Generic[T]):
    """Things with a moment (microseconds). Each thing has one; setting it again moves it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        self._live: dict[T, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._live)

    def set(self, thing: T, when: int) -> None:
        """`thing` ends at `when`."""
        self._count += 1
        self._live[thing] = self._count
        heapq.heappush(self._heap, (when, self._count, thing))
        if len(self._heap) > max(_MIN_REBUILD, 2 * len(self._live)):
            self._heap = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def discard(self, thing: T) -> None:
        """`thing` no longer ends by itself."""
        self._live.pop(thing, None)

    def next(self) -> int | None:
        """The next moment at which something ends."""
        heap = self._heap
        while heap and self._live.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: int, limit: int) -> list[T]:
        """Take out at most `limit` things whose moment has come, in order."""
        ended: list[T] = []
        while len(ended) < limit and (when := self.next()) is not None and when <= now:
            thing = heapq.heappop(self._heap)[2]
            del self._live[thing]
            ended.append(thing)
        return ended
