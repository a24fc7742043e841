"""A copy of a data file that changes while it is copied: as of one commit, and in nobody's way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from broker.core.message import pack
from broker.core.store import DropQueue, Group
from broker.storage import live
from broker.storage.check import check
from broker.storage.dump import Dump
from broker.storage.offline import Offline, connected
from tests.storage.support import inline_store, messages, queue_of, result


def dumped(path: Path) -> list[bytes]:
    with connected(str(path)) as connection:
        assert check(connection).problems == []
        return [msgspec.json.encode(line) for line in Dump(Offline(connection)).lines()]


class Copied:
    """A store, and a copy made of it while `change` is called between the slices, with their number."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "SLICE_BYTES", 60_000)
        monkeypatch.setattr(live, "SLICE_ROWS", 5)
        monkeypatch.setattr(live, "FEW_BYTES", 100_000)
        self.path, self.to = folder / "a.sqlite", folder / "copy.sqlite"
        self.slices = 0
        self.next = 0
        self.store = inline_store(self.path)
        result(self.store.open())
        result(self.store.commit(Group(definitions=[*queue_of(1), *queue_of(2), *queue_of(3)])))

    def publish(self, lane: int, count: int = 4, size: int = 10_000) -> None:
        result(self.store.commit(Group(parts={lane: messages(self.next, count, size)})))
        self.next += count

    def make(self, change: Callable[[int], None]) -> None:
        def told(size: int) -> None:
            change(self.slices)
            self.slices += 1
            wal.append(Path(f"{self.path}-wal").stat().st_size)

        wal: list[int] = []
        live.copy(str(self.path), str(self.to), told)
        self.wal = max(wal)
        result(self.store.close())
        assert dumped(self.to) == dumped(self.path)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copied:
    return Copied(tmp_path, monkeypatch)


def test_what_is_committed_folded_and_freed_meanwhile_is_in_the_copy(copied: Copied) -> None:
    for number in range(60):
        copied.publish(1 + number % 3)

    def change(number: int) -> None:
        if number < 40:
            copied.publish(1 + number % 2)
            copied.publish(1 + number % 2, 3, 5)
            result(copied.store.commit(Group(settled={1: [(number, number + 3)], 2: [(0, 2 * number)]})))
        if number == 10:
            result(copied.store.commit(Group(definitions=[DropQueue(3), *queue_of(4)])))
        if number % 3 == 0:
            copied.store._reactor.advance(1)
            result(copied.store.trim(1 << 30))
        if number == 25:
            result(copied.store.close())
            result(copied.store.open())

    copied.make(change)
    assert copied.slices > 40


def test_it_comes_to_an_end_however_much_is_committed(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PASSES", 3)
    copied.publish(1, 10)
    copied.make(lambda number: copied.publish(1, 10 + number))
    assert copied.slices > 6


def test_a_commit_that_was_replaced_is_replaced_in_the_copy(copied: Copied) -> None:
    """One that failed when it was done leaves a batch whose numbers are used again."""
    for _ in range(20):
        copied.publish(1)
    row = (pack(messages(900, 4, 10_000)),)
    with closing(sqlite3.connect(copied.path)) as other:
        other.execute(
            "INSERT INTO batch (lane, base, n, before, next_expiry, max_expiry, t0, data) "
            "VALUES (2, 0, 4, 0, 0, 0, 1900, ?)",
            row,
        )
        other.commit()

        def change(number: int) -> None:
            if number == 10:
                other.execute("DELETE FROM batch WHERE lane = 2")
                other.commit()
                copied.publish(2)

        copied.make(change)
    assert copied.slices > 10


def test_the_log_does_not_grow_while_it_is_copied(copied: Copied) -> None:
    """A snapshot kept open would let none of what is committed meanwhile go to the file: 40 MB here."""
    for _ in range(100):
        copied.publish(1, 40)
    copied.make(lambda number: copied.publish(1, 40) if number < 100 else None)
    assert copied.wal < 12_000_000


def test_damage_ends_it(copied: Copied) -> None:
    for _ in range(30):
        copied.publish(1)
    result(copied.store.close())
    pages = bytearray(copied.path.read_bytes())
    pages[60 * 4096 :] = bytes(len(pages) - 60 * 4096)
    copied.path.write_bytes(pages)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        live.copy(str(copied.path), str(copied.to))
    assert sorted(one.name for one in copied.path.parent.iterdir() if "copy" in one.name) == []


def test_what_only_one_connection_can_see_is_a_copy(copied: Copied) -> None:
    copied.publish(1)
    with live.snapshot(str(copied.path)) as connection:
        assert [one.name for one in copied.path.parent.glob("*.dump")] == []
        copied.publish(1)
        lines = [msgspec.json.encode(line) for line in Dump(Offline(connection)).lines()]
    assert sum(b'"message"' in line for line in lines) == 4
    result(copied.store.close())
