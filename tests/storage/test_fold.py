"""Folding, reading beside it, and freeing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.core.destination import Kind
from broker.core.store import DefineBinding, DefineDestination, DefineLane, DefineReader, DropQueue, Group
from broker.errors import StoreUnavailable
from broker.storage import fold, reading, unfolded
from broker.storage.fold import Folding
from broker.storage.record import Directory, Part
from broker.storage.sqlite import FOLD_PAUSE, SQLiteStore
from broker.storage.unfolded import Place
from tests.storage.support import InlineThreads, failing_connection, inline_store, messages, queue_of, result, stored


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(unfolded, "FOLD_RECORDS", 10)
    store = inline_store(tmp_path / "broker.sqlite", connection=failing_connection())
    result(store.open())
    yield store
    result(store.close())


def put(store: SQLiteStore, first: int, count: int, *, size: int = 10, **more: Any) -> None:
    """So many commits of one message each."""
    for number in range(first, first + count):
        result(store.commit(Group(parts={1: messages(number, 1, size)}, **more)))
        more = {}


def rows(store: SQLiteStore, query: str) -> list[tuple[Any, ...]]:
    """What a connection of its own sees."""
    connection = sqlite3.connect(store.path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def reader_threads(store: SQLiteStore) -> InlineThreads:
    threads = store._file._pools[1].threadpool
    assert isinstance(threads, InlineThreads)
    return threads


def test_a_fold_rides_in_the_next_commit(store: SQLiteStore) -> None:
    put(store, 0, 10, definitions=queue_of(1))
    assert rows(store, "SELECT count(*) FROM rec") == [(10,)]
    connection = store._file._factory
    commits = connection.commits  # type: ignore[attr-defined]
    put(store, 10, 1)
    assert connection.commits == commits + 1  # type: ignore[attr-defined]
    assert rows(store, "SELECT cid FROM rec") == [(11,)]
    assert rows(store, "SELECT lane, base, n FROM batch") == [(1, 0, 10)]
    assert list(stored(store, 1).values()) == messages(0, 11)


def test_an_idle_store_folds_in_a_commit_of_its_own(store: SQLiteStore) -> None:
    put(store, 0, 10, definitions=queue_of(1))
    store._reactor.advance(1)
    assert rows(store, "SELECT count(*) FROM rec") == [(0,)]
    assert rows(store, "SELECT base, n FROM batch") == [(0, 10)]
    assert store._reactor.getDelayedCalls() == []


def test_what_every_reader_has_settled_is_never_written_again(store: SQLiteStore) -> None:
    both = [*queue_of(1), DefineDestination(2, Kind.QUEUE, "b"), DefineReader(2, 2, 1, 0)]
    put(store, 0, 9, definitions=both)
    result(store.commit(Group(settled={1: [(0, 4), (6, 8)], 2: [(0, 9)]})))
    store._reactor.advance(1)
    assert rows(store, "SELECT base, n FROM batch ORDER BY base") == [(4, 2), (8, 1)]
    assert {n: m.stamp for n, m in stored(store, 1).items()} == {4: 1004, 5: 1005, 8: 1008}


def test_a_part_is_cut_to_what_is_wanted(store: SQLiteStore) -> None:
    result(store.commit(Group(parts={1: messages(0, 20)}, definitions=queue_of(1), settled={1: [(0, 5), (15, 20)]})))
    lengths = rows(store, "SELECT length(data) FROM rec")
    for _ in range(9):
        result(store.commit(Group(settled={1: [(7, 8)]})))
    store._reactor.advance(1)
    assert rows(store, "SELECT base, n, t0 FROM batch") == [(5, 10, 1005)]
    assert 0 < rows(store, "SELECT before FROM batch")[0][0] < lengths[0][0] // 3
    assert stored(store, 1) == dict(enumerate(messages(5, 10), 5))


def test_restarting_does_not_depend_on_history(store: SQLiteStore) -> None:
    put(store, 0, 1, definitions=queue_of(1))
    for number in range(1, 300):
        result(store.commit(Group(parts={1: messages(number, 1)}, settled={1: [(number - 1, number)]})))
    store._reactor.advance(1)
    while result(store.trim(1 << 20)):
        pass
    assert rows(store, "SELECT count(*) FROM rec")[0][0] < 11
    assert rows(store, "SELECT count(*) FROM batch")[0][0] < 2
    assert len(stored(store, 1)) < 12


def test_a_read_asked_for_before_a_fold_and_done_after_it_misses_nothing(store: SQLiteStore) -> None:
    """Trap 7: batches and records are read in one transaction, and a missing record was folded."""
    put(store, 0, 9, definitions=queue_of(1))
    asked = store.read(1, 3, 1 << 18)
    threads = reader_threads(store)
    threads.held = True
    late = [store.read(1, 3, 1 << 18), store.read(1, 3, 30)]
    sought = store.seek(1, 1006)
    threads.held = False
    waiting, threads.waiting = threads.waiting, []
    put(store, 9, 1)
    store._reactor.advance(1)
    assert rows(store, "SELECT count(*) FROM rec") == [(0,)]
    for work in waiting:
        work()
    assert [batch.base for batch in result(asked)] == list(range(3, 9))
    assert [(batch.base, batch.count) for batch in result(late[0])] == [(0, 10)]
    assert [(batch.base, batch.count) for batch in result(late[1])] == [(0, 10)]
    assert result(sought) == 6


def test_a_read_goes_on_when_all_it_was_to_read_is_gone(store: SQLiteStore) -> None:
    """Trap 7: folded meanwhile, and settled: what is further on is still found."""
    put(store, 0, 9, definitions=queue_of(1))
    threads = reader_threads(store)
    threads.held = True
    late = store.read(1, 0, 50)
    threads.held = False
    waiting, threads.waiting = threads.waiting, []
    result(store.commit(Group(settled={1: [(0, 8)]})))
    store._reactor.advance(1)
    assert rows(store, "SELECT base FROM batch") == [(8,)]
    for work in waiting:
        work()
    assert [batch.base for batch in result(late)] == [8]


def test_a_part_of_a_large_record_is_read_without_the_rest(tmp_path: Path) -> None:
    """Trap 9: substr(blob) loads the blob first; a blob is opened instead."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE rec (cid INTEGER PRIMARY KEY, dir BLOB, data BLOB)")
    connection.execute("INSERT INTO rec VALUES (1, x'', ?)", (bytes(500_000) + b"here" + bytes(500_000),))
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    place = Place(1, 1_000_004, Part(1, 0, 1, 500_000, 4, 0, 0, 0, 0))
    assert reading.part_data(connection, place) == b"here"
    assert not [query for query in asked if "data" in query]
    assert reading.part_data(connection, Place(2, 1_000_004, place.part)) is None
    connection.close()


def test_a_commit_is_not_refused_because_its_fold_finds_no_room(store: SQLiteStore) -> None:
    put(store, 0, 10, definitions=queue_of(1))
    writer = next(iter(store._file._pools[0].connections.values()))
    writer.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON main.batch BEGIN SELECT raise(ABORT, 'full'); END")
    put(store, 10, 3)
    assert rows(store, "SELECT count(*) FROM rec") == [(13,)]
    writer.execute("DROP TRIGGER full")
    store._reactor.advance(FOLD_PAUSE - 0.1)
    assert rows(store, "SELECT count(*) FROM batch") == [(0,)]
    store._reactor.pump([0.2, 1])
    assert rows(store, "SELECT base, n FROM batch") == [(0, 13)]
    assert list(stored(store, 1).values()) == messages(0, 13)


def test_what_a_fold_cannot_see_is_not_taken_for_folded(store: SQLiteStore) -> None:
    """A statement that was left half-way keeps its snapshot, and that of before a commit does not have its record."""
    for number in range(3):
        result(store.commit(Group(parts={1: messages(number, 1)}, definitions=queue_of(1) if not number else [])))
    with closing(sqlite3.connect(store.path)) as connection:
        half = connection.execute("SELECT cid FROM rec")
        half.fetchone()
        result(store.commit(Group(parts={1: messages(3, 1)})))
        keeps = fold.plan(store._ledger, store._unfolded, 4)
        with pytest.raises(StoreUnavailable, match="record 4"):
            reading.fetch(connection, keeps, Folding(4))
        connection.rollback()
        half.close()
        folding = Folding(4)
        reading.fetch(connection, keeps, folding)
        folding.finish()
        assert [(row.base, row.count) for row in folding.rows] == [(0, 4)]


def test_a_lane_dropped_while_its_fold_was_prepared_stays_away(store: SQLiteStore) -> None:
    put(store, 0, 10, definitions=queue_of(1))
    result(store.commit(Group(definitions=[DropQueue(1)])))
    while result(store.trim(1 << 20)):
        pass
    store._reactor.advance(1)
    result(store.close())
    assert rows(store, "SELECT count(*) FROM batch") == [(0,)]
    assert rows(store, "SELECT count(*) FROM lane") == [(0,)]
    result(store.open())


def test_a_fold_keeps_what_records_after_it_say_from_being_applied_twice(store: SQLiteStore) -> None:
    """A queue is dropped while another reads its log, then that one too: read twice, the log itself would go."""
    both = [*queue_of(1), DefineDestination(2, Kind.QUEUE, "b"), DefineReader(2, 2, 1, 0), DefineBinding(1, 2, 1)]
    threads = reader_threads(store)
    put(store, 0, 9, definitions=both)
    threads.held = True
    put(store, 9, 1)
    result(store.commit(Group(definitions=[DropQueue(1)])))
    result(store.commit(Group(definitions=[DropQueue(2)])))
    threads.held = False
    threads.step()
    result(store.commit(Group(definitions=queue_of(3))))
    assert rows(store, "SELECT cid FROM rec") == [(11,), (12,), (13,)]
    ledger = store._ledger.inventory(1)
    assert [one.id for one in ledger.destinations] == [1, 3]
    again = inline_store(store.path)
    assert result(again.open()) == ledger
    result(again.close())


def test_what_was_settled_while_a_fold_was_prepared_is_freed_after_it(store: SQLiteStore) -> None:
    threads = reader_threads(store)
    put(store, 0, 9, definitions=queue_of(1))
    threads.held = True
    put(store, 9, 1)
    result(store.commit(Group(settled={1: [(0, 10)]})))
    assert result(store.trim(1 << 20)) == 0
    threads.held = False
    threads.step()
    store._reactor.advance(1)
    assert rows(store, "SELECT base, n FROM batch") == [(0, 10)]
    assert result(store.trim(1 << 20)) > 0
    assert rows(store, "SELECT count(*) FROM batch") == [(0,)]


def test_what_is_retained_is_folded_whole(store: SQLiteStore) -> None:
    put(store, 0, 9, definitions=queue_of(1), keep={1: 0})
    result(store.commit(Group(settled={1: [(0, 3), (5, 9)]}, keep={1: 2})))
    store._reactor.advance(1)
    assert rows(store, "SELECT base, n FROM batch ORDER BY base") == [(2, 7)]
    assert rows(store, "SELECT keep FROM lane") == [(2,)]
    result(store.commit(Group(parts={1: messages(9, 1)}, settled={1: [(3, 10)]})))
    again = inline_store(store.path)
    result(again.open())
    for _ in range(9):  # a fold before anybody says again what is retained
        result(again.commit(Group(failures={(1, 9): None})))
    again._reactor.advance(1)
    assert rows(again, "SELECT base, n FROM batch ORDER BY base") == [(2, 7), (9, 1)]
    result(again.close())
    result(store.trim(1 << 20, {1: 9}))
    assert list(stored(store, 1)) == [9]


def test_what_is_retained_from_a_commit_on_survives_a_trim_asked_for_before_it(store: SQLiteStore) -> None:
    result(store.commit(Group(definitions=[DefineDestination(1, Kind.TOPIC, "t"), DefineLane(1, 1, 0)])))
    threads = store._file._pools[0].threadpool
    assert isinstance(threads, InlineThreads)
    threads.held = True
    committed = store.commit(Group(parts={1: messages(0, 9, 10_000)}, keep={1: 0}))
    freed = store.trim(1 << 20)  # whoever asks has not heard of the lane
    threads.held = False
    threads.step()
    assert result(committed).bases == {1: 0}
    assert result(freed) == 0
    assert len(stored(store, 1)) == 9


def test_batches_beneath_a_later_cursor_are_freed_after_a_restart(tmp_path: Path) -> None:
    first = inline_store(tmp_path / "a.sqlite")
    result(first.open())
    result(first.commit(Group(parts={1: messages(0, 100, 1000)}, definitions=queue_of(1))))
    result(first.commit(Group(settled={1: [(0, 100)]})))
    again = inline_store(first.path)
    result(again.open())
    assert result(again.trim(1 << 20)) >= 100_000
    assert rows(again, "SELECT count(*) FROM batch") == [(0,)]
    result(again.close())
    result(first.close())


def test_the_index_of_records_forgets_what_was_folded() -> None:
    index = unfolded.Unfolded()
    for cid in range(1, 5):
        index.add(
            cid,
            10,
            20,
            Directory(parts=[Part(1, cid * 2, 2, 0, 10, 0, 0, 0, cid), Part(cid + 5, 0, 1, -1, 10, 0, 0, 0, cid)]),
        )
    assert (index.bytes, index.parts, len(index.records)) == (80, 4, 4)
    index.forget(3)
    assert (index.bytes, index.parts, len(index.records)) == (20, 1, 1)
    assert [place.cid for place in index.lanes[1]] == [4]
    index.forget(4)
    assert index.lanes == {}
