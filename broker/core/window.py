"""Windows: the part of a lane that a reader holds in memory.

A window is a row of runs without gaps other than settled numbers. A run is packed as the store gave it and decoded
when its first message is wanted, or it is the messages themselves, shared with every reader they were published to.
All windows of a broker share one `Budget`.
"""

from __future__ import annotations

from broker.core.message import OVERHEAD, Message, unpack


class Budget:
    """Bytes of memory for all windows together.

    32 MiB by default: half of what a backlog of any size may add to the process (64 MiB), the other half being
    SQLite's caches and the fold.
    """

    def __init__(self, limit: int = 32 * 1024 * 1024) -> None:
        self.limit = limit
        self.used = 0

    @property
    def exceeded(self) -> bool:
        """True while windows hold more than they may: each may hold a batch, and there are many."""
        return self.used > self.limit

    def allowance(self, wanted: bool) -> int:
        """Bytes a single window may hold now; `wanted`: somebody takes from its queue."""
        if self.used < self.limit // 2:
            return 1024 * 1024 if wanted else 64 * 1024
        if self.used < self.limit:
            return 64 * 1024 if wanted else 0
        return 0


class _Run:
    __slots__ = ("base", "count", "data", "messages", "size")

    def __init__(self, base: int, count: int, data: bytes, messages: list[Message] | None, size: int) -> None:
        self.base = base
        self.count = count
        self.data = data
        self.messages = messages
        self.size = size


class Window:
    """What of a lane is in memory, from some number up to `end`."""

    __slots__ = ("_budget", "_runs", "bytes", "end")

    def __init__(self, budget: Budget, end: int = 0) -> None:
        self._budget = budget
        # A list: a deque takes 760 bytes for its first element, and of 2,500 runs the first one goes in 1 us.
        self._runs: list[_Run] | None = None
        #: The number after the last one known here.
        self.end = end
        self.bytes = 0

    @property
    def runs(self) -> int:
        """How many runs are held."""
        return len(self._runs) if self._runs else 0

    def holds(self, seq: int) -> bool:
        """True if number `seq` lies between the first one held and `end`."""
        return bool(self._runs) and self._runs[0].base <= seq < self.end  # type: ignore[index]

    def at(self, seq: int) -> Message | None:
        """Message `seq`, if it is in memory and decoded."""
        for run in self._runs or ():
            if run.messages is not None and run.base <= seq < run.base + run.count:
                return run.messages[seq - run.base]
        return None

    def all(self) -> list[tuple[int, Message]]:
        """The messages held that are decoded, with their numbers."""
        return [
            (run.base + place, message) for run in self._runs or () for place, message in enumerate(run.messages or ())
        ]

    def append(self, base: int, messages: list[Message], size: int) -> None:
        """Take messages that were just published; only where the window ends (`end` == `base`)."""
        self._push(_Run(base, len(messages), b"", messages, size))

    def load(self, base: int, count: int, data: bytes) -> None:
        """Take a stored batch. What of it lies below `end` is passed over; a gap before it is settled."""
        if base + count > self.end:
            self._push(_Run(base, count, data, None, len(data)))

    def head(self, seq: int) -> tuple[int, Message] | None:
        """The first message at or after `seq`, with its number; None if the window holds none.

        What lies below `seq` is dropped, so `seq` must not go back except through `clear`.
        """
        runs = self._runs
        while runs:
            run = runs[0]
            if seq < run.base:
                seq = run.base
            if seq < run.base + run.count:
                if run.messages is None:
                    run.messages = unpack(run.count, run.data)
                    run.data = b""
                    self._count(run, run.count * OVERHEAD)
                return seq, run.messages[seq - run.base]
            del runs[0]
            self._count(run, -run.size)
        self._runs = None
        return None

    def clear(self, seq: int) -> None:
        """Hold nothing; the next run is to begin at `seq`."""
        self._runs = None
        self._budget.used -= self.bytes
        self.bytes = 0
        self.end = seq

    def _push(self, run: _Run) -> None:
        if self._runs is None:
            self._runs = []
        self._runs.append(run)
        self.end = run.base + run.count
        size, run.size = run.size, 0
        self._count(run, size)

    def _count(self, run: _Run, size: int) -> None:
        run.size += size
        self.bytes += size
        self._budget.used += size
