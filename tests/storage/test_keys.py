"""Keys of publishers: folded by the thousand, and forgotten by the thousand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.core.store import Group, PublishKey
from broker.storage import tables
from broker.storage.memory import MemoryStore
from tests.storage.support import inline_store, messages, queue_of, result


def rows(path: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_what_is_over_is_deleted_by_folds_and_faster_than_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "KEYS", 10)
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(definitions=queue_of(1))))
    written = []
    every: list[PublishKey] = []
    for turn in range(8):
        keys = [PublishKey(1, n, f"{turn}.{n}", 1000 * turn + 2500 - n) for n in range(1000)]
        every += keys
        result(store.commit(Group(keys=keys, last_stamp=1000 * turn)))
        result(store.close())
        written.append(rows(store.path, "SELECT count(*) FROM dedup")[0][0])
        inventory = result(store.open())
        assert sorted(inventory.keys) == sorted(key for key in every if key.until > 1000 * turn)
    assert max(written) < 450
    result(store.commit(Group(parts={1: messages(0, 1)}, last_stamp=100_000)))
    for _ in range(8):
        result(store.close())
        inventory = result(store.open())
        assert inventory.keys == []
    assert rows(store.path, "SELECT count(*) FROM dedup") == [(0,)]
    result(store.close())


def test_keys_that_cannot_be_read_do_not_keep_a_broker_from_starting(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(definitions=queue_of(1), keys=[PublishKey(1, 0, "a", 99)])))
    result(store.close())
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("INSERT INTO dedup (until, keys) VALUES (99, x'05')")
        connection.commit()
    assert result(store.open()).keys == [PublishKey(1, 0, "a", 99)]
    result(store.close())


def test_the_store_in_memory_forgets_too() -> None:
    store = MemoryStore()
    result(store.open())
    result(store.commit(Group(definitions=queue_of(1))))
    for stamp in range(10_000):
        result(store.commit(Group(keys=[PublishKey(1, stamp, str(stamp), stamp + 10)], last_stamp=stamp)))
    assert len(store._ledger.keys) < 2000
    assert len(result(store.open()).keys) == 10
