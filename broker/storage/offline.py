"""A data file that no broker uses, for the commands that work on it: synchronous, and one message run at a time."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import quote

from broker.core.store import Batch, Group
from broker.errors import ConfigError
from broker.lock import Lock
from broker.storage import fold, migrate, reading, writing
from broker.storage.file import translate, writer_setup
from broker.storage.fold import Folding
from broker.storage.ledger import Ledger
from broker.storage.quarantine import Unreadable
from broker.storage.tables import load
from broker.storage.unfolded import Unfolded

#: What is read of a lane at a time.
READ_BYTES: Final = 256 * 1024


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Keep brokers away meanwhile; raises `ConfigError` if one uses the file, or there is none."""
    if not os.path.isfile(path):
        raise ConfigError(f"there is no data file {path}")
    lock = Lock(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def connected(path: str, *, write: bool = False, live: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to a file of the newest version; raises `ConfigError` for any other file.

    `live`: a broker uses it meanwhile.
    """
    how = "mode=rw" if write else "mode=ro"
    if not write and not live and not (os.path.exists(f"{path}-wal") and os.stat(f"{path}-wal").st_size):
        how += "&immutable=1"  # else an empty log is made beside it, and left there
    try:
        connection = sqlite3.connect(f"file:{quote(path)}?{how}", uri=True)
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {translate(error).reason}") from error
    try:
        try:
            found, newest = migrate.version(connection), max(migrate.scripts())
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: {translate(error).reason}") from error
        if found != newest:
            hint = "start the broker once to bring it up to date" if found < newest else "it is a newer broker's"
            raise ConfigError(f"{path} has schema version {found}, this is for {newest}: {hint}")
        yield connection
    finally:
        connection.close()


class Offline:
    """The content of an open file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.ledger: Ledger
        self.unfolded: Unfolded
        self.ledger, self.unfolded, self._last = load(connection)
        #: What could not be read.
        self.unreadable: list[Unreadable] = []

    def batches(self, lane: int, seq: int = 0) -> Iterator[Batch]:
        """What is stored of a lane from `seq` on, in order; what cannot be read is added to `unreadable`."""
        end = self.ledger.lanes[lane].next
        while seq < end:
            places, more = self.unfolded.from_number(lane, seq, READ_BYTES)
            behind = self.ledger.lanes[lane].stragglers(seq)
            try:
                found, on, unreadable = reading.read_lane(
                    self.connection, lane, seq, end, READ_BYTES, places, more, behind
                )
            finally:
                self.connection.rollback()
            self.unreadable += unreadable
            yield from found
            if found:
                seq = found[-1].base + found[-1].count
            elif on is None:
                return
            else:
                seq = on

    def commit(self, group: Group) -> dict[int, int]:
        """Commit `group`; the number of the first message of each part. Raises `StoreRefused`."""
        ledger = self.ledger
        bases = ledger.allot(group)
        with self.connection:
            directory, size, length = writing.write_group(
                self.connection, group, self._last + 1, bases, ledger.before(group), ledger, None
            )
        self._last += 1
        ledger.apply(directory)
        self.unfolded.add(self._last, size, size + length, directory)
        if self.unfolded.due:
            self.fold()
        return bases

    def fold(self) -> None:
        """Fold all records."""
        while self.unfolded.records:
            folding = Folding(self.unfolded.upto())
            for some in fold.slices(fold.plan(self.ledger, self.unfolded, folding.upto)):
                reading.fetch(self.connection, some, folding)
                self.connection.rollback()
            folding.finish()
            with self.connection:
                writing.write_fold(self.connection, folding, self.ledger, self._last)
            self.unfolded.forget(folding.upto)
            self.ledger.checkpointed()

    def finish(self) -> None:
        """As a clean stop of a broker leaves it."""
        self.fold()
        with self.connection:
            writing.finish(self.connection, self.ledger, self._last)
        writing.finish_checkpoint(self.connection, "TRUNCATE")


def copy(connection: sqlite3.Connection, path: str) -> int:
    """Copy an open file to `path`, which must not exist; its bytes. Raises `OSError`, `ConfigError`."""
    with made(path, like=connection.execute("PRAGMA database_list").fetchone()[2]) as begun:
        target = sqlite3.connect(begun)
        try:
            connection.backup(target, pages=1024)
            target.execute("PRAGMA journal_mode=DELETE").fetchall()
        except sqlite3.Error as error:
            raise OSError(0, translate(error).reason) from error
        finally:
            target.close()
    return os.stat(path).st_size


@contextmanager
def made(path: str, *, like: str = "") -> Iterator[str]:
    """A file to be made under another name, which becomes `path` once it is whole and on the disk; nothing if not.

    Who may read the file `like` may read it, and nobody else.
    """
    if os.path.exists(path):
        raise ConfigError(f"{path} exists already")
    begun = f"{path}.part"
    try:
        with open(begun, "wb") as file:  # what is left of an attempt that was killed
            if like:
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(like).st_mode))
        yield begun
        with open(begun, "rb") as file:
            os.fsync(file.fileno())
        os.rename(begun, path)
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                os.unlink(begun + suffix)


@contextmanager
def created(path: str) -> Iterator[sqlite3.Connection]:
    """A connection to a new file, which is there once all went well."""
    with made(path) as begun:
        connection = sqlite3.connect(begun)
        try:
            writer_setup("normal")(connection)
            migrate.upgrade(connection, begun)
            yield connection
        finally:
            connection.close()
