"""`IStore`'s contract, against each implementation: in memory, in SQLite without threads, and in SQLite with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from broker.core.destination import Kind
from broker.core.message import Message, pack, unpack
from broker.core.policy import BindingPolicy
from broker.core.store import (
    BindingState,
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    Definition,
    DropQueue,
    EndBinding,
    Expired,
    Failure,
    Group,
    Inventory,
    IStore,
    LaneState,
    PublishKey,
    ReaderState,
)
from broker.errors import StoreRefused, StoreUnavailable
from broker.storage import expiring
from broker.storage.memory import MemoryStore
from broker.storage.sqlite import SQLiteStore
from tests.storage.support import inline_store, messages, queue_of
from tests.support import tx


def wait(deferred: Deferred[Any]) -> Any:
    """The outcome of a Deferred; the reactor turns until it is there."""
    return pytest_twisted.blockon(deferred)


class Kept:
    """A store, and what it becomes when the process is killed and started again."""

    def __init__(self, make: Callable[[], IStore], *, new: bool) -> None:
        self._make = make
        self._new = new
        self.made: list[IStore] = []
        self.store = self._begin()

    def _begin(self) -> IStore:
        self.made.append(self._make())
        return self.made[-1]

    async def crash(self) -> Inventory:
        """Open what is on the disk, with nothing closed."""
        if self._new:
            self.store = self._begin()
        return await self.store.open()

    async def read(self, lane: int, seq: int = 0, max_bytes: int = 1 << 18) -> dict[int, Message]:
        """Every message of a lane from `seq` on, by number."""
        found: dict[int, Message] = {}
        while batches := await self.store.read(lane, seq, max_bytes):
            for batch in batches:
                assert batch.lane == lane
                assert batch.base + batch.count > seq
                for place, message in enumerate(unpack(batch.count, batch.data)):
                    found[batch.base + place] = message
                seq = batch.base + batch.count
        return found

    async def commit(self, group: Group) -> dict[int, int]:
        """The bases of a commit that succeeds."""
        return (await self.store.commit(group)).bases


@pytest.fixture(params=["memory", "sqlite inline", "sqlite threads"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    path = str(tmp_path / "broker.sqlite")
    if request.param == "memory":
        kept = Kept(MemoryStore, new=False)
    elif request.param == "sqlite inline":
        kept = Kept(lambda: inline_store(path), new=True)
    else:
        kept = Kept(lambda: SQLiteStore(path, sync="normal"), new=True)
    wait(kept.store.open())
    try:
        yield kept
    finally:
        for store in reversed(kept.made):
            wait(store.close())


@tx()
async def test_a_new_store_is_empty(kept: Kept) -> None:
    inventory = await kept.crash()
    assert (inventory.destinations, inventory.lanes, inventory.readers, inventory.bindings) == ([], [], [], [])
    assert inventory.last_stamp == 0
    assert inventory.last_ids == {"destination": 0, "lane": 0, "reader": 0, "binding": 0}
    assert await kept.read(1) == {}


@tx()
async def test_messages_are_numbered_in_order_and_come_back_as_they_were(kept: Kept) -> None:
    first = Message(
        stamp=7,
        body=bytes(range(256)),
        headers={"a": "é", "": "x"},
        content_type="text/plain",
        flags=2**32 - 1,
        priority=3,
        expires=2**60,
        ttl=5,
        lease=6,
        max_attempts=9,
    )
    bases = await kept.commit(Group(parts={1: [first, *messages(1, 2)]}, definitions=queue_of(1), last_stamp=1002))
    assert bases == {1: 0}
    assert await kept.commit(Group(parts={1: messages(3, 2)}, last_stamp=1004)) == {1: 3}
    expected = dict(enumerate([first, *messages(1, 4)]))
    assert await kept.read(1) == expected
    inventory = await kept.crash()
    assert inventory.lanes == [LaneState(1, 1, 0, 0, next=5, bytes=sum(len(pack([one])) for one in expected.values()))]
    assert inventory.last_stamp == 1004
    assert await kept.read(1) == expected


@tx()
async def test_the_numbers_of_a_lane_go_on_after_a_restart(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1)))
    await kept.crash()
    assert await kept.commit(Group(parts={1: messages(3, 1)})) == {1: 3}


@tx()
async def test_definitions_come_back(kept: Kept) -> None:
    binding = DefineBinding(
        1, 1, 3, {3: 5}, BindingPolicy(1, 2, 3, 4), "sql", "price > 3", True, past={3: (7, "price > 2")}
    )
    definitions = [
        *queue_of(1, "a"),
        *queue_of(2, "b"),
        DefineDestination(3, Kind.TOPIC, "a"),
        DefineLane(3, 3, 7, 1),
        DefineReader(3, 1, 3, 2),
        binding,
        DefineBinding(2, 2, 3, of=1),
        EndBinding(2, {3: 9}),
    ]
    await kept.commit(Group(definitions=definitions))
    for _ in range(2):
        inventory = await kept.crash()
        assert inventory.destinations == [
            DefineDestination(1, Kind.QUEUE, "a"),
            DefineDestination(2, Kind.QUEUE, "b"),
            DefineDestination(3, Kind.TOPIC, "a"),
        ]
        assert [(x.id, x.destination, x.priority, x.run) for x in inventory.lanes] == [
            (1, 1, 0, 0),
            (2, 2, 0, 0),
            (3, 3, 7, 1),
        ]
        assert [(x.id, x.queue, x.lane, x.cursor) for x in inventory.readers] == [
            (1, 1, 1, 0),
            (2, 2, 2, 0),
            (3, 1, 3, 2),
        ]
        assert inventory.bindings == [BindingState(binding), BindingState(DefineBinding(2, 2, 3, of=1), {3: 9})]
        assert inventory.last_ids == {"destination": 3, "lane": 3, "reader": 3, "binding": 2}
        await kept.store.close()


@tx()
async def test_a_binding_replaces_that_of_the_same_queue_and_source(kept: Kept) -> None:
    await kept.commit(Group(definitions=[*queue_of(1), *queue_of(2), DefineBinding(1, 1, 2), EndBinding(1, {2: 4})]))
    await kept.commit(Group(definitions=[DefineBinding(2, 1, 2, {2: 6})]))
    assert (await kept.crash()).bindings == [BindingState(DefineBinding(2, 1, 2, {2: 6}))]


@tx()
async def test_settlements_jumps_reservations_and_failures_come_back(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 20)}, definitions=queue_of(1), reserved={1: 512}))
    await kept.commit(
        Group(
            settled={1: [(0, 2), (3, 4), (6, 9)]},
            failures={(1, 2): Failure(1, 0, "nack"), (1, 4): Failure(2, 99, "lease over"), (1, 5): Failure(1)},
        )
    )
    expected = ReaderState(
        1,
        1,
        1,
        cursor=2,
        reserved=512,
        settled=[(3, 4), (6, 9)],
        failures={2: Failure(1, 0, "nack"), 4: Failure(2, 99, "lease over"), 5: Failure(1)},
    )
    assert (await kept.crash()).readers == [expected]
    await kept.commit(Group(settled={1: [(2, 3)]}, failures={(1, 4): None}, reserved={1: 1024}))
    expected = ReaderState(1, 1, 1, cursor=4, reserved=1024, settled=[(6, 9)], failures={5: Failure(1)})
    assert (await kept.crash()).readers == [expected]
    await kept.commit(Group(jumps={1: 7}))
    assert (await kept.crash()).readers == [ReaderState(1, 1, 1, cursor=9, reserved=1024)]
    assert (await kept.crash()).readers == [ReaderState(1, 1, 1, cursor=9, reserved=1024)]


@tx()
async def test_a_group_may_settle_what_it_appends(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1), settled={1: [(0, 2)]}))
    assert (await kept.crash()).readers[0].cursor == 2


@tx()
async def test_a_failure_of_a_settled_message_is_forgotten(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1), settled={1: [(1, 2)]}))
    await kept.commit(Group(failures={(1, 1): Failure(1), (1, 2): Failure(1)}, settled={1: [(2, 3)]}))
    assert (await kept.crash()).readers[0].failures == {}


@tx()
async def test_keys_of_publishers_come_back_until_they_may_be_forgotten(kept: Kept) -> None:
    keys = [PublishKey(1, 0, "a", 1010), PublishKey(1, 1, "é" * 100, 9999), PublishKey(2, 0, "a", 1003)]
    parts = {1: messages(0, 2), 2: messages(2, 1)}
    await kept.commit(Group(parts=parts, keys=keys, definitions=[*queue_of(1), *queue_of(2)], last_stamp=1002))
    assert sorted((await kept.crash()).keys) == sorted(keys)
    await kept.commit(Group(keys=[PublishKey(1, 7, "a", 1020)]))
    await kept.commit(Group(parts={1: messages(3, 1)}, last_stamp=1003))
    for _ in range(2):
        assert sorted((await kept.crash()).keys) == [PublishKey(1, 1, "é" * 100, 9999), PublishKey(1, 7, "a", 1020)]
        await kept.store.close()
    await kept.crash()
    await kept.commit(Group(definitions=[DropQueue(1)]))
    assert (await kept.crash()).keys == []


@tx()
async def test_a_key_that_cannot_be_stored_is_refused(kept: Kept) -> None:
    await kept.commit(Group(definitions=queue_of(1)))
    for bad in (PublishKey(1, 0, "\ud800", 5), PublishKey(1, 0, "a", 1 << 70)):
        with pytest.raises(StoreRefused):
            await kept.commit(Group(parts={1: messages(0, 1)}, keys=[bad]))
    assert await kept.commit(Group(parts={1: messages(0, 1)})) == {1: 0}


@tx()
async def test_an_inventory_belongs_to_whoever_asked(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1), failures={(1, 1): Failure(1)}))
    inventory = await kept.crash()
    inventory.readers[0].failures = {}
    inventory.readers[0].settled = [(0, 9)]
    inventory.lanes[0].next = 77
    inventory.last_ids["lane"] = 77
    again = await kept.crash()
    assert again.readers[0].failures == {1: Failure(1)}
    assert again.readers[0].settled == ()
    assert again.lanes[0].next == 3
    assert again.last_ids["lane"] == 1


@pytest.mark.parametrize("size", [10, 5_000, 30_000, 70_000, 400_000])
@tx()
async def test_a_read_begins_at_the_batch_that_holds_the_number(kept: Kept, size: int) -> None:
    everything: dict[int, Message] = {}
    definitions = queue_of(1)
    for first in range(0, 12, 4):
        await kept.commit(Group(parts={1: messages(first, 4, size)}, definitions=definitions))
        everything |= dict(enumerate(messages(first, 4, size), first))
        definitions = []
    for seq in range(14):
        batches = await kept.store.read(1, seq, 1)
        assert len(batches) == (1 if seq < 12 else 0)
        assert seq >= 12 or batches[0].base <= seq < batches[0].base + batches[0].count
        assert (await kept.read(1, seq, 100_000)).items() >= {n: m for n, m in everything.items() if n >= seq}.items()


@tx()
async def test_a_read_stops_at_about_the_bytes_asked_for(kept: Kept) -> None:
    for first in range(0, 40, 2):
        await kept.commit(Group(parts={1: messages(first, 2, 1000)}, definitions=queue_of(1) if not first else []))
    assert 8_000 <= sum(len(batch.data) for batch in await kept.store.read(1, 5, 10_000)) <= 12_500


@tx()
async def test_a_read_gives_a_batch_however_little_is_asked_for(kept: Kept) -> None:
    await kept.commit(Group(definitions=queue_of(1)))
    for number in range(3):
        await kept.commit(Group(parts={1: messages(number, 1)}))
    for seq in range(3):
        assert seq in await kept.read(seq=seq, lane=1, max_bytes=0)
    await kept.crash()
    assert 2 in await kept.read(seq=2, lane=1, max_bytes=0)


@tx()
async def test_lanes_are_apart(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 3), 2: messages(50, 2)}, definitions=[*queue_of(1), *queue_of(2)]))
    await kept.commit(Group(parts={2: messages(52, 2, 20_000)}))
    assert list(await kept.read(1)) == [0, 1, 2]
    assert list((await kept.read(2)).values()) == [*messages(50, 2), *messages(52, 2, 20_000)]
    assert await kept.read(3) == {}


@pytest.mark.parametrize("size", [10, 20_000])
@tx()
async def test_seek_finds_the_first_number_of_a_time(kept: Kept, size: int) -> None:
    assert await kept.store.seek(1, 5) == 0
    await kept.commit(Group(definitions=queue_of(1)))
    assert await kept.store.seek(1, 5) == 0
    for first in range(0, 30, 3):
        some = [Message(stamp=10 * n + 10, body=bytes(size)) for n in range(first, first + 3)]
        await kept.commit(Group(parts={1: some}))
    for stamp in range(0, 320, 3):
        assert await kept.store.seek(1, stamp) == min(max((stamp - 1) // 10, 0), 30), stamp


@tx()
async def test_trim_frees_what_every_reader_has_settled(kept: Kept) -> None:
    definitions = [*queue_of(1), DefineDestination(2, Kind.QUEUE, "b"), DefineReader(2, 2, 1, 0)]
    for first in range(0, 40, 4):
        await kept.commit(Group(parts={1: messages(first, 4, 10_000)}, definitions=definitions if not first else []))
    await kept.commit(Group(settled={1: [(0, 40)]}))
    assert await kept.store.trim(1 << 30) == 0
    await kept.commit(Group(settled={2: [(0, 22)]}))
    freed = await kept.store.trim(1 << 30)
    assert 200_000 <= freed <= 240_000
    assert await kept.store.trim(1 << 30) == 0
    assert set(await kept.read(1)) >= set(range(22, 40))
    assert min(await kept.read(1)) >= 20
    assert (await kept.crash()).lanes[0].next == 40
    assert set(await kept.read(1)) >= set(range(22, 40))


@tx()
async def test_trim_goes_by_its_budget(kept: Kept) -> None:
    for first in range(0, 80, 2):
        await kept.commit(Group(parts={1: messages(first, 2, 10_000)}, definitions=queue_of(1) if not first else []))
    await kept.commit(Group(jumps={1: 80}))
    steps = []
    while freed := await kept.store.trim(100_000):
        steps.append(freed)
    assert len(steps) >= 7
    assert max(steps) <= 130_000
    assert sum(steps) >= 800_000
    assert await kept.read(1) == {}
    assert await kept.commit(Group(parts={1: messages(80, 1)})) == {1: 80}


@pytest.mark.parametrize("size", [10, 10_000])
@tx()
async def test_what_is_retained_stays_although_every_reader_has_settled_it(kept: Kept, size: int) -> None:
    definitions: list[Definition] = [*queue_of(1), DefineDestination(2, Kind.TOPIC, "t"), DefineLane(2, 2, 0)]
    for first in range(0, 40, 4):
        parts = {1: messages(first, 4, size), 2: messages(first, 4, size)}
        await kept.commit(Group(parts=parts, definitions=definitions, keep={1: 0, 2: 0}, settled={1: [(first, 40)]}))
        definitions = []
    keep = {1: 10, 2: 22}
    for _ in range(3):
        while await kept.store.trim(1 << 20, keep):
            pass
        for lane, low in keep.items():
            found = await kept.read(lane)
            assert found == {seq: messages(seq, 1, size)[0] for seq in found}
            assert set(range(low, 40)) <= set(found)
            assert await kept.store.seek(lane, 1000 + low) == low
        await kept.store.close()
        assert [lane.next for lane in (await kept.crash()).lanes] == [40, 40]
    assert max(lane.low for lane in (await kept.crash()).lanes) <= 22
    assert size < 100 or min(await kept.read(2)) == 20
    while await kept.store.trim(1 << 20):
        pass
    await kept.store.close()
    await kept.crash()
    while await kept.store.trim(1 << 20):
        pass
    assert await kept.read(1) == await kept.read(2) == {}


@tx()
async def test_a_replay_reads_from_the_retained_past(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 30)}, definitions=queue_of(1), keep={1: 5}, settled={1: [(0, 30)]}))
    await kept.store.close()
    await kept.crash()
    await kept.commit(Group(definitions=[*queue_of(2)[:1], DefineReader(2, 2, 1, 7)]))
    while await kept.store.trim(1 << 20):
        pass
    await kept.store.close()
    await kept.crash()
    assert set(range(7, 30)) <= set(await kept.read(1))


@pytest.mark.parametrize("size", [10, 700, 20_000, 100_000])
@tx()
async def test_seek_bytes_finds_where_the_last_bytes_begin(kept: Kept, size: int) -> None:
    assert await kept.store.seek_bytes(1, 5) == 0
    await kept.commit(Group(definitions=queue_of(1)))
    assert await kept.store.seek_bytes(1, 5) == 0
    for first in range(0, 40, 4):
        parts = {1: messages(first, 4, size if first % 8 else 10)}
        await kept.commit(Group(parts=parts))
    for turn in range(3):
        runs: list[tuple[int, int]] = []
        seq = 0
        while batches := await kept.store.read(1, seq, 1 << 20):
            runs += [(batch.base, len(batch.data)) for batch in batches]
            seq = batches[-1].base + batches[-1].count
        for wish in (0, 1, 50, 500, 5_000, 50_000, 500_000, 1 << 40):
            seq = await kept.store.seek_bytes(1, wish)
            after = [length for base, length in runs if base >= seq]
            assert seq in [base for base, _ in runs] or (seq == 40 and not wish)
            assert sum(after) >= min(wish, sum(length for _, length in runs))
            assert sum(after[1:]) < wish or not after
        if turn == 1:
            await kept.commit(Group(settled={1: [(0, 9)]}))
            while await kept.store.trim(1 << 20):
                pass
        await kept.store.close()
        await kept.crash()
    await kept.commit(Group(settled={1: [(0, 40)]}))
    while await kept.store.trim(1 << 20):
        pass
    assert await kept.store.seek_bytes(1, 500) in (36, 40)


@tx()
async def test_a_dropped_queue_takes_its_log_along(kept: Kept) -> None:
    await kept.commit(
        Group(parts={1: messages(0, 9, 10_000), 2: messages(0, 2)}, definitions=[*queue_of(1), *queue_of(2)])
    )
    await kept.commit(Group(definitions=[DropQueue(1)], parts={1: messages(9, 1)}, settled={1: [(0, 1)]}))
    for _ in range(2):
        assert await kept.read(1) == {}
        inventory = await kept.crash()
        assert [x.id for x in inventory.destinations] == [2]
        assert [x.id for x in inventory.lanes] == [2]
        assert [x.id for x in inventory.readers] == [2]
        assert inventory.last_ids == {"destination": 2, "lane": 2, "reader": 2, "binding": 0}
    while await kept.store.trim(50_000):
        pass
    assert await kept.read(1) == {}
    assert len(await kept.read(2)) == 2
    await kept.commit(Group(parts={3: messages(0, 1)}, definitions=queue_of(3, "q1")))
    assert list(await kept.read(3)) == [0]


@tx()
async def test_a_dropped_queues_log_stays_while_another_queue_reads_it(kept: Kept) -> None:
    both = [*queue_of(1), DefineDestination(2, Kind.QUEUE, "b"), DefineReader(2, 2, 1, 0), DefineBinding(1, 2, 1)]
    await kept.commit(Group(parts={1: messages(0, 5)}, definitions=both, settled={2: [(0, 2)]}))
    await kept.commit(Group(definitions=[DropQueue(1)]))
    inventory = await kept.crash()
    assert [x.id for x in inventory.lanes] == [1]
    assert [x.id for x in inventory.readers] == [2]
    assert len(inventory.bindings) == 1
    assert set(await kept.read(1)) >= {2, 3, 4}
    await kept.commit(Group(definitions=[DropQueue(2)]))
    inventory = await kept.crash()
    assert not inventory.readers
    assert not inventory.bindings


async def expired_of(kept: Kept, now: int, seq: int = 0, max_bytes: int = 1 << 18) -> tuple[set[int], int]:
    """The numbers of lane 1 from `seq` on that have expired, and the earliest moment that is still to come."""
    numbers: set[int] = set()
    following, end = 0, (await kept.store.expired(1, 1 << 30, now, 1)).upto
    stamps = {number: message.stamp for number, message in (await kept.read(1, seq)).items()}
    while seq < end:
        found = await kept.store.expired(1, seq, now, max_bytes)
        assert seq < found.upto <= end
        assert all(seq <= low < high <= found.upto for low, high in found.ranges)
        assert found.ranges == sorted(found.ranges)
        numbers.update(number for low, high in found.ranges for number in range(low, high))
        following = min(following or found.next_expiry, found.next_expiry or following)
        assert found.stamp == next((stamp for number, stamp in stamps.items() if number >= seq), 0)
        seq = found.upto
    assert not (await kept.store.expired(1, end, now, max_bytes)).ranges
    return numbers, following


@pytest.mark.parametrize("size", [10, 700, 20_000])
@tx()
async def test_what_has_expired_is_found_and_when_to_look_again(kept: Kept, size: int) -> None:
    assert await kept.store.expired(1, 0, 5, 1000) == Expired()
    await kept.commit(Group(definitions=queue_of(1)))
    assert await kept.store.expired(1, 0, 5, 1000) == Expired()
    moments = [0, 0, 0, 0, 5, 5, 5, 5, 6, 9, 0, 6, 0, 0, 0, 0, 9, 9, 9, 9, 5, 8, 8, 9]
    for first in range(0, len(moments), 4):
        some = [Message(1000 + n, bytes(size), expires=moments[n]) for n in range(first, first + 4)]
        await kept.commit(Group(parts={1: some}))
    for turn in range(3):
        for now in range(4, 11):
            for max_bytes in (1, 1500, 1 << 20):
                over = {n for n, moment in enumerate(moments) if 0 < moment <= now}
                later = min((moment for moment in moments if moment > now), default=0)
                assert await expired_of(kept, now, 0, max_bytes) == (over, later)
                for seq in (3, 6, 9, 23):
                    numbers, soonest = await expired_of(kept, now, seq, max_bytes)
                    assert numbers == {n for n in over if n >= seq}
                    assert later <= soonest or not soonest
        if turn == 1:
            await kept.commit(Group(keep={1: 0}, settled={1: [(0, 24)]}))
        await kept.store.close()
        await kept.crash()


@tx()
async def test_expired_looks_at_a_bounded_number_of_runs(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expiring.RUNS == 1000
    monkeypatch.setattr(expiring, "RUNS", 10)
    await kept.commit(Group(definitions=queue_of(1)))
    for number in range(35):
        await kept.commit(Group(parts={1: [Message(number + 1, bytes(16_500 if number < 15 else 5), expires=9)]}))
    for now, ranges in ((5, []), (9, [(0, 10)])):
        found = await kept.store.expired(1, 0, now, 1 << 20)
        assert (found.ranges, found.upto, found.next_expiry, found.stamp) == (ranges, 10, 9 if now < 9 else 0, 1)
        assert (await expired_of(kept, now))[0] == (set() if now < 9 else set(range(35)))


@tx()
async def test_a_message_that_cannot_be_stored_is_refused_and_leaves_nothing(kept: Kept) -> None:
    await kept.commit(Group(parts={1: messages(0, 2)}, definitions=queue_of(1)))
    for bad in (Message(stamp=2**70), Message(stamp=1, headers={"a": "\ud800"})):
        with pytest.raises(StoreRefused):
            await kept.commit(Group(parts={1: [*messages(2, 1), bad]}, settled={1: [(0, 1)]}))
    assert await kept.commit(Group(parts={1: messages(2, 1)})) == {1: 2}
    inventory = await kept.crash()
    assert inventory.readers[0].cursor == 0
    assert list((await kept.read(1)).values()) == messages(0, 3)


@tx()
async def test_a_reader_made_twice_on_one_lane_is_refused(kept: Kept) -> None:
    """Trap 1: it would deliver everything twice, without an error anywhere."""
    await kept.commit(Group(definitions=queue_of(1)))
    twice: list[list[Definition]] = [[DefineReader(2, 1, 1, 0)], [*queue_of(2), DefineReader(3, 2, 2, 0)]]
    for definitions in twice:
        with pytest.raises(StoreRefused, match="already"):
            await kept.commit(Group(definitions=definitions))
    assert [x.id for x in (await kept.crash()).readers] == [1]
    await kept.commit(Group(definitions=[DropQueue(1), *queue_of(5, "q1")]))
    assert [x.id for x in (await kept.crash()).readers] == [5]


@tx()
async def test_a_part_for_a_lane_there_is_not_is_refused(kept: Kept) -> None:
    with pytest.raises(StoreRefused, match="no lane 9"):
        await kept.commit(Group(parts={9: messages(0, 1)}))
    with pytest.raises(StoreRefused, match="no lane 9"):
        await kept.commit(Group(definitions=[DefineReader(1, 1, 9, 0)]))


@tx()
async def test_unclean_starts_are_counted(kept: Kept) -> None:
    assert (await kept.crash()).unclean_starts == 1
    assert (await kept.crash()).unclean_starts == 2
    await kept.store.close()
    assert (await kept.crash()).unclean_starts == 0
    assert (await kept.crash()).unclean_starts == 1


@tx()
async def test_a_closed_store_is_not_available(kept: Kept) -> None:
    await kept.store.close()
    await kept.store.close()
    with pytest.raises(StoreUnavailable):
        await kept.commit(Group(definitions=queue_of(1)))


@tx()
async def test_sizes_grow_with_what_is_kept(kept: Kept) -> None:
    before = await kept.store.measure()
    await kept.commit(Group(parts={1: messages(0, 100, 10_000)}, definitions=queue_of(1)))
    after = await kept.store.measure()
    assert after.data + after.wal >= before.data + before.wal + 1_000_000
