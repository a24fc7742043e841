"""The store in one SQLite file.

A commit is one row, its record, whatever number of lanes it touches: one INSERT, one fsync. What it says is applied to
the ledger in memory afterwards. Records are folded into batches later, along with other commits (`fold`). Three pools
of one thread each: the writer, the reader for windows and folds, and one for checkpoints, so that none waits for
another's disk. Nothing is encoded, read or written on the reactor's thread; it gives numbers and keeps the ledger.

The ledger changes only while `_turn` is held and nothing runs on the writer, so the writer may look at it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Literal

from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.store import Batch, Committed, Expired, Group, Inventory, IStore, Sizes
from broker.errors import StoreUnavailable
from broker.storage import expiring, fold, freeing, quarantine, reading, record, stragglers, writing
from broker.storage.checkpoints import Checkpoints
from broker.storage.file import DataFile
from broker.storage.fold import Folding
from broker.storage.ledger import Ledger
from broker.storage.quarantine import Flaws, Unreadable
from broker.storage.record import Directory
from broker.storage.reserve import RESERVE, Reserve
from broker.storage.thread import Pool
from broker.storage.unfolded import Unfolded

#: Seconds a prepared fold waits for a commit to ride in before it makes one of its own.
IDLE: Final = 0.05
#: Seconds after a failed fold in which none is tried: the commits come first.
FOLD_PAUSE: Final = 5.0
#: What one read returns at most, unless a single batch is larger.
READ_BYTES: Final = 256 * 1024


@implementer(IStore)
class SQLiteStore:
    """Messages and marks in the file `path`.

    `sync`: "full" survives the loss of power, "normal" the loss of the process. `connection` is the class of the write
    connection, `pool` of the pools; tests give their own. `reserve`: bytes of the disk kept for settling.
    """

    _log = Logger()

    def __init__(
        self,
        path: str,
        *,
        sync: Literal["full", "normal"] = "full",
        connection: type[sqlite3.Connection] | None = None,
        reactor: Any = None,
        pool: Callable[..., ConnectionPool] = Pool,
        reserve: int = RESERVE,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.path = os.path.abspath(path)
        self._reactor = reactor
        self._reserve = Reserve(self.path, reserve)
        self._file = DataFile(self.path, sync, connection or sqlite3.Connection, reactor, pool, self._reserve)
        self._turn = DeferredLock()
        self._opened = False
        self._checkpoints = Checkpoints(self._file, self._turn, self._start, lambda: self._opened)
        self._reset()

    def _reset(self) -> None:
        self._ledger = Ledger(track=True)
        self._unfolded = Unfolded()
        self._last = 0
        #: The record after the last one may be there, left by a commit whose outcome could not be seen.
        self._doubted = False
        self._commits = 0
        self._commit_ms = 0.0
        self._flaws = Flaws()
        self._preparing = False
        self._fold: Folding | None = None
        #: Lanes that were tried for something to free while a fold of theirs may have been on its way.
        self._tried: set[int] = set()
        self._fold_after = 0.0
        self._fold_alone: IDelayedCall | None = None
        self._tasks: set[Deferred[None]] = set()
        #: What a call of `trim` that waits for its turn was told to keep; commits that come first add theirs.
        self._keep: dict[int, int] | None = None

    # -- the contract

    def open(self) -> Deferred[Inventory]:
        """See `IStore.open`. `ConfigError`: the file is not ours, or a newer version's."""
        return Deferred.fromCoroutine(self._open())

    def commit(self, group: Group) -> Deferred[Committed]:
        """See `IStore.commit`."""
        return Deferred.fromCoroutine(self._commit(group))

    def read(self, lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        """See `IStore.read`."""
        return Deferred.fromCoroutine(self._read(lane, seq, min(max_bytes, READ_BYTES)))

    def seek(self, lane: int, stamp: int) -> Deferred[int]:
        """See `IStore.seek`."""
        return Deferred.fromCoroutine(self._seek(lane, stamp))

    def seek_bytes(self, lane: int, size: int) -> Deferred[int]:
        """See `IStore.seek_bytes`."""
        return Deferred.fromCoroutine(self._seek_bytes(lane, size))

    def expired(self, lane: int, seq: int, now: int, max_bytes: int) -> Deferred[Expired]:
        """See `IStore.expired`."""
        return Deferred.fromCoroutine(self._expired(lane, seq, now, min(max_bytes, READ_BYTES)))

    def trim(self, budget: int, keep: Mapping[int, int] = {}) -> Deferred[int]:
        """See `IStore.trim`."""
        self._keep = dict(keep)
        return Deferred.fromCoroutine(self._trim(budget))

    def measure(self) -> Deferred[Sizes]:
        """See `IStore.measure`."""
        return Deferred.fromCoroutine(self._measure())

    def close(self) -> Deferred[None]:
        """See `IStore.close`. It does nothing if the store is not open."""
        return Deferred.fromCoroutine(self._close())

    # -- opening and closing

    async def _open(self) -> Inventory:
        await self._quiet()
        try:
            self._file.close()
            self._reset()
            try:
                self._reserve.find()
                self._file.open_writer()
                started = await self._file.make_room(writing.start, self.path)
                self._ledger, self._unfolded, self._last, inventory = started
                self._file.open_readers()
                self._reserve.begin()
            except BaseException:
                self._file.close()  # pools left open would keep the process alive
                raise
            self._opened = True
        finally:
            self._turn.release()
        self._log.info(
            "opened {path}: {destinations} destinations, {records} records to fold",
            path=self.path,
            destinations=len(inventory.destinations),
            records=len(self._unfolded.records),
        )
        self._fold_if_due()
        return inventory

    async def _quiet(self) -> None:
        """Begin nothing new, let what runs come to its end, and take the turn."""
        self._opened = False
        if self._fold_alone is not None:
            self._fold_alone.cancel()
            self._fold_alone = None
        await DeferredList(list(self._tasks))
        await self._turn.acquire()

    async def _close(self) -> None:
        if not self._opened:
            return
        await self._quiet()
        try:
            while self._unfolded.records:
                folding = await self._prepare(self._unfolded.upto())
                await self._write_fold(folding)
            await self._file.make_room(writing.finish, self._ledger, self._last, self._doubted)
            await self._file.finish_checkpoint("TRUNCATE")
            self._log.info("closed {path}", path=self.path)
        finally:
            self._file.close()
            self._turn.release()

    def _check_open(self) -> None:
        if not self._opened:
            raise StoreUnavailable("the store is closed")

    # -- committing

    async def _commit(self, group: Group) -> Committed:
        begun = time.monotonic()
        await self._turn.acquire()
        try:
            self._check_open()
            bases = self._ledger.allot(group)
            if not record.empty(group):
                if group.parts and not await self._file.has_room():
                    raise StoreUnavailable("the disk is full; what is there can be taken and settled")
                await self._commit_numbered(group, bases)
                self._commits += 1
                self._commit_ms += (time.monotonic() - begun) * 1000
        finally:
            self._turn.release()
        return Committed(bases)

    async def _commit_numbered(self, group: Group, bases: dict[int, int]) -> None:
        folding, self._fold = self._fold, None
        try:
            directory, size, length = await self._record(group, bases, folding)
        except StoreUnavailable:
            if folding is None:
                raise
            # It may be the fold that finds no room. Its records stay as they are.
            folding = None
            self._pause_folds()
            directory, size, length = await self._record(group, bases, None)
        self._last += 1
        if folding is not None:
            self._folded(folding)
        self._ledger.apply(directory)
        if self._keep is not None:
            self._keep.update(group.keep)
        self._unfolded.add(self._last, size, size + length, directory)
        self._fold_if_due()
        self._checkpoints.watch()

    async def _record(self, group: Group, bases: dict[int, int], folding: Folding | None) -> tuple[Directory, int, int]:
        ledger, cid = self._ledger, self._last + 1
        before = ledger.before(group)
        try:
            write = self._file.write if group.parts else self._file.make_room
            written = await write(writing.write_group, group, cid, bases, before, ledger, folding, self._doubted)
        except StoreUnavailable:
            # An error that comes after the commit was done must not make the next one use its number again.
            try:
                found = await self._file.read(reading.find, cid)
            except StoreUnavailable:
                # Nobody knows. It is told as failed, so the next one must take its place, not be taken for it.
                self._doubted = True
                raise
            if found is None or self._doubted:
                raise
            directory, size = found
            return record.decode(directory), size, len(directory)
        self._doubted = False
        return written

    # -- folding

    def _fold_if_due(self) -> None:
        ready = self._preparing or self._fold is not None or self._reactor.seconds() < self._fold_after
        if self._unfolded.due and not ready:
            self._start(self._fold_ahead())

    async def _fold_ahead(self) -> None:
        """Prepare a fold, and have it ride in the next commit, or in its own if there is none."""
        self._preparing = True
        self._tried.clear()
        try:
            self._fold = await self._prepare(self._unfolded.upto())
        except StoreUnavailable as error:
            self._pause_folds()
            self._log.warn("cannot prepare a fold: {reason}", reason=error.reason)
        finally:
            self._preparing = False
        if self._fold is not None:
            self._fold_within(IDLE)

    def _pause_folds(self) -> None:
        self._fold_after = self._reactor.seconds() + FOLD_PAUSE
        self._fold_within(FOLD_PAUSE)

    def _fold_within(self, seconds: float) -> None:
        """Look after that time whether there is a fold to commit, or to prepare."""
        if self._fold_alone is not None:
            self._fold_alone.cancel()
        self._fold_alone = self._reactor.callLater(seconds, self._start_alone) if self._opened else None

    def _start_alone(self) -> None:
        self._fold_alone = None
        self._start(self._commit_fold())

    async def _prepare(self, upto: int) -> Folding:
        keeps = fold.plan(self._ledger, self._unfolded, upto)
        folding = Folding(upto)
        for some in fold.slices(keeps):
            await self._file.read(reading.fetch, some, folding)
        await self._file.read(lambda _: folding.finish())  # it joins megabytes
        return folding

    async def _commit_fold(self) -> None:
        await self._turn.acquire()
        try:
            folding, self._fold = self._fold, None
            if folding is not None and self._opened:
                await self._write_fold(folding)
                self._checkpoints.watch()
        except StoreUnavailable:
            self._pause_folds()
        finally:
            self._turn.release()
        self._fold_if_due()

    async def _write_fold(self, folding: Folding) -> None:
        """Commit a fold by itself."""
        try:
            await self._file.make_room(writing.write_fold, folding, self._ledger, self._last)
        except StoreUnavailable:
            if await self._file.read(reading.find, folding.upto) is not None:
                raise
        self._folded(folding)

    def _folded(self, folding: Folding) -> None:
        self._unfolded.forget(folding.upto)
        self._ledger.checkpointed()
        # What was settled since the preparation is in batches now, and may be freed.
        self._ledger.moved.update(lane for lane in self._tried if lane in self._ledger.lanes)
        self._tried.clear()
        if folding.unreadable:
            self._report(folding.unreadable)
            for one in folding.unreadable:
                self._ledger.pass_over(one.lane, one.base, one.base + one.count)
        self._log.debug("folded to {batches} batches", batches=len(folding.rows))

    # -- reading

    async def _read(self, lane: int, seq: int, max_bytes: int) -> list[Batch]:
        while True:
            self._check_open()
            known = self._ledger.lanes.get(lane)
            if known is None:
                return []
            places, more = self._unfolded.from_number(lane, seq, max_bytes)
            behind = known.stragglers(seq)
            found, on, unreadable = await self._file.read(
                reading.read_lane, lane, seq, known.next, max_bytes, places, more, behind
            )
            if unreadable:
                self._report(unreadable)
            if on is None:
                return found
            seq = on  # folded meanwhile, and nothing of it was still wanted

    def _report(self, unreadable: list[Unreadable]) -> None:
        """Say once what cannot be read, and have it set aside."""
        new = self._flaws.report(unreadable, self._ledger)
        if new and self._opened:
            self._start(self._set_aside(new))

    async def _set_aside(self, unreadable: list[Unreadable]) -> None:
        await self._turn.acquire()
        try:
            await self._file.write(quarantine.write, unreadable)
            for one in unreadable:
                self._ledger.pass_over(one.lane, one.base, one.base + one.count)
        except StoreUnavailable as error:
            self._log.warn("cannot set aside what cannot be read: {reason}", reason=error.reason)
        finally:
            self._turn.release()

    async def _seek(self, lane: int, stamp: int) -> int:
        self._check_open()
        known = self._ledger.lanes.get(lane)
        if known is None:
            return 0
        around = self._unfolded.around(lane, stamp)
        behind = known.stragglers(0)
        return await self._file.read(reading.seek_lane, lane, stamp, known.next, *around, behind)

    async def _seek_bytes(self, lane: int, size: int) -> int:
        self._check_open()
        known = self._ledger.lanes.get(lane)
        if known is None:
            return 0
        byte = max(known.bytes - size, 0)
        around = self._unfolded.around_byte(lane, byte)
        return await self._file.read(reading.seek_byte, lane, byte, known.next, *around)

    async def _expired(self, lane: int, seq: int, now: int, max_bytes: int) -> Expired:
        self._check_open()
        known = self._ledger.lanes.get(lane)
        if known is None:
            return Expired()
        places, more = self._unfolded.some(lane, seq, expiring.RUNS)
        behind = known.stragglers(seq)
        found, unreadable = await self._file.read(
            expiring.find, lane, seq, known.next, now, max_bytes, places, more, behind
        )
        if unreadable:
            self._report(unreadable)
        return found

    # -- freeing, measuring

    async def _trim(self, budget: int) -> int:
        freed = 0
        while not freed:
            await self._turn.acquire()
            try:
                self._check_open()
                if self._keep is not None:
                    self._ledger.retain(self._keep)
                    self._keep = None
                await self._straggle()
                lanes = freeing.plan(self._ledger)
                if not lanes:
                    break
                if self._preparing or self._fold is not None:
                    self._tried.update(lane for lane, _ in lanes)
                freed, done = await self._file.make_room(freeing.write, lanes, budget)
                freeing.apply(self._ledger, lanes[:done])
                self._checkpoints.watch()
            finally:
                self._turn.release()
        return freed

    async def _straggle(self) -> None:
        """Have cursors not wait for what lies far behind."""
        found = stragglers.plan(self._ledger, self._unfolded)
        if found:
            stragglers.mark(self._ledger, found)
            passed = await self._file.make_room(stragglers.write, found, self._ledger, self._last)
            self._ledger.checkpointed()
            stragglers.apply(self._ledger, found, passed)

    async def _measure(self) -> Sizes:
        self._check_open()
        page, pages, free = await self._file.read(reading.pages)
        return Sizes(
            data=page * pages,
            wal=self._file.wal_size(),
            free=page * free,
            unfolded_records=len(self._unfolded.records),
            unfolded_bytes=self._unfolded.bytes,
            disk_free=await self._file.disk_free(),
            commits=self._commits,
            commit_ms=self._commit_ms,
        )

    # -- beside the commits

    def _start(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Let `work` run beside everything else. Nobody waits for it but `close`."""
        task = Deferred.fromCoroutine(work)
        self._tasks.add(task)
        _ = task.addErrback(self._failed).addBoth(lambda _: self._tasks.discard(task))

    def _failed(self, failure: Failure) -> None:
        self._log.failure("while working beside the commits", failure)
