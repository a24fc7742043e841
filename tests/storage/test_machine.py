"""SQLite against the store in memory: the same groups, folds, frees, failures and restarts leave the same."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import bits
from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.store import (
    Batch,
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    Definition,
    DropQueue,
    EndBinding,
    Failure,
    Group,
    Inventory,
    IStore,
    PublishKey,
)
from broker.errors import StoreUnavailable
from broker.storage import check as checking
from broker.storage import expiring, fold, ledger, reading, record, settled, stragglers, tables, unfolded
from broker.storage import lane as lanes
from broker.storage.check import check
from broker.storage.dump import Dump
from broker.storage.load import Load
from broker.storage.memory import MemoryStore
from broker.storage.offline import Offline, connected, created
from broker.storage.settled import Settled
from tests.storage.support import FailingConnection, failing_connection, inline_store, result, stored

#: Small limits, so that a few messages meet every one of them.
LIMITS = [
    (record, "INLINE", 300),
    (record, "BATCH_BYTES", 500),
    (record, "BATCH_COUNT", 6),
    (fold, "BATCH_BYTES", 500),
    (fold, "BATCH_COUNT", 6),
    (fold, "READ_BYTES", 200),
    (reading, "WHOLE", 100),
    (checking, "CHUNK", 8),
    (bits, "CHUNK", 8),
    (bits, "_FULL", 255),
    (settled, "CHUNK", 8),
    (settled, "FULL", 255),
    (lanes, "CHUNK", 8),
    (ledger, "CHUNK", 8),
    (ledger, "FAR", 8),
    (tables, "CHUNK", 8),
    (tables, "FAR", 8),
    (stragglers, "CHUNK", 8),
    (stragglers, "MOST", 3),
    (stragglers, "TOTAL", 9),
    (stragglers, "SLICE", 5),
    (stragglers, "SLICE_BYTES", 300),
    (expiring, "RUNS", 5),
    (tables, "KEYS", 2),
    (unfolded, "FOLD_BYTES", 1500),
    (unfolded, "FOLD_PARTS", 8),
    (unfolded, "FOLD_RECORDS", 5),
]


#: A file system without a disk behind it: nothing here takes power away, and 40,000 statements wait for no other test.
MEMORY = Path("/dev/shm")


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for module, name, value in LIMITS:
            self.patch.setattr(module, name, value)
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.connection: type[FailingConnection] = failing_connection()
        self.path = self.folder / "0.sqlite"
        self.copies = 0
        self.sqlite = inline_store(self.path, connection=self.connection)
        self.memory = MemoryStore()
        self.stamp = 0
        self.id = 0
        #: Every message ever committed, by lane and number.
        self.said: dict[int, dict[int, Message]] = {}
        self.pending: list[Definition] = []
        #: What is retained, by lane.
        self.kept: dict[int, int] = {}
        #: Groups that failed, and may be in the file until the next commit.
        self.unseen: list[Group] = []

    def teardown(self) -> None:
        self.connection.before = self.connection.after = None
        result(self.sqlite.close())
        shutil.rmtree(self.folder)
        self.patch.undo()

    # -- what is there

    @property
    def known(self) -> Inventory:
        return self.memory._ledger.inventory(0)

    def new(self) -> int:
        self.id += 1
        return self.id

    @initialize()
    def begin(self) -> None:
        result(self.memory.open())
        result(self.sqlite.open())
        self.queue(0)

    def commit(self, group: Group) -> None:
        group.definitions, self.pending = self.pending, []
        group.last_stamp = self.stamp
        bases = result(self.memory.commit(group)).bases
        assert result(self.sqlite.commit(group)).bases == bases
        self.keep(group, bases)

    def keep(self, group: Group, bases: dict[int, int]) -> None:
        if not self.sqlite._doubted:  # an empty commit writes nothing
            self.unseen.clear()
        self.kept.update(group.keep)
        for lane, messages in group.parts.items():
            self.said.setdefault(lane, {}).update(enumerate(messages, bases[lane]))

    def group(self, data: st.DataObject) -> Group:
        inventory = self.known
        group = Group()
        lanes = [lane.id for lane in inventory.lanes]
        for lane in data.draw(st.lists(st.sampled_from(lanes), max_size=3, unique=True)) if lanes else []:
            messages = []
            for size in data.draw(st.lists(st.sampled_from([0, 0, 5, 60, 600]), min_size=1, max_size=8)):
                self.stamp += data.draw(st.integers(1, 3))
                expires = data.draw(st.sampled_from([0, 0, 7, 9]))
                messages.append(Message(stamp=self.stamp, body=bytes(size), expires=expires))
            group.parts[lane] = messages
        nexts = {lane.id: lane.next + len(group.parts.get(lane.id, [])) for lane in inventory.lanes}
        for reader in inventory.readers:
            end = nexts[reader.lane]
            what = data.draw(st.sampled_from(["", "", "settle", "settle", "head", "jump", "fail", "reserve"]))
            if what == "settle" and end:
                lows = data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=4))
                group.settled[reader.id] = [(low, min(end, low + data.draw(st.integers(1, 9)))) for low in lows]
            elif what == "head" and end > reader.cursor:
                group.settled[reader.id] = [(reader.cursor, data.draw(st.integers(reader.cursor + 1, end)))]
            elif what == "jump":
                group.jumps[reader.id] = data.draw(st.integers(0, end))
            elif what == "fail" and end:
                failure = data.draw(st.sampled_from([None, Failure(1, 0, "nack"), Failure(2, 5, "é"), Failure(0, 9)]))
                group.failures[reader.id, data.draw(st.integers(0, end - 1))] = failure
            elif what == "reserve":
                group.reserved[reader.id] = data.draw(st.integers(0, end + 512))
        for lane in group.parts:
            for key in data.draw(st.lists(st.sampled_from("abcdé"), max_size=3)):
                until = self.stamp + data.draw(st.integers(-1, 30))
                group.keys.append(PublishKey(lane, data.draw(st.integers(0, nexts[lane] - 1)), key, until))
            if lane in self.kept:
                group.keep[lane] = self.kept[lane] + data.draw(st.integers(0, 5))
            elif data.draw(st.integers(0, 9)) == 0:
                group.keep[lane] = nexts[lane] - len(group.parts[lane])
        return group

    # -- definitions wait for the next group

    @rule(priority=st.integers(0, 2))
    def queue(self, priority: int) -> None:
        queue, lane = self.new(), self.new()
        self.pending += [
            DefineDestination(queue, Kind.QUEUE, f"q{queue}"),
            DefineLane(lane, queue, priority),
            DefineReader(self.new(), queue, lane, 0),
        ]

    @precondition(lambda self: self.known.lanes and not self.pending)
    @rule(data=st.data())
    def read_another_lane(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(self.known.lanes))
        queue = self.new()
        self.pending += [
            DefineDestination(queue, Kind.QUEUE, f"q{queue}"),
            DefineReader(self.new(), queue, lane.id, lane.next),
            DefineBinding(self.new(), queue, lane.destination, {lane.id: lane.next}),
        ]

    @precondition(lambda self: self.known.bindings and not self.pending)
    @rule(data=st.data(), until=st.integers(0, 9))
    def end_binding(self, data: st.DataObject, until: int) -> None:
        binding = data.draw(st.sampled_from(self.known.bindings))
        self.pending.append(EndBinding(binding.define.id, {1: until}))

    @precondition(lambda self: len(self.known.destinations) > 1 and not self.pending)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.pending.append(DropQueue(data.draw(st.sampled_from(self.known.destinations)).id))

    # -- steps

    @rule(data=st.data())
    def commit_some(self, data: st.DataObject) -> None:
        self.commit(self.group(data))

    @rule(data=st.data(), after=st.booleans())
    def commit_fails(self, data: st.DataObject, after: bool) -> None:
        group = self.group(data)
        group.definitions, group.last_stamp = self.pending, self.stamp
        error = sqlite3.OperationalError("database or disk is full")
        if after and self.connection.commits and not self.sqlite._doubted:
            # The error comes when it is done: the store finds out.
            commits = self.connection.commits
            self.connection.after = error
            try:
                bases = result(self.sqlite.commit(group)).bases
            finally:
                self.connection.after = None
            assert self.connection.commits - commits <= 2
            assert result(self.memory.commit(group)).bases == bases
            self.pending = []
            self.keep(group, bases)
            return
        self.connection.before = error
        try:
            result(self.sqlite.commit(group))
        except StoreUnavailable:
            pass
        else:
            assert group == Group(last_stamp=group.last_stamp)
        finally:
            self.connection.before = None

    @rule(data=st.data(), unseen=st.integers(1, 3), error=st.sampled_from(["before", "after"]))
    def commit_is_not_seen(self, data: st.DataObject, unseen: int, error: str) -> None:
        """A commit fails, perhaps when it was done, and nobody can look which."""
        group = self.group(data)
        group.definitions, group.last_stamp = list(self.pending), self.stamp
        failure = sqlite3.OperationalError("disk I/O error")
        find, left = reading.find, [unseen]

        def blind(connection: sqlite3.Connection, cid: int) -> tuple[bytes, int] | None:
            left[0] -= 1
            if left[0] <= 0:
                self.connection.before = self.connection.after = None
            if left[0] < 0:
                return find(connection, cid)
            raise failure

        setattr(self.connection, error, failure)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reading, "find", blind)
                bases = result(self.sqlite.commit(group)).bases
        except StoreUnavailable:
            event("a commit was not seen")
            self.unseen.append(group)
        else:
            assert result(self.memory.commit(group)).bases == bases
            self.pending = []
            self.keep(group, bases)
        finally:
            self.connection.before = self.connection.after = None

    @rule()
    def idle(self) -> None:
        self.sqlite._reactor.advance(1)

    @rule()
    def pause(self) -> None:
        self.sqlite._reactor.advance(10)

    @rule(budget=st.sampled_from([1, 400, 1 << 30]), forget=st.integers(0, 9))
    def trim(self, budget: int, forget: int) -> None:
        if forget == 0:
            self.kept.clear()
        self.trim_both(budget)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def keep_less(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.kept)))
        self.kept[lane] += data.draw(st.integers(0, 9))
        self.trim_both(1 << 30)

    def trim_both(self, budget: int) -> None:
        result(self.memory.trim(budget, self.kept))
        result(self.sqlite.trim(budget, self.kept))

    @precondition(lambda self: self.known.readers and not self.pending)
    @rule(data=st.data(), fails=st.sampled_from(["", "", "", "before", "after"]))
    def leave_stragglers(self, data: st.DataObject, fails: str) -> None:
        """Settle nearly everything of a long lane, and let cursors pass the rest; perhaps the disk fails meanwhile."""
        inventory = self.known
        chosen = data.draw(st.sampled_from(inventory.readers)).lane
        group = Group(parts={chosen: [Message(stamp=self.stamp + n, body=bytes(n % 50)) for n in range(1, 41)]})
        self.stamp += 40
        end = next(lane.next for lane in inventory.lanes if lane.id == chosen) + 40
        for reader in inventory.readers:
            if reader.lane == chosen:
                left = sorted(data.draw(st.sets(st.integers(0, end - 1), max_size=5)))
                edges = zip([0, *(seq + 1 for seq in left)], [*left, end], strict=True)
                group.settled[reader.id] = [(low, high) for low, high in edges if low < high]
        self.commit(group)
        result(self.memory.trim(1 << 30, self.kept))
        error = sqlite3.OperationalError("disk I/O error")
        self.connection.before, self.connection.after = (
            error if fails == "before" else None,
            error if fails == "after" else None,
        )
        try:
            result(self.sqlite.trim(1 << 30, self.kept))
        except StoreUnavailable:
            assert fails
        finally:
            self.connection.before = self.connection.after = None
        passed = sum(len(reader.settled.stragglers) for reader in self.sqlite._ledger.readers.values())
        event(f"stragglers: {min(passed, 3)}")

    @rule(look=st.booleans())
    def kill(self, look: bool) -> None:
        self.copies += 1
        path = self.folder / f"{self.copies}.sqlite"
        for suffix in ("", "-wal"):
            if (source := Path(f"{self.path}{suffix}")).exists():
                shutil.copy(source, f"{path}{suffix}")
        self.see(path)
        result(self.sqlite.close())
        self.path = path
        if look:
            self.look_at_the_file()
        self.restart()

    @rule(look=st.booleans())
    def close(self, look: bool) -> None:
        result(self.sqlite.close())
        self.unseen.clear()
        assert not Path(f"{self.path}-wal").exists()
        result(self.memory.close())
        if look:
            self.look_at_the_file()
        self.restart()

    def see(self, path: Path) -> None:
        """What failed without being seen may have happened: a start after a crash finds it."""
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT dir FROM rec WHERE cid = ?", (self.sqlite._last + 1,)).fetchone()
        for group in reversed(self.unseen if found else []):
            bases = self.sqlite._ledger.allot(group)
            if record.encode(record.build(group, bases, self.sqlite._ledger.before(group)).directory) == found[0]:
                event("a crash with a commit that was not seen, and was done")
                del self.pending[: len(group.definitions)]
                assert result(self.memory.commit(group)).bases == bases
                self.keep(group, bases)
                return
        assert found is None
        self.unseen.clear()

    def look_at_the_file(self) -> None:
        """It is whole, and a dump of it loaded elsewhere has the same dump."""
        with connected(str(self.path)) as connection:
            assert check(connection).problems == []
            lines = [msgspec.json.encode(line) for line in Dump(Offline(connection)).lines()]
        copy = self.folder / "loaded.sqlite"
        with created(str(copy)) as connection:
            store = Offline(connection)
            Load(store).take(lines)
            store.finish()
        with connected(str(copy)) as connection:
            assert check(connection).problems == []
            assert [msgspec.json.encode(line) for line in Dump(Offline(connection)).lines()] == lines
        copy.unlink()

    def restart(self) -> None:
        self.sqlite = inline_store(self.path, connection=self.connection)
        ours, theirs = result(self.sqlite.open()), result(self.memory.open())
        for mine, other in zip(ours.lanes, theirs.lanes, strict=True):
            assert mine.low <= mine.next
            mine.low = other.low = 0
        ours.keys.sort()
        theirs.keys.sort()
        assert ours == theirs

    # -- what holds

    @invariant()
    def agree(self) -> None:
        inventory = self.known
        ledger = self.sqlite._ledger.inventory(0)
        for mine, other in zip(ledger.lanes, inventory.lanes, strict=True):
            mine.low = other.low = 0
        ledger.keys, inventory.keys = [], []  # most of ours are in the tables: a restart compares them
        assert ledger == inventory
        for lane in inventory.lanes:
            wanted: set[int] = set()
            for reader in inventory.readers:
                if reader.lane == lane.id:
                    bits = Settled(reader.cursor)
                    for low, high in reader.settled:
                        bits.add_range(low, high)
                    wanted |= {seq for seq in range(lane.next) if seq not in bits}
            said = self.said.get(lane.id, {})
            assert len(said) == lane.next
            wanted |= set(range(self.kept.get(lane.id, lane.next), lane.next))
            for max_bytes in (1, 700, 1 << 18):
                found = stored(self.sqlite, lane.id, 0, max_bytes)
                assert found.items() <= said.items()
                assert wanted <= found.keys()
            for store in (self.sqlite, self.memory):
                for now in (6, 8, 9):
                    over = {seq for seq, message in said.items() if 0 < message.expires <= now}
                    later = [said[seq].expires for seq in wanted if said[seq].expires > now]
                    gone, soonest = expired_of(store, lane.id, lane.next, now)
                    assert wanted & over <= gone <= over
                    assert not later or 0 < soonest <= min(later)
            for stamp in {0, self.stamp // 2, self.stamp + 1}:
                exact = next((seq for seq, message in said.items() if message.stamp >= stamp), lane.next)
                for store in (self.sqlite, self.memory):
                    # The bytes at or after it are those asked for, and less than a run more.
                    size = stamp * 9
                    first = result(store.seek_bytes(lane.id, size))
                    behind = [len(batch.data) for batch in run_of(store, lane.id, first)]
                    there = sum(len(batch.data) for batch in run_of(store, lane.id, 0))
                    assert sum(behind) >= min(size, there) or first > 0
                    assert sum(behind[1:]) <= size
                    seq = result(store.seek(lane.id, stamp))
                    assert exact <= seq <= lane.next
                    assert wanted.isdisjoint(range(exact, seq))


def run_of(store: IStore, lane: int, seq: int) -> list[Batch]:
    """The stored batches from the one that holds `seq` on."""
    found: list[Batch] = []
    while batches := result(store.read(lane, seq, 1 << 18)):
        found += batches
        seq = batches[-1].base + batches[-1].count
    return found


def expired_of(store: IStore, lane: int, end: int, now: int) -> tuple[set[int], int]:
    """The numbers that have expired, and when the next does, looked for in small pieces."""
    gone: set[int] = set()
    moments: list[int] = []
    seq = 0
    while seq < end:
        found = result(store.expired(lane, seq, now, 300))
        assert seq < found.upto <= end
        gone.update(number for low, high in found.ranges for number in range(low, high))
        moments.append(found.next_expiry)
        seq = found.upto
    return gone, min(filter(None, moments), default=0)


TestStores = Stores.TestCase
TestStores.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
