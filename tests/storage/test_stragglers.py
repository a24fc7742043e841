"""Messages left far behind: they keep their place in the queue, and nothing else in the file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.core.bits import CHUNK
from broker.core.message import unpack
from broker.core.store import DefineReader, Failure, Group, Range
from broker.errors import StoreUnavailable
from broker.storage.ledger import FAR
from broker.storage.sqlite import SQLiteStore
from tests.storage.support import failing_connection, inline_store, messages, queue_of, result, stored

#: Enough for cursors to pass 20 chunks.
COUNT = 20 * CHUNK + FAR


def filled(path: Path, count: int = COUNT, size: int = 60, **kwargs: Any) -> SQLiteStore:
    """A store with one queue of so many messages."""
    store = inline_store(path, **kwargs)
    result(store.open())
    definitions = queue_of(1)
    for first in range(0, count, 4096):
        result(store.commit(Group(parts={1: messages(first, min(4096, count - first), size)}, definitions=definitions)))
        definitions = []
    return store


def settled_but(left: list[int], count: int = COUNT) -> list[Range]:
    edges = zip([0, *(seq + 1 for seq in left)], [*left, count], strict=True)
    return [(low, high) for low, high in edges if low < high]


def trimmed(store: SQLiteStore) -> int:
    freed = 0
    while more := result(store.trim(1 << 20)):
        freed += more
    return freed


def rows(path: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_the_log_is_freed_behind_a_message_that_nobody_settles(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.sqlite")
    left = [0, 1, 5000, 5001, 30_000]
    result(store.commit(Group(settled={1: settled_but(left)}, failures={(1, 5000): Failure(2, 99, "nack")})))
    assert trimmed(store) > 0.9 * COUNT * 60
    assert rows(store.path, "SELECT seq, body IS NOT NULL, attempts FROM exc ORDER BY seq") == [
        (0, 1, 0),
        (1, 1, 0),
        (5000, 1, 2),
        (5001, 1, 0),
        (30_000, 1, 0),
    ]
    assert rows(store.path, "SELECT count(*) FROM bits")[0][0] <= FAR // CHUNK + 1
    assert rows(store.path, "SELECT count(*) FROM batch")[0][0] < 10
    again = inline_store(store.path)
    for one, inventory in ((store, store._ledger.inventory(1)), (again, result(again.open()))):
        (reader,) = inventory.readers
        assert (reader.cursor, reader.settled) == (0, [(low, high) for low, high in settled_but(left) if low])
        assert reader.failures == {5000: Failure(2, 99, "nack")}
        assert inventory.lanes[0].low == 0
        for max_bytes in (1, 100, 1 << 18):
            found = stored(one, 1, 0, max_bytes)
            assert {seq: found[seq] for seq in left} == {seq: messages(seq, 1, 60)[0] for seq in left}
        assert [batch.base for batch in result(one.read(1, 5001, 1))] == [5001]
        assert result(one.seek(1, 1000 + 5001)) == 5001
        assert result(one.seek(1, 0)) == 0
    result(again.close())
    result(store.close())


def test_stragglers_are_settled_like_all_others(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.sqlite")
    result(store.commit(Group(settled={1: settled_but([7, 9, 30_000, 60_000])})))
    trimmed(store)
    result(store.commit(Group(settled={1: [(7, 8)]}, failures={(1, 9): Failure(1)})))
    again = inline_store(store.path)
    assert result(again.open()).readers[0].cursor == 9
    assert 7 not in stored(again, 1)
    result(again.commit(Group(settled={1: [(0, 10)]})))
    assert result(again.open()).readers[0].cursor == 30_000
    result(again.commit(Group(jumps={1: 40_000})))  # a purge
    result(again.close())
    assert rows(store.path, "SELECT seq FROM exc") == [(60_000,)]
    inventory = result(again.open())
    assert inventory.readers[0].cursor == 60_000
    assert inventory.readers[0].failures == {}
    result(again.close())


def test_what_another_queue_still_reads_stays(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.sqlite")
    result(store.commit(Group(definitions=[*queue_of(2)[:1], DefineReader(2, 2, 1, 0)])))
    result(store.commit(Group(settled={1: settled_but([7])})))
    assert trimmed(store) == 0
    assert stored(store, 1) == dict(enumerate(messages(0, COUNT, 60)))
    result(store.commit(Group(settled={2: settled_but([7, 9])})))
    assert trimmed(store) > 0.9 * COUNT * 60
    assert set(stored(store, 1)) >= {7, 9}
    assert [batch.base for batch in result(store.read(1, 0, 1 << 18))][:2] == [7, 9]
    result(store.close())


def test_whole_batches_are_freed_above_a_cursor_that_waits_for_many(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.sqlite")
    result(store.commit(Group(settled={1: [(1000, COUNT)]})))
    assert trimmed(store) > 0.9 * COUNT * 60
    assert rows(store.path, "SELECT count(*) FROM exc") == [(0,)]
    assert stored(store, 1).items() >= dict(enumerate(messages(0, 1000, 60))).items()
    assert trimmed(store) == 0
    result(store.close())


def test_large_messages_are_not_copied(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 1, 2_000_000)}, definitions=queue_of(1))))
    result(store.commit(Group(parts={1: messages(1, COUNT - 1)}, settled={1: [(1, COUNT)]})))
    trimmed(store)
    assert rows(store.path, "SELECT count(*) FROM exc") == [(0,)]
    assert stored(store, 1)[0] == messages(0, 1, 2_000_000)[0]
    assert rows(store.path, "SELECT sum(n) FROM batch")[0][0] < 2 * CHUNK + FAR
    result(store.close())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_copy_that_fails_changes_nothing(tmp_path: Path, moment: str) -> None:
    """Also when it was done all the same: what is settled afterwards stays settled."""
    connection = failing_connection()
    store = filled(tmp_path / "a.sqlite", connection=connection)
    result(store.commit(Group(settled={1: settled_but([7, 5000])})))
    setattr(connection, moment, sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(StoreUnavailable):
        result(store.trim(1 << 20))
    setattr(connection, moment, None)
    assert {7, 5000} <= set(stored(store, 1))
    result(store.commit(Group(settled={1: [(7, 8)]})))
    for _ in range(2):
        again = inline_store(store.path)
        assert result(again.open()).readers[0].cursor == 5000
        assert 5000 in stored(again, 1)
        result(again.close())


def test_the_message_of_a_straggler_is_what_it_was(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.sqlite", size=1)
    result(store.commit(Group(settled={1: settled_but([4095, 4096])})))
    trimmed(store)
    (batch,) = result(store.read(1, 4095, 1))
    assert unpack(batch.count, batch.data) == messages(4095, 1, 1)
    result(store.close())
