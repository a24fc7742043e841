"""Copying the data file of a running broker, without being in its way.

SQLite's own backup begins again whenever somebody writes, or keeps one snapshot open to its end, while the write-ahead
log grows by all that is committed meanwhile. Here no transaction is longer than a slice. Batches never change, they
come and go; so they are copied in slices, then those that have come since, until only a few have. The last transaction
brings those and everything else, and deletes what has gone: the copy is the file as of one commit.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from broker.storage import migrate
from broker.storage.file import BUSY, out_of_room, translate
from broker.storage.offline import connected, made

#: Bytes and rows of a slice: a few ms.
SLICE_BYTES: Final = 1024 * 1024
SLICE_ROWS: Final = 4096
#: The last transaction begins when less has come since the pass before, or after so many passes.
FEW_BYTES: Final = 8 * 1024 * 1024
PASSES: Final = 20
#: Bytes of the disk that a copy leaves to the broker.
ROOM: Final = 64 * 1024 * 1024

_COLUMNS: Final = "lane, base, n, before, next_expiry, max_expiry, t0, format, data"


def copy(path: str, destination: str, told: Callable[[int], None] = lambda size: None) -> int:
    """Copy the file `path` to `destination`, which must not exist; its bytes. Raises `OSError`, `ConfigError`.

    `told` is called with the bytes of messages copied so far.
    """
    with made(destination, like=path) as begun:
        target = sqlite3.connect(begun, isolation_level=None, uri=True)
        try:
            target.execute("PRAGMA auto_vacuum=INCREMENTAL")
            _fill(target, path, os.path.dirname(os.path.abspath(destination)), told)
        finally:
            target.close()
    return os.stat(destination).st_size


@contextmanager
def snapshot(path: str) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of the file `path`, which lies beside it without a name and goes with the connection."""
    folder = os.path.dirname(os.path.abspath(path))
    fd, name = tempfile.mkstemp(".dump", f"{os.path.basename(path)}.", folder)
    try:
        target = sqlite3.connect(name, isolation_level=None, uri=True)
    finally:
        os.close(fd)
        os.unlink(name)  # whatever becomes of this process, nothing of it is left
    try:
        _fill(target, path, folder, lambda size: None)
        yield target
    finally:
        target.close()


def _fill(target: sqlite3.Connection, path: str, folder: str, told: Callable[[int], None]) -> None:
    """Make an empty file, on a disk which has `folder`, a copy of `path`."""
    with connected(path, live=True) as source:
        page, count, free = (
            source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < (count - free) * page + ROOM:
        raise OSError(0, f"there is no room in {folder} for a copy of {(count - free) * page} bytes")
    try:
        # Nobody but us sees it before it is whole, and on the disk.
        target.execute("PRAGMA journal_mode=OFF").fetchall()
        target.execute("PRAGMA synchronous=OFF")
        migrate.upgrade(target, "")
        target.execute(f"PRAGMA busy_timeout={BUSY}").fetchall()
        target.execute("ATTACH ? AS live", (f"file:{quote(path)}?mode=ro",))
        copied = 0
        for _ in range(PASSES):
            before = copied
            for size in _copy_batches(target):
                copied += size
                told(copied)
            if copied - before < FEW_BYTES:
                break
        _finish(target)
        target.execute("DETACH live")
    except sqlite3.Error as error:
        if out_of_room(error):
            raise OSError(0, translate(error).reason) from error
        raise


def _copy_batches(target: sqlite3.Connection) -> Iterator[int]:
    """Copy the batches that are in the file now and not in the copy; the bytes of each slice."""
    lane = base = -1
    newest = target.execute("SELECT ifnull(max(id), 0) FROM live.batch").fetchone()[0]
    while True:
        target.execute("BEGIN")
        rows = target.execute(
            "SELECT lane, base, id FROM live.batch WHERE (lane, base) > (?, ?) AND id <= ? ORDER BY lane, base LIMIT ?",
            (lane, base, newest, SLICE_ROWS),
        ).fetchall()
        size = 0
        for lane, base, id in rows:
            known = target.execute("SELECT 1 FROM main.batch WHERE lane = ? AND base = ?", (lane, base)).fetchone()
            if known is None:
                target.execute(
                    f"INSERT INTO main.batch ({_COLUMNS}) SELECT {_COLUMNS} FROM live.batch WHERE id = ?",  # nosec B608
                    (id,),
                )
                size += target.execute("SELECT length(data) FROM live.batch WHERE id = ?", (id,)).fetchone()[0]
                if size >= SLICE_BYTES:
                    break
        target.execute("COMMIT")
        if not rows:
            return
        yield size


def _finish(target: sqlite3.Connection) -> None:
    """In one transaction: the batches as they are now, and every other table."""
    target.execute("BEGIN")
    same = "SELECT 1 FROM {0}.batch AS other WHERE other.lane = batch.lane AND other.base = batch.base"
    target.execute(f"DELETE FROM main.batch WHERE NOT EXISTS ({same.format('live')})")  # nosec B608
    # A commit whose outcome nobody saw may have been replaced by another with the same numbers. The tables say only
    # what is certain; behind that, what was copied may be the one that was replaced.
    target.execute(
        "DELETE FROM main.batch WHERE id IN (SELECT batch.id FROM main.batch JOIN live.batch AS other "
        "ON other.lane = batch.lane AND other.base = batch.base LEFT JOIN live.lane ON lane.id = batch.lane "
        "WHERE batch.base >= ifnull(lane.next, 0) AND (other.n, other.t0) != (batch.n, batch.t0))"
    )
    target.execute(
        f"INSERT INTO main.batch ({_COLUMNS}) SELECT {_COLUMNS} FROM live.batch WHERE NOT EXISTS "  # nosec B608
        f"({same.format('main')}) ORDER BY lane, base"
    )
    for (table,) in target.execute("SELECT name FROM live.sqlite_master WHERE type = 'table'").fetchall():
        if table != "batch":
            target.execute(f"DELETE FROM main.{table}")  # nosec B608
            target.execute(f"INSERT INTO main.{table} SELECT * FROM live.{table}")  # nosec B608
    target.execute("COMMIT")
