"""The version of a store's file."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from broker.core.store import Group
from broker.errors import ConfigError, StoreUnavailable
from broker.storage import migrate
from broker.storage.sqlite import SQLiteStore
from tests.storage.support import inline_store, messages, queue_of, result, stored
from tests.support import tx

#: The version after the newest.
NEXT = max(migrate.scripts()) + 1


def made(path: Path) -> Path:
    store = inline_store(path)
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1))))
    result(store.close())
    return path


def test_a_newer_file_is_refused_with_one_line(tmp_path: Path) -> None:
    path = made(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"schema version 99.*reads up to {NEXT - 1}") as caught:
        result(inline_store(path).open())
    assert "\n" not in caught.value.reason
    assert path.read_bytes() == before


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cats (name)")
    with pytest.raises(ConfigError, match="not a broker's"):
        result(inline_store(path).open())


@tx()
async def test_a_failed_open_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Trap 13: an adbapi pool that stays open keeps the process alive."""
    (tmp_path / "garbage").write_bytes(b"not a database at all" * 1000)
    before = set(threading.enumerate())
    for path in (tmp_path / "garbage", tmp_path / "no" / "folder", tmp_path):
        store = SQLiteStore(str(path))
        with pytest.raises(StoreUnavailable, match=r"not a database|cannot be opened"):
            await store.open()
        await store.close()
    assert set(threading.enumerate()) <= before  # others of this process may end meanwhile


def test_an_older_file_is_copied_and_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    steps = migrate.scripts()
    later = {**steps, NEXT: "ALTER TABLE rec ADD COLUMN extra INTEGER;", NEXT + 1: "CREATE TABLE more (id INTEGER);"}
    path = made(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(":memory:")) as new:
        migrate.upgrade(old, str(path), later)
        migrate.upgrade(new, ":memory:", later)
        assert migrate.version(old) == migrate.version(new) == NEXT + 1
        schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert old.execute(schema).fetchall() == new.execute(schema).fetchall()
    copy = inline_store(tmp_path / f"a.sqlite.v{NEXT - 1}")
    result(copy.open())
    assert len(stored(copy, 1)) == 3
    result(copy.close())


def test_a_failed_upgrade_leaves_the_version_it_had(tmp_path: Path) -> None:
    path = made(tmp_path / "a.sqlite")
    steps = {**migrate.scripts(), NEXT: "CREATE TABLE more (id INTEGER PRIMARY KEY);\nDROP TABLE nonsense;"}
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            migrate.upgrade(connection, str(path), steps)
        assert migrate.version(connection) == NEXT - 1
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)


def test_a_record_of_a_newer_layout_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1))))
    writer = next(iter(store._file._pools[0].connections.values()))
    writer.execute("UPDATE rec SET dir = x'9802'")
    writer.commit()
    with pytest.raises(ConfigError, match="layout 2"):
        result(inline_store(tmp_path / "a.sqlite").open())
