"""Damage and errors at any place: what was confirmed is there, what cannot be read is set aside, the rest goes on."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, capturedLogs, formatEvent

from broker.core.store import DefineReader, Failure, Group
from broker.errors import BrokerError, ConfigError, StoreUnavailable
from broker.storage import file, unfolded
from broker.storage.sqlite import SQLiteStore
from tests.storage.support import inline_store, messages, queue_of, result, stored
from tests.support import flush_logged_errors


def writer(store: SQLiteStore) -> sqlite3.Connection:
    found = next(iter(store._file._pools[0].connections.values()))
    assert isinstance(found, sqlite3.Connection)
    return found


def change(path: Path | str, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, values)
        connection.commit()


def rows(path: Path | str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def errors(events: Sequence[LogEvent]) -> list[str | None]:
    return [formatEvent(event) for event in events if event["log_level"].name in ("error", "critical")]


def test_a_file_that_may_not_be_written_is_one_clear_error(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 2)}, definitions=queue_of(1))))
    writer(store).execute("PRAGMA query_only=ON")  # what SQLite then says is what it says of a read-only file
    for group in (Group(parts={1: messages(2, 1)}), Group(settled={1: [(0, 1)]})):
        with pytest.raises(StoreUnavailable, match="the data file cannot be written"):
            result(store.commit(group))
    assert len(stored(store, 1)) == 2
    writer(store).execute("PRAGMA query_only=OFF")
    assert result(store.commit(Group(parts={1: messages(2, 1)}))).bases == {1: 2}
    result(store.close())


# -- an error at any statement


class Faulty(sqlite3.Connection):
    """Fails at the N-th statement, and perhaps some after it, counted over all connections of a class."""

    fails_at = 0
    times = 1
    done = 0

    def _step(self) -> None:
        cls = type(self)
        cls.done += 1
        if cls.fails_at <= cls.done < cls.fails_at + cls.times:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self._step()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        self._step()
        return super().executemany(*args)

    def blobopen(self, *args: Any, **kwargs: Any) -> sqlite3.Blob:
        self._step()
        return super().blobopen(*args, **kwargs)

    def commit(self) -> None:
        wrote = self.in_transaction
        if wrote:
            self._step()
        super().commit()
        if wrote:
            self._step()

    def rollback(self) -> None:
        self._step()
        super().rollback()


class Run:
    """A queue's life, with what was confirmed of it."""

    def __init__(self, path: Path, connection: type[sqlite3.Connection]) -> None:
        self.store = inline_store(path, connection=connection)
        self.failed = 0
        self.settled: set[int] = set()
        self.next = 0

    def tried(self, group: Group) -> bool:
        try:
            result(self.store.commit(group))
        except StoreUnavailable:
            self.failed += 1
            return False
        return True

    def go(self) -> None:
        while True:
            try:
                result(self.store.open())
                break
            except BrokerError:
                self.failed += 1
        while not self.tried(Group(definitions=queue_of(1))):
            pass
        for step in range(14):
            size = 20_000 if step % 5 == 4 else 30_000 // (step + 3)
            if self.tried(Group(parts={1: messages(self.next, 3, size)})):
                self.next += 3
            if step % 3 == 1 and self.next:
                seq = self.next - 2
                if self.tried(Group(settled={1: [(0, seq)]}, failures={(1, seq): Failure(step)})):
                    self.settled |= set(range(seq))
            for quiet in (lambda: stored(self.store, 1), lambda: result(self.store.trim(1 << 20))):
                try:
                    quiet()
                except StoreUnavailable:
                    self.failed += 1
            self.store._reactor.advance(6)
        for _ in range(2):  # a close that fails has still let go
            try:
                result(self.store.close())
            except StoreUnavailable:
                self.failed += 1


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("part", range(2))
def test_an_error_at_any_statement_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, times: int
) -> None:
    """`times` in a row: whether a commit that failed was done cannot be looked for, nor be taken back at once."""
    monkeypatch.setattr(unfolded, "FOLD_RECORDS", 4)
    monkeypatch.setattr(file, "WAL_BYTES", 60_000)

    def run(number: int) -> Run:
        connection = type("OneFault", (Faulty,), {"fails_at": number, "times": times, "done": 0})
        monkeypatch.setattr(sqlite3, "Connection", connection)  # what the reading connections are
        one = Run(tmp_path / f"{number}.sqlite", connection)
        try:
            one.go()
        finally:
            monkeypatch.undo()
            monkeypatch.setattr(unfolded, "FOLD_RECORDS", 4)
            monkeypatch.setattr(file, "WAL_BYTES", 60_000)
        statements.append(connection.done)  # type: ignore[attr-defined]
        return one

    statements: list[int] = []
    run(0)
    assert statements[0] > 150
    failed = 0
    for number in range(1 + part, statements[0] + 1, 2 * times):
        one = run(number)
        failed += one.failed
        assert one.failed <= 1 + times, number
        again = inline_store(one.store.path)
        inventory = result(again.open())
        assert inventory.lanes[0].next == one.next, number
        assert inventory.readers[0].cursor == len(one.settled), number
        expected = messages(0, one.next, 0)
        found = stored(again, 1)
        assert set(found) >= set(range(one.next)) - one.settled, number
        assert all(message.stamp == expected[seq].stamp for seq, message in found.items()), number
        result(again.close())
    assert failed > 20
    flush_logged_errors(sqlite3.OperationalError, sqlite3.ProgrammingError)  # adbapi tells of rollbacks that failed


# -- what cannot be read


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A closed store with batches of 10 messages, two queues reading them."""
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    definitions = [*queue_of(1), *queue_of(2)[:1], DefineReader(2, 2, 1, 0)]
    for first in range(0, 50, 10):
        result(store.commit(Group(parts={1: messages(first, 10, 5000)}, definitions=definitions)))
        definitions = []
    result(store.close())
    assert rows(path, "SELECT base, n FROM batch") == [(first, 10) for first in range(0, 50, 10)]
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "data = substr(data, 1, 700)",
        "data = substr(data, 1, length(data) - 1)",
        "data = x''",
        "data = CAST('not msgpack' AS BLOB)",
        "data = CAST(data || data AS BLOB)",
        "n = 11",
        "n = 9",
        "data = zeroblob(1000)",
    ],
)
@pytest.mark.parametrize("base", [0, 20, 40])
def test_a_batch_that_cannot_be_read_is_set_aside(damaged: Path, damage: str, base: int) -> None:
    change(damaged, f"UPDATE batch SET {damage} WHERE base = {base}")
    store = inline_store(damaged)
    result(store.open())
    lost = set(range(base, base + 10))
    with capturedLogs() as events:
        for max_bytes in (1, 1 << 18):
            assert stored(store, 1, 0, max_bytes) == {
                seq: message for seq, message in enumerate(messages(0, 50, 5000)) if seq not in lost
            }
        assert result(store.seek(1, 1000 + 25)) in (20, 25, 30)
    (said,) = errors(events)
    assert said is not None
    assert said.startswith(
        f"messages {base} to {base + (10 if damage == 'n = 11' else 8 if damage == 'n = 9' else 9)} "
    )
    assert "of lane 1, queue q1, cannot be read" in said
    assert rows(damaged, "SELECT lane, base FROM quarantine") == [(1, base)]
    again = inline_store(damaged)
    inventory = result(again.open())
    for reader in inventory.readers:
        settled = set(range(reader.cursor)).union(*(range(low, high) for low, high in reader.settled))
        assert settled >= lost - {base + 9}  # of a batch that claims 9, the tenth is a hole that was never anything
    with capturedLogs() as events:
        assert set(stored(again, 1)) == set(range(50)) - lost
    assert errors(events) == []
    assert result(again.commit(Group(parts={1: messages(50, 1)}))).bases == {1: 50}
    result(again.close())
    result(store.close())


def test_a_record_that_cannot_be_read_is_set_aside_by_the_fold(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    definitions = queue_of(1)
    for first in range(0, 12, 3):
        result(store.commit(Group(parts={1: messages(first, 3)}, definitions=definitions)))
        definitions = []
    change(store.path, "UPDATE rec SET data = substr(data, 1, 20) WHERE cid = 2")
    with capturedLogs() as events:
        assert set(stored(store, 1)) == set(range(12)) - {3, 4, 5}
        result(store.close())
    assert len(errors(events)) == 1
    assert rows(store.path, "SELECT base, n FROM batch ORDER BY base") == [(0, 3), (6, 6)]
    assert rows(store.path, "SELECT lane, base, n, length(data) FROM quarantine") == [(1, 3, 3, 20)]
    inventory = result(store.open())
    assert inventory.readers[0].settled == [(3, 6)]
    result(store.close())


def test_a_damaged_page_costs_what_is_on_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 1, 50_000)}, definitions=queue_of(1))))
    for first in range(1, 6):
        result(store.commit(Group(parts={1: messages(first, 1, 50_000)})))
    result(store.close())
    data = bytearray(path.read_bytes())
    # Pages of nothing but body: their first four bytes name the page that goes on.
    bodies = [at for at in range(0, len(data), 4096) if data[at + 4 : at + 4096] == b"x" * 4092]
    at = bodies[len(bodies) // 2]
    data[at : at + 4] = b"\xff\xff\xff\xf0"
    path.write_bytes(data)
    store = inline_store(path)
    result(store.open())
    with capturedLogs() as events:
        found = stored(store, 1)
    (lost,) = set(range(6)) - set(found)
    assert any(f"messages {lost} to {lost} " in str(line) for line in errors(events))
    assert result(store.commit(Group(parts={1: messages(6, 1)}))).bases == {1: 6}
    result(store.close())


def test_a_damaged_directory_stops_the_start_with_one_line(tmp_path: Path) -> None:
    store = inline_store(tmp_path / "a.sqlite")
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1))))
    change(store.path, "UPDATE rec SET dir = substr(dir, 1, 10)")
    with pytest.raises(ConfigError, match="record 1 of the data file is damaged") as caught:
        result(inline_store(store.path).open())
    assert "\n" not in caught.value.reason


# -- a log that was cut off


def test_a_torn_log_opens_with_what_was_committed_before(tmp_path: Path) -> None:
    """As after a loss of power with a disk that had not written everything it said it had."""
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    result(store.commit(Group(definitions=[*queue_of(1), *queue_of(2)[:1]])))
    ends = [(store._file.wal_size(), 0)]
    for number in range(30):
        result(store.commit(Group(parts={1: messages(2 * number, 2, 700 * (number % 4))})))
        ends.append((store._file.wal_size(), 2 * number + 2))
    whole = ends[-1][0]
    choices = random.Random(1)
    cuts = {0, 31, 32, whole - 1, whole, *(end for end, _ in ends), *(choices.randrange(whole) for _ in range(60))}
    for number, cut in enumerate(sorted(cuts)):
        copy = tmp_path / f"copy{number}.sqlite"
        shutil.copy(path, copy)
        torn = Path(f"{path}-wal").read_bytes()[:cut]
        if number % 2:
            torn += choices.randbytes(choices.randrange(9000))  # or had written something else
        Path(f"{copy}-wal").write_bytes(torn)
        again = inline_store(copy)
        inventory = result(again.open())
        expected = max((count for end, count in ends if end <= cut), default=None)
        if expected is None:
            assert inventory.lanes == []
        else:
            assert inventory.lanes[0].next == expected
            assert sorted(stored(again, 1)) == list(range(expected))
            assert result(again.commit(Group(parts={1: messages(expected, 1)}))).bases == {1: expected}
        result(again.close())
    result(store.close())
