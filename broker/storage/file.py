"""A store's file: its connections, how they are set up, what their errors mean, and its write-ahead log."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import msgspec
from twisted.enterprise.adbapi import ConnectionPool
from twisted.logger import Logger

from broker.errors import BrokerError, StoreRefused, StoreUnavailable
from broker.storage.reserve import Reserve
from broker.storage.writing import checkpoint, finish_checkpoint, keep_room, mend, renew

_T = TypeVar("_T")

#: The write-ahead log is cut back to this many bytes when it begins anew, so a larger file means it has not.
WAL_BYTES: Final = 4 * 1024 * 1024
#: Milliseconds to wait for another process's lock: a backup tool, somebody's shell.
BUSY: Final = 5000

_WORDS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_READONLY: "the data file cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the data file cannot be opened",
    sqlite3.SQLITE_BUSY: "another process has locked the data file",
    sqlite3.SQLITE_LOCKED: "the data file is locked",
    sqlite3.SQLITE_CORRUPT: "the data file is damaged",
    sqlite3.SQLITE_NOTADB: "the data file is not a database",
}


def out_of_room(error: BaseException | None) -> bool:
    """True if the disk is full, or a quota used up, which SQLite does not tell apart from other failed writes."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE


def translate(error: Exception) -> BrokerError:
    """What a failed piece of work means: the content is refused, or the store is not available."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(
        error,
        (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError, msgspec.MsgspecError),
    ) and not str(error).startswith("Cannot operate on a closed"):
        return StoreRefused(f"the store cannot keep this: {error}")
    words = _WORDS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if words is None:
        return StoreUnavailable(f"the store does not work: {error}")
    return StoreUnavailable(f"{words} ({error})")


def _setup(connection: sqlite3.Connection, pragmas: list[str]) -> None:
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()  # nobody else knows it yet
        raise


def _durably(sync: str) -> list[str]:
    """What makes a sync one on macOS, where fsync leaves the data in the disk's own cache; elsewhere nothing."""
    return ["fullfsync=ON", "checkpoint_fullfsync=ON"] if sync == "full" else []


def writer_setup(sync: str) -> Callable[[sqlite3.Connection], None]:
    """For connections that write."""
    pragmas = [
        f"busy_timeout={BUSY}",
        "journal_mode=WAL",
        f"synchronous={sync.upper()}",
        *_durably(sync),
        "secure_delete=OFF",  # on in Debian's build: freeing takes 5 times as long
        "cache_size=-8000",
        f"journal_size_limit={WAL_BYTES}",
        "wal_autocheckpoint=0",
    ]

    def setup(connection: sqlite3.Connection) -> None:
        try:
            new = connection.execute("PRAGMA page_count").fetchone() == (0,)
        except BaseException:
            connection.close()
            raise
        # It must come before the first page, and would be a transaction of its own in an existing file.
        _setup(connection, ["auto_vacuum=INCREMENTAL", *pragmas] if new else pragmas)

    return setup


def reader_setup(sync: str) -> Callable[[sqlite3.Connection], None]:
    """For connections that only read; making a checkpoint is not writing."""
    pragmas = [
        f"busy_timeout={BUSY}",
        f"synchronous={sync.upper()}",
        *_durably(sync),
        "cache_size=-2000",
        "wal_autocheckpoint=0",
        "query_only=ON",
    ]
    return lambda connection: _setup(connection, pragmas)


class DataFile:
    """The file `path`, through three pools of one thread and one connection each."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        sync: str,
        factory: type[sqlite3.Connection],
        reactor: Any,
        pool: Callable[..., ConnectionPool],
        reserve: Reserve,
    ) -> None:
        self._path = path
        self._setup = writer_setup(sync)
        self._setup_reader = reader_setup(sync)
        self._factory = factory
        self._reactor = reactor
        self._pool = pool
        #: The writer, the reader, the one for checkpoints.
        self._pools: list[ConnectionPool] = []
        self._failing = False
        self._reserve = reserve
        #: Bytes of the write-ahead log as the last commit found it.
        self._wal = 0
        self._wal_limit = WAL_BYTES
        self._finish_limit = 4 * WAL_BYTES

    def open_writer(self) -> None:
        """From now on `write` works. No file is opened before it is called."""
        self._pools.append(self._open_pool(self._setup, self._factory))

    def open_readers(self) -> None:
        """From now on `read` and `checkpoint` work."""
        self._pools.append(self._open_pool(self._setup_reader, sqlite3.Connection))
        self._pools.append(self._open_pool(self._setup, sqlite3.Connection))

    def _open_pool(
        self, setup: Callable[[sqlite3.Connection], None], factory: type[sqlite3.Connection]
    ) -> ConnectionPool:
        # check_same_thread: the pool closes its connection on the reactor's thread; with the check the connection stays
        # open and the write-ahead log is left behind. isolation_level: with None nothing would be rolled back.
        return self._pool(
            "sqlite3",
            self._path,
            cp_min=1,
            cp_max=1,
            cp_noisy=False,
            cp_openfun=setup,
            cp_reactor=self._reactor,
            check_same_thread=False,
            isolation_level="IMMEDIATE",
            factory=factory,
        )

    def close(self) -> None:
        """Close every pool. Pools that stay open keep the process alive."""
        while self._pools:
            self._pools.pop().close()  # the writer last: closing it removes the write-ahead log

    async def _run(self, pool: int, function: Callable[..., _T], *args: object) -> _T:
        """Run `function` with the connection of this pool, in one transaction."""
        if pool >= len(self._pools):
            raise StoreUnavailable("the store is closed")
        try:
            return await self._pools[pool].runWithConnection(function, *args)
        except Exception as error:
            if not isinstance(error, (sqlite3.Error, BrokerError)):
                self._log.failure("while using {path}", path=self._path)
            raise translate(error) from error

    async def read(self, function: Callable[..., _T], *args: object) -> _T:
        """Run `function` with the read connection."""
        try:
            return await self._run(1, function, *args)
        except BrokerError:
            # A statement that was left half-way keeps its snapshot as long as anything refers to it.
            with contextlib.suppress(StoreUnavailable):  # the next use connects anew
                await self._run(1, renew)
            raise

    async def write(self, function: Callable[..., _T], *args: object) -> _T:
        """Run `function` with the write connection; after an error nothing of it is left."""
        try:
            done = await self._run(0, self._measured, function, *args)
        except BrokerError as error:
            if isinstance(error, StoreUnavailable) and not self._failing:
                self._failing = True
                self._log.error("cannot write {path}: {reason}", path=self._path, reason=error.reason)
            try:
                await self._run(0, mend)
            except StoreUnavailable:
                pass  # the next use connects anew
            raise
        if self._failing:
            self._failing = False
            self._log.info("can write {path} again", path=self._path)
        return done

    def _measured(self, connection: Any, function: Callable[..., _T], *args: object) -> _T:
        # In the thread: it is 1.7 us each time, and was asked for twice after each commit while everybody waits.
        self._wal = self.wal_size()
        return function(connection, *args)

    async def make_room(self, function: Callable[..., _T], *args: object) -> _T:
        """As `write`, for what makes room or is needed to: on a full disk it gets that of the reserve."""
        try:
            return await self.write(function, *args)
        except StoreUnavailable as error:
            if not out_of_room(error.__cause__) or not self._reserve.release():
                raise
        return await self.write(function, *args)

    async def has_room(self) -> bool:
        """False if messages must not be taken since the reserve is in use and cannot be made again."""
        if self._reserve.due(self._reactor.seconds()):
            await self._run(0, keep_room, self._reserve)
        return not self._reserve.spent

    async def disk_free(self) -> int:
        """Bytes the file system has left for the process's user; asked in the reader's thread, since it may be slow."""
        found = await self.read(lambda _: os.statvfs(os.path.dirname(self._path) or "."))
        return found.f_bavail * found.f_frsize

    # -- the write-ahead log

    def wal_size(self) -> int:
        """Bytes of the write-ahead log's file."""
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def wal_is_long(self) -> bool:
        """True if a checkpoint is worth its time: it passed `WAL_BYTES`, or grew by as much since the last one."""
        return self._watched() > self._wal_limit

    def wal_is_too_long(self) -> bool:
        """True if it grew as fast as it was copied, to four times `WAL_BYTES`; then commits had better wait."""
        return self._watched() > self._finish_limit

    def _watched(self) -> int:
        if self._wal <= WAL_BYTES:
            self._wal_limit, self._finish_limit = WAL_BYTES, 4 * WAL_BYTES
        return self._wal

    async def checkpoint(self) -> None:
        """Copy the log into the file. No commit waits for it."""
        await self._run(2, checkpoint)
        self._wal_limit = self.wal_size() + WAL_BYTES

    async def finish_checkpoint(self, mode: Literal["RESTART", "TRUNCATE"] = "RESTART") -> None:
        """While nothing is written: copy what is left of the log, so that the next commit begins it anew.

        The log cannot begin anew while somebody reads from it. On the thread of our own reads none is under way, and
        nearly all is copied before they have to wait. Somebody else's open transaction can prevent it; it is tried
        again when the log has grown as much once more.
        """
        await self._run(2, checkpoint)
        await self.read(finish_checkpoint, mode)
        self._finish_limit = self.wal_size() + 4 * WAL_BYTES
