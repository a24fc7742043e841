"""A full disk: nothing is taken, but what is there can be settled, and that makes room."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from broker.core.store import Failure, Group
from broker.errors import StoreUnavailable
from broker.storage import file, unfolded, writing
from broker.storage.reserve import RESERVE
from broker.storage.sqlite import SQLiteStore
from tests.storage.support import inline_store, messages, queue_of, result, stored

KB = 1024
SIZE = 300 * KB


class SmallDisk:
    """A folder that holds so many bytes: beyond them commits fail as SQLite's do, and no file can be made."""

    def __init__(self, folder: Path, capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.capacity = capacity
        self.path = folder / "a.sqlite"
        self.reserve = folder / "a.sqlite.reserve"
        real = os.posix_fallocate

        def allocate(fd: int, offset: int, size: int) -> None:
            if self.used - os.fstat(fd).st_size + size > self.capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(fd, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", allocate)
        # the reserve is a fiftieth of the real one, and so is the rest
        monkeypatch.setattr(writing, "_STEP", 64 * KB)
        monkeypatch.setattr(file, "WAL_BYTES", 80 * KB)

    @property
    def used(self) -> int:
        return sum(one.stat().st_size for one in self.folder.iterdir() if not one.name.endswith("-shm"))

    def store(self, **kwargs: Any) -> SQLiteStore:
        disk = self

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                if self.in_transaction and disk.used > disk.capacity:
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
                super().commit()

        return inline_store(self.path, connection=Connection, reserve=SIZE, **kwargs)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    return SmallDisk(tmp_path, 2000 * KB, monkeypatch)


def fill(store: SQLiteStore, first: int = 0) -> int:
    """Publish until there is no room; the number of messages."""

    def publish() -> None:
        nonlocal first
        while True:
            result(store.commit(Group(parts={1: messages(first, 1, 5000)})))
            first += 1

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        publish()
    return first


def test_what_is_there_can_be_settled_and_then_there_is_room_again(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfolded, "FOLD_RECORDS", 100)
    store = disk.store()
    result(store.open())
    assert disk.reserve.stat().st_size == SIZE
    result(store.commit(Group(definitions=queue_of(1))))
    count = fill(store)
    assert count > 50
    assert fill(store, count) == count
    assert disk.reserve.exists()  # publishes do not get it

    with capturedLogs() as events:
        result(store.commit(Group(settled={1: [(0, 1)]})))
        assert not disk.reserve.exists()
        for seq in range(1, count - 5):
            result(store.commit(Group(settled={1: [(seq, seq + 1)]}, failures={(1, count - 1): Failure(seq + 1)})))
        assert not disk.reserve.exists()
        assert len(stored(store, 1)) >= 5
        store._reactor.advance(5)  # what is left is folded
        while result(store.trim(1 << 20)):
            pass
        store._reactor.advance(5)
        assert result(store.commit(Group(parts={1: messages(count, 1, 5000)}))).bases == {1: count}
    assert disk.reserve.stat().st_size == SIZE
    assert disk.used < disk.capacity
    said = [event["log_level"].name for event in events if "reserve" in str(event.get("log_namespace"))]
    assert said == ["warn", "info"]
    assert fill(store, count + 1) > count + 20
    result(store.close())


def test_a_broker_can_be_stopped_and_started_on_a_full_disk(disk: SmallDisk) -> None:
    store = disk.store()
    result(store.open())
    result(store.commit(Group(definitions=queue_of(1))))
    count = fill(store)
    disk.capacity = disk.used - 50 * KB  # somebody else has written something
    again = disk.store()
    assert result(again.open()).lanes[0].next == count
    assert not disk.reserve.exists()
    result(again.commit(Group(settled={1: [(0, 10)]})))
    with pytest.raises(StoreUnavailable, match="can be taken and settled"):
        result(again.commit(Group(parts={1: messages(count, 1)})))
    again._reactor.advance(5)
    disk.capacity *= 2
    assert result(again.commit(Group(parts={1: messages(count, 1)}))).bases == {1: count}
    assert disk.reserve.exists()
    result(again.close())


def test_without_room_for_a_reserve_it_goes_without(disk: SmallDisk) -> None:
    disk.capacity = 290 * KB
    store = disk.store()
    with capturedLogs() as events:
        result(store.open())
    assert not disk.reserve.exists()
    assert [event["reason"] for event in events if event["log_level"].name == "warn"] == [os.strerror(errno.ENOSPC)]
    assert result(store.commit(Group(parts={1: messages(0, 1)}, definitions=queue_of(1)))).bases == {1: 0}
    fill(store, 1)
    disk.capacity *= 9
    result(store.close())


def test_another_error_does_not_cost_the_reserve(disk: SmallDisk) -> None:
    class Broken(sqlite3.Connection):
        broken = False

        def commit(self) -> None:
            if self.in_transaction and self.broken:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            super().commit()

    store = inline_store(disk.path, connection=Broken, reserve=SIZE)
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 1)}, definitions=queue_of(1))))
    Broken.broken = True
    with pytest.raises(StoreUnavailable):
        result(store.commit(Group(settled={1: [(0, 1)]})))
    assert disk.reserve.exists()
    Broken.broken = False
    result(store.close())


def test_the_reserve_is_as_large_as_documented(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite", reserve=RESERVE)
    result(store.open())
    assert os.stat(tmp_path / "a.sqlite.reserve").st_size == 16 * KB * KB
    result(store.close())
