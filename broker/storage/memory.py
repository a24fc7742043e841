"""The store in memory: the reference, what ``:memory:`` means, and what most tests run on.

A `MemoryStore` outlives its broker: opened again without a `close`, it is what a file would be after a crash.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from broker.core.message import unpack
from broker.core.store import Batch, Committed, Expired, Group, Inventory, IStore, Sizes
from broker.errors import BrokerError, StoreUnavailable
from broker.storage import record
from broker.storage.expiring import Run, look
from broker.storage.ledger import Ledger
from broker.storage.record import Row

#: Keys of publishers among which expired ones are not looked for.
_KEYS: Final = 1024


def _base(row: Row) -> int:
    return row.base


def _data(row: Row) -> bytes:
    return row.data


@implementer(IStore)
class MemoryStore:
    """Messages and marks in memory.

    `hold`: a commit waits for `release_commit` or `fail_commit`; tests stand between a commit's steps with it. It may
    be switched at any time; otherwise a commit is done when `commit` returns, or in the next reactor turn of `clock`:
    what all connections say in one turn then shares a commit, 15 us less for each of them.
    """

    def __init__(self, *, hold: bool = False, clock: IReactorTime | None = None) -> None:
        self.hold = hold
        self._clock = clock
        #: Groups committed since it was made, for tests that count.
        self.commits = 0
        self._ledger = Ledger()
        self._batches: dict[int, list[Row]] = {}
        self._held: tuple[Group, Deferred[Committed]] | None = None
        self._opened = False
        self._unclean_starts = 0
        self._most_keys = _KEYS

    # -- the contract

    def open(self) -> Deferred[Inventory]:
        """See `IStore.open`. What was held when the broker "crashed" is forgotten."""
        self._held = None
        self._opened = True
        inventory = self._ledger.inventory(self._unclean_starts)
        self._unclean_starts += 1
        return succeed(inventory)

    def commit(self, group: Group) -> Deferred[Committed]:
        """See `IStore.commit`."""
        if not self._opened:
            return fail(StoreUnavailable("the store is closed"))
        if self._held is not None:
            raise RuntimeError("a commit is under way")
        if not (self.hold or self._clock):
            try:
                return succeed(self._commit(group))
            except BrokerError as error:
                return fail(error)
        held: Deferred[Committed] = Deferred()
        self._held = group, held
        if self._clock is not None and not self.hold:
            self._clock.callLater(0, self._next_turn)
        return held

    def _next_turn(self) -> None:
        if self._held is not None:  # else the store was closed
            self.release_commit()

    def read(self, lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        """See `IStore.read`."""
        rows = self._rows_of(lane)
        place = max(bisect_right(rows, seq, key=_base) - 1, 0)
        if place < len(rows) and rows[place].base + rows[place].count <= seq:
            place += 1
        found: list[Batch] = []
        size = 0
        while place < len(rows) and (not found or size + len(rows[place].data) <= max_bytes):
            row = rows[place]
            found.append(Batch(lane, row.base, row.count, row.data))
            size += len(row.data)
            place += 1
        return succeed(found)

    def seek(self, lane: int, stamp: int) -> Deferred[int]:
        """See `IStore.seek`."""
        rows = self._rows_of(lane)
        place = bisect_left(rows, stamp, key=lambda row: row.t0)
        if place:
            row = rows[place - 1]
            stamps = [message.stamp for message in unpack(row.count, row.data)]
            if stamps[-1] >= stamp:
                return succeed(row.base + bisect_left(stamps, stamp))
        if place < len(rows):
            return succeed(rows[place].base)
        known = self._ledger.lanes.get(lane)
        return succeed(known.next if known is not None else 0)

    def seek_bytes(self, lane: int, size: int) -> Deferred[int]:
        """See `IStore.seek_bytes`."""
        known = self._ledger.lanes.get(lane)
        if known is None:
            return succeed(0)
        rows = self._rows_of(lane)
        byte = max(known.bytes - size, 0)
        place = bisect_right(rows, byte, key=lambda row: row.before)
        if place and rows[place - 1].before + len(rows[place - 1].data) > byte:
            place -= 1
        return succeed(rows[place].base if place < len(rows) else known.next)

    def expired(self, lane: int, seq: int, now: int, max_bytes: int) -> Deferred[Expired]:
        """See `IStore.expired`."""
        known = self._ledger.lanes.get(lane)
        if known is None:
            return succeed(Expired())
        rows = self._rows_of(lane)
        place = max(bisect_right(rows, seq, key=_base) - 1, 0)
        runs = (
            Run(row.base, row.count, row.next_expiry, row.max_expiry, row.t0, partial(_data, row))
            for row in islice(rows, place, None)
            if row.base + row.count > seq
        )
        return succeed(look(lane, runs, seq, known.next, now, max_bytes)[0])

    def trim(self, budget: int, keep: Mapping[int, int] = {}) -> Deferred[int]:
        """See `IStore.trim`."""
        ledger = self._ledger
        ledger.retain(keep)
        freed = 0
        while ledger.gone and freed < budget:
            freed += sum(len(row.data) for row in self._batches.pop(ledger.gone.pop(), []))
        while ledger.moved and freed < budget:
            lane = ledger.lanes[ledger.moved.pop()]
            rows = self._batches.get(lane.id, [])
            for lo, hi in lane.freeable():
                first = end = bisect_left(rows, lo, key=_base)
                while end < len(rows) and rows[end].base + rows[end].count <= hi and freed < budget:
                    freed += len(rows[end].data)
                    end += 1
                del rows[first:end]
            if freed >= budget:
                ledger.moved.add(lane.id)  # perhaps there is more in this one
            elif lane.low < (low := lane.unwanted):
                lane.low = low
        return succeed(freed)

    def measure(self) -> Deferred[Sizes]:
        """See `IStore.measure`."""
        return succeed(Sizes(data=sum(len(row.data) for rows in self._batches.values() for row in rows)))

    def close(self) -> Deferred[None]:
        """See `IStore.close`. A commit that is still held fails."""
        if self._held is not None:
            self.fail_commit()
        if self._opened:
            self._opened = False
            self._unclean_starts = 0
        return succeed(None)

    # -- for tests

    @property
    def held(self) -> Group | None:
        """The group whose commit is held."""
        return None if self._held is None else self._held[0]

    def release_commit(self) -> None:
        """Let the held commit happen."""
        group, told = self._take_held()
        try:
            committed = self._commit(group)
        except BrokerError as error:
            told.errback(error)
        else:
            told.callback(committed)

    def fail_commit(self, error: Exception | None = None) -> None:
        """Let the held commit fail, with `StoreUnavailable` if nothing else is said."""
        _, told = self._take_held()
        told.errback(error or StoreUnavailable("the commit was made to fail"))

    def _take_held(self) -> tuple[Group, Deferred[Committed]]:
        if self._held is None:
            raise RuntimeError("no commit is held")
        held, self._held = self._held, None
        return held

    # -- inside

    def _rows_of(self, lane: int) -> list[Row]:
        return self._batches.get(lane, []) if lane in self._ledger.lanes else []

    def _commit(self, group: Group) -> Committed:
        ledger = self._ledger
        bases = ledger.allot(group)
        if record.empty(group):
            return Committed(bases)
        written = record.build(group, bases, ledger.before(group))
        # A directory is applied as it would be read back.
        ledger.apply(record.decode(record.encode(written.directory)))
        for part in written.directory.parts:
            if part.lane in ledger.lanes and part.offset >= 0:
                self._batches.setdefault(part.lane, []).append(
                    Row(
                        part.lane,
                        part.base,
                        part.count,
                        part.before,
                        part.next_expiry,
                        part.max_expiry,
                        part.t0,
                        written.data[part.offset : part.offset + part.length],
                    )
                )
        for row in written.rows:
            if row.lane in ledger.lanes:
                self._batches.setdefault(row.lane, []).append(row)
        if len(ledger.keys) > self._most_keys:
            ledger.keys = {(key.lane, key.key): key for key in ledger.lasting(ledger.keys)}
            self._most_keys = 2 * len(ledger.keys) + _KEYS
        self.commits += 1
        return Committed(bases)
