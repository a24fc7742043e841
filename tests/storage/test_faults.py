"""What goes wrong with a disk: an error, everything before stands, numbers stay dense, and it works again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from broker.core.store import Committed, Expired, Failure, Group
from broker.errors import StoreRefused, StoreUnavailable
from broker.storage import file, reading, unfolded
from broker.storage.file import WAL_BYTES
from broker.storage.sqlite import FOLD_PAUSE, IDLE, SQLiteStore
from tests.storage.support import (
    FailingConnection,
    failing_connection,
    inline_store,
    messages,
    queue_of,
    result,
    stored,
)
from tests.support import flush_logged_errors, tx

FULL = sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def connection() -> type[FailingConnection]:
    return failing_connection()


@pytest.fixture
def store(tmp_path: Path, connection: type[FailingConnection]) -> Iterator[SQLiteStore]:
    store = inline_store(tmp_path / "broker.sqlite", connection=connection)
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 2)}, definitions=queue_of(1))))
    yield store
    connection.before = connection.after = None
    result(store.close())


def writer(store: SQLiteStore) -> sqlite3.Connection:
    found = next(iter(store._file._pools[0].connections.values()))
    assert isinstance(found, sqlite3.Connection)
    return found


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_nth_commit_fails(store: SQLiteStore, connection: type[FailingConnection], n: int) -> None:
    next_number = 2
    for number in range(1, 8):
        connection.before = FULL if number == n else None
        group = Group(parts={1: messages(next_number, 3)}, settled={1: [(next_number - 1, next_number)]})
        if number == n:
            with pytest.raises(StoreUnavailable, match="full"):
                result(store.commit(group))
        else:
            assert result(store.commit(group)).bases == {1: next_number}
            next_number += 3
    assert stored(store, 1) == dict(enumerate(messages(0, next_number)))
    again = inline_store(store.path)
    ours = result(again.open())
    assert ours.lanes[0].next == next_number
    assert ours == store._ledger.inventory(1)
    result(again.close())


def test_an_error_after_the_commit_was_done_is_found_out(
    store: SQLiteStore, connection: type[FailingConnection]
) -> None:
    connection.after = sqlite3.OperationalError("disk I/O error")
    assert result(store.commit(Group(parts={1: messages(2, 1)}))).bases == {1: 2}
    connection.after = None
    assert result(store.commit(Group(parts={1: messages(3, 1)}))).bases == {1: 3}
    assert stored(store, 1) == dict(enumerate(messages(0, 4)))


class Blind:
    """The next `times` commits fail when they are done, and nobody can look whether they were."""

    def __init__(self, connection: type[FailingConnection], monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self._connection = connection
        self._find = reading.find
        connection.after = sqlite3.OperationalError("disk I/O error")
        monkeypatch.setattr(reading, "find", self.find)

    def find(self, connection: sqlite3.Connection, cid: int) -> tuple[bytes, int] | None:
        if not self.left:
            return self._find(connection, cid)
        self.left -= 1
        if not self.left:
            self._connection.after = None
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("closed", [False, True])
def test_a_commit_that_nobody_saw_leaves_nothing(
    store: SQLiteStore, connection: type[FailingConnection], monkeypatch: pytest.MonkeyPatch, size: int, closed: bool
) -> None:
    """It was told as failed, so that its numbers are given again, in its own lane and in others."""
    result(store.commit(Group(definitions=queue_of(2))))
    Blind(connection, monkeypatch, 2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            result(
                store.commit(Group(parts={1: messages(50, 9, size), 2: messages(59, 9, size)}, settled={1: [(0, 1)]}))
            )
    if closed:
        result(store.close())
        assert [(lane.id, lane.next) for lane in result(store.open()).lanes] == [(1, 2), (2, 0)]
    for number, lane in enumerate((1, 2, 1)):
        result(store.commit(Group(parts={lane: messages(100 + number, 1, size)})))
    for _ in range(2):
        assert list(stored(store, 1).values()) == [*messages(0, 2), *messages(100, 1, size), *messages(102, 1, size)]
        assert list(stored(store, 2).values()) == messages(101, 1, size)
        result(store.close())
        assert result(store.open()).readers[0].cursor == 0


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_a_fold_that_nobody_saw_is_seen_in_the_end(
    store: SQLiteStore,
    connection: type[FailingConnection],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    alone: bool,
) -> None:
    """The index of the records is behind the file: everything is found all the same, and folds go on."""
    monkeypatch.setattr(unfolded, "FOLD_RECORDS", 5)
    number = 2
    while store._fold is None:
        result(store.commit(Group(parts={1: messages(number, 2, 500)}, settled={1: [(number - 2, number - 1)]})))
        number += 2
    assert len(store._unfolded.records) == 5
    Blind(connection, monkeypatch, times)
    if alone:
        store._reactor.advance(IDLE)
    while connection.after is not None:
        try:
            result(store.commit(Group(parts={1: messages(number, 1, 500)})))
            number += 1
        except StoreUnavailable:
            pass
    assert writer(store).execute("SELECT count(*) FROM rec WHERE cid <= 5").fetchone() == (0,)

    def look() -> None:
        found = stored(store, 1)
        assert found == {seq: messages(seq, 1, 500 if seq > 1 else 10)[0] for seq in found}
        assert set(range(1, number, 2)) | set(range(number - 2, number)) <= found.keys()
        for seq in found:
            assert result(store.seek(1, 1000 + seq)) == seq
            assert result(store.expired(1, seq, 5, 1 << 20)) == Expired([], number, 0, 1000 + seq)
        after = [len(batch.data) for batch in result(store.read(1, result(store.seek_bytes(1, 1200)), 1 << 20))]
        assert sum(after) >= 1200

    for _ in range(20):
        look()
        result(store.commit(Group(parts={1: messages(number, 1, 500)})))
        number += 1
        store._reactor.advance(FOLD_PAUSE)
    assert len(store._unfolded.records) < 5
    assert store._unfolded.records[0][0] == writer(store).execute("SELECT min(cid) FROM rec").fetchone()[0]
    result(store.close())
    result(store.open())
    look()


def test_a_connection_that_cannot_roll_back_is_replaced(tmp_path: Path) -> None:
    class Stuck(FailingConnection):
        def rollback(self) -> None:
            raise sqlite3.OperationalError("no rollback either")

    store = inline_store(tmp_path / "a.sqlite", connection=Stuck)
    result(store.open())
    first = writer(store)
    Stuck.before = FULL
    with pytest.raises(StoreUnavailable):
        result(store.commit(Group(parts={1: messages(0, 1)}, definitions=queue_of(1))))
    Stuck.before = None
    assert result(store.commit(Group(parts={1: messages(0, 1)}, definitions=queue_of(1)))).bases == {1: 0}
    assert writer(store) is not first
    assert stored(store, 1) == dict(enumerate(messages(0, 1)))
    result(store.close())
    flush_logged_errors(sqlite3.OperationalError)


@pytest.mark.parametrize("size", [10, 20_000])
def test_a_full_disk_refuses_messages_and_settlements_alike(store: SQLiteStore, size: int) -> None:
    """Trap 11: SQLITE_FULL hits settlements too."""
    pages = writer(store).execute("PRAGMA page_count").fetchone()[0]
    writer(store).execute(f"PRAGMA max_page_count={pages + 3}")
    count = 2

    def publish() -> None:
        nonlocal count
        while True:
            assert result(store.commit(Group(parts={1: messages(count, 1, size)}))).bases == {1: count}
            count += 1

    def fail() -> None:
        while True:
            result(store.commit(Group(failures={(1, 1): Failure(1, 0, "x" * 500)})))

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        publish()
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        fail()
    assert len(stored(store, 1)) == count
    writer(store).execute("PRAGMA max_page_count=1000000")
    assert result(store.commit(Group(parts={1: messages(count, 1)}, settled={1: [(0, 1)]}))).bases == {1: count}
    again = inline_store(store.path)
    assert result(again.open()).lanes[0].next == count + 1
    assert len(stored(again, 1)) == count + 1
    result(again.close())


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, in a process of its own: the kernel refuses the write."""
    script = """
        import resource, signal, sys
        from broker.core.store import Group
        from broker.errors import StoreUnavailable
        from tests.storage.support import inline_store, messages, queue_of, result, stored
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = inline_store(sys.argv[1])
        result(store.open())
        result(store.commit(Group(definitions=queue_of(1))))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, hard))
        count = 0
        try:
            while True:
                assert result(store.commit(Group(parts={1: messages(count, 1, 9000)}))).bases == {1: count}
                count += 1
        except StoreUnavailable as error:
            print(error.reason)
        assert count > 20
        assert len(stored(store, 1)) == count
        for _ in range(3):
            try:
                result(store.commit(Group(parts={1: messages(count, 1, 9000)})))
            except StoreUnavailable:
                continue
            raise SystemExit("it fitted")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert result(store.commit(Group(parts={1: messages(count, 1, 9000)}))).bases == {1: count}
        result(store.close())
        again = inline_store(sys.argv[1])
        assert result(again.open()).lanes[0].next == count + 1
        assert list(stored(again, 1).values()) == messages(0, count + 1, 9000)
        result(again.close())
        print("works again")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a.sqlite")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "disk" in done.stdout
    assert done.stdout.endswith("works again\n")


def test_what_a_client_reads_names_no_path(store: SQLiteStore, connection: type[FailingConnection]) -> None:
    connection.before = sqlite3.OperationalError("unable to open database file")
    with pytest.raises(StoreUnavailable) as caught:
        result(store.commit(Group(parts={1: messages(2, 1)})))
    assert store.path not in caught.value.reason


def test_content_sqlite_cannot_hold_is_refused(store: SQLiteStore, connection: type[FailingConnection]) -> None:
    connection.before = sqlite3.DataError("string or blob too big")
    with pytest.raises(StoreRefused, match="too big"):
        result(store.commit(Group(parts={1: messages(2, 1)})))
    connection.before = None
    assert result(store.commit(Group(parts={1: messages(2, 1)}))).bases == {1: 2}


def test_failing_and_working_again_is_one_line_each(store: SQLiteStore, connection: type[FailingConnection]) -> None:
    with capturedLogs() as events:
        connection.before = FULL
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                result(store.commit(Group(parts={1: messages(2, 1)})))
        connection.before = None
        for number in range(2, 5):
            result(store.commit(Group(parts={1: messages(number, 1)})))
    said = [event["log_level"].name for event in events if event.get("log_namespace", "").startswith("broker")]
    assert said == ["error", "info"]


def test_an_error_in_who_waits_for_a_commit_does_not_stop_the_next(store: SQLiteStore) -> None:
    """Trap 2: an exception in a callback goes nowhere, and must not keep the store from committing."""

    def fails(committed: Committed) -> None:
        raise RuntimeError("in a callback")

    waiting: Deferred[None] = store.commit(Group(parts={1: messages(2, 1)})).addCallback(fails)
    failed: list[object] = []
    _ = waiting.addErrback(failed.append)
    assert len(failed) == 1
    assert result(store.commit(Group(parts={1: messages(3, 1)}))).bases == {1: 3}


def test_a_commit_is_one_record_and_one_commit_of_the_file_however_many_queues(
    store: SQLiteStore, connection: type[FailingConnection]
) -> None:
    """One commit is one fsync with synchronous=FULL in the write-ahead log."""
    queues = range(10, 1010)
    result(store.commit(Group(definitions=[one for id in queues for one in queue_of(id)])))
    statements: list[str] = []
    writer(store).set_trace_callback(statements.append)
    commits = connection.commits
    bases = result(store.commit(Group(parts={id: messages(0, 1) for id in queues}, settled={1: [(0, 1)]}))).bases
    writer(store).set_trace_callback(None)
    assert bases == dict.fromkeys(queues, 0)
    assert connection.commits == commits + 1
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "INSERT", "COMMIT"]
    assert stored(store, 777) == dict(enumerate(messages(0, 1)))


def test_the_file_is_set_up_as_documented(tmp_path: Path) -> None:
    def pragma(connection: sqlite3.Connection, name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    expected: dict[str, object] = {
        "journal_mode": "wal",
        "secure_delete": 0,
        "auto_vacuum": 2,
        "wal_autocheckpoint": 0,
        "cache_size": -8000,
    }
    for sync, number in (("full", 2), ("normal", 1)):
        expected["synchronous"] = number
        one = inline_store(tmp_path / f"{sync}.sqlite", sync=sync)
        result(one.open())
        assert {name: pragma(writer(one), name) for name in expected} == expected
        result(one.close())


def test_the_write_ahead_log_stays_short(store: SQLiteStore) -> None:
    longest = 0
    for number in range(2, 402):
        result(store.commit(Group(parts={1: messages(number, 1, 100_000)}, settled={1: [(0, number)]})))
        longest = max(longest, store._file.wal_size())
        if number % 10 == 0:
            while result(store.trim(1 << 20)):
                pass
    assert WAL_BYTES < longest < 2 * WAL_BYTES
    sizes = result(store.measure())
    assert sizes.data < 8_000_000


@tx(60)
async def test_the_write_ahead_log_is_bounded_beside_readers_of_the_past(tmp_path: Path) -> None:
    """Messages come as fast as they go, and others are read from the beginning on all the while."""
    store = SQLiteStore(str(tmp_path / "a.sqlite"), sync="normal")
    await store.open()
    count, size = 1200, 50_000
    longest = reads = 0
    over = False

    async def read_on() -> None:
        nonlocal reads
        seq = 0
        while not over:
            batches = await store.read(1, seq, 1 << 18)
            seq = batches[-1].base + batches[-1].count if batches else 0
            await store.expired(1, seq, 5, 1 << 18)
            reads += 1

    await store.commit(Group(definitions=queue_of(1)))
    readers = [Deferred.fromCoroutine(read_on()) for _ in range(2)]
    try:
        for number in range(count):
            await store.commit(Group(parts={1: messages(number, 1, size)}))
            longest = max(longest, os.stat(f"{store.path}-wal").st_size)
        assert (await store.measure()).wal == os.stat(f"{store.path}-wal").st_size
    finally:
        over = True
        for reader in readers:
            await reader
        await store.close()
    assert reads > 100
    assert WAL_BYTES < longest < 4 * WAL_BYTES + 2 * 2 * size


@tx(30)
async def test_a_clean_close_leaves_one_file_and_nothing_to_replay(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = SQLiteStore(str(tmp_path / "a.sqlite"))
    await store.open()
    await store.commit(Group(parts={1: messages(0, 50)}, definitions=queue_of(1), settled={1: [(3, 4)]}))
    under_way = store.commit(Group(parts={1: messages(50, 1)}))
    await store.close()
    assert (await under_way).bases == {1: 50}
    assert sorted(os.listdir(tmp_path)) == ["a.sqlite", "a.sqlite.reserve"]
    assert set(threading.enumerate()) <= before  # others of this process may end meanwhile
    connection = sqlite3.connect(tmp_path / "a.sqlite")
    assert connection.execute("SELECT count(*) FROM rec").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM bits").fetchone() == (1,)
    connection.close()


def test_a_close_that_cannot_write_still_lets_go(store: SQLiteStore, connection: type[FailingConnection]) -> None:
    connection.before = FULL
    with pytest.raises(StoreUnavailable):
        result(store.close())
    connection.before = None
    assert store._file._pools == []
    inventory = result(store.open())
    assert inventory.unclean_starts == 1
    assert len(stored(store, 1)) == 2


@pytest.mark.parametrize("moment", ["before the INSERT", "after the INSERT", "after COMMIT"])
def test_killed_at_any_moment(tmp_path: Path, moment: str) -> None:
    """SIGKILL from within the write connection: what was told is there, and nothing in between."""
    script = """
        import os, signal, sqlite3, sys
        from broker.core.store import Group
        from tests.storage.support import inline_store, messages, queue_of, result
        moment, armed = sys.argv[2], False
        def die():
            if armed:
                os.kill(os.getpid(), signal.SIGKILL)
        class Dying(sqlite3.Connection):
            def execute(self, sql, *args):
                if sql.startswith("INSERT INTO rec") and moment == "before the INSERT":
                    die()
                return super().execute(sql, *args)
            def commit(self):
                if self.in_transaction and moment == "after the INSERT":
                    die()
                super().commit()
                if moment == "after COMMIT":
                    die()
        store = inline_store(sys.argv[1], connection=Dying)
        result(store.open())
        result(store.commit(Group(parts={1: messages(0, 2)}, definitions=queue_of(1))))
        armed = True
        result(store.commit(Group(parts={1: messages(2, 2)}, settled={1: [(0, 1)]})))
    """
    path = tmp_path / "a.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path), moment],
        capture_output=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == -9, done.stderr
    store = inline_store(path)
    inventory = result(store.open())
    whole = moment == "after COMMIT"
    assert (inventory.lanes[0].next, inventory.readers[0].cursor) == ((4, 1) if whole else (2, 0))
    assert stored(store, 1) == dict(enumerate(messages(0, 4 if whole else 2)))
    assert inventory.unclean_starts == 1
    result(store.close())


def test_somebody_elses_open_transaction_makes_the_log_grow_and_no_more(store: SQLiteStore) -> None:
    other = sqlite3.connect(store.path)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM rec").fetchall()
    for number in range(2, 62):
        result(store.commit(Group(parts={1: messages(number, 1, 500_000)})))
    assert store._file.wal_size() > 5 * WAL_BYTES
    other.close()
    for number in range(62, 102):
        result(store.commit(Group(parts={1: messages(number, 1, 500_000)})))
    assert store._file.wal_size() < 3 * WAL_BYTES
    assert len(stored(store, 1)) == 102


@pytest.mark.parametrize(("sync", "full"), [("full", 1), ("normal", 0)])
def test_a_full_sync_is_one_on_macos_too(tmp_path: Path, sync: str, full: int) -> None:
    for setup in (file.writer_setup(sync), file.reader_setup(sync)):
        with closing(sqlite3.connect(tmp_path / "data")) as connection:
            setup(connection)
            for name in ("fullfsync", "checkpoint_fullfsync"):
                assert connection.execute(f"PRAGMA {name}").fetchone() == (full,)
