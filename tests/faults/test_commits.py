"""Commits that fail: who is told what, and what is there afterwards. The core over a real data file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from broker.core.destination import queue, topic
from broker.core.journal import QUIET
from broker.core.message import Message
from broker.errors import Stopping, StoreUnavailable
from tests.faults.support import PLACES, Disk, emptied, numbers, opened, put, take, tried_again
from tests.support import tx

#: Places at which nothing of the commit is kept.
LOSING = PLACES[:3]


@pytest.mark.parametrize("place", LOSING)
@pytest.mark.parametrize("number", [1, 2, 5, 10])
@tx()
async def test_one_commit_fails(tmp_path: Path, number: int, place: str) -> None:
    disk = Disk(lambda tried, at: (tried, at) == (number, place))
    bodies = [b"%d" % n for n in range(10)]
    async with opened(tmp_path / "data", disk) as broker:
        told = [await put(broker, body) for body in bodies]
        assert [n for n, one in enumerate(told, 1) if one is None] == [number]
        assert numbers([one for one in told if one is not None]) == list(range(9))
        assert broker.trouble == "" if number < 10 else broker.trouble
    del bodies[number - 1]
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == bodies


@pytest.mark.parametrize("number", [1, 2, 5, 10])
@tx()
async def test_a_commit_that_only_seems_to_fail_is_a_commit(tmp_path: Path, number: int) -> None:
    disk = Disk(lambda tried, at: (tried, at) == (number, "after COMMIT"))
    bodies = [b"%d" % n for n in range(10)]
    async with opened(tmp_path / "data", disk) as broker:
        told = [await put(broker, body) for body in bodies]
        assert numbers([one for one in told if one is not None]) == list(range(10))
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == bodies


@pytest.mark.parametrize("number", [1, 2, 5, 9])
@tx()
async def test_a_commit_nobody_knows_of(tmp_path: Path, number: int) -> None:
    """It happened, but the disk did not even let us look: its producer is told that it failed, and may be wrong."""
    unlucky = ("after COMMIT", "looking what became of it")
    disk = Disk(lambda tried, at: tried == number and at in unlucky)
    bodies = [b"%d" % n for n in range(10)]
    async with opened(tmp_path / "data", disk) as broker:
        told = [await put(broker, body) for body in bodies]
        assert [n for n, one in enumerate(told, 1) if one is None] == [number]
    del bodies[number - 1]
    async with opened(tmp_path / "data") as broker:
        assert [body for body in await emptied(broker) if body in bodies] == bodies


@pytest.mark.parametrize("place", LOSING)
@tx()
async def test_a_group_fails_whole(tmp_path: Path, place: str) -> None:
    """The first message is a commit of its own; what comes meanwhile is the next one."""
    disk = Disk(lambda tried, at: (tried, at) == (2, place))
    async with opened(tmp_path / "data", disk) as broker:
        publishing = [Deferred.fromCoroutine(put(broker, b"%d" % n)) for n in range(20)]
        told = [await one for one in publishing]
        assert told[0] is not None
        assert told[1:] == [None] * 19
        again = [await put(broker, b"again %d" % n) for n in range(3)]
        assert numbers([one for one in [told[0], *again] if one is not None]) == [0, 1, 2, 3]
        assert await emptied(broker) == [b"0", b"again 0", b"again 1", b"again 2"]


@pytest.mark.parametrize("place", LOSING)
@tx()
async def test_two_queues_and_a_topic_in_a_group_that_fails(tmp_path: Path, place: str) -> None:
    """What a failed commit would have defined, the next one defines."""
    disk = Disk()
    async with opened(tmp_path / "data", disk) as broker:
        await broker.bind("audit", topic("news"))
        disk.fails = lambda tried, at: at == place
        assert await put(broker, b"lost", "one") is None
        with pytest.raises(StoreUnavailable):
            await broker.publish(topic("news"), Message(body=b"lost"))
        disk.is_back()
        for name in "one", "two":
            assert await put(broker, b"kept", name) is not None
        await broker.publish(topic("news"), Message(body=b"kept"))
    async with opened(tmp_path / "data") as broker:
        for name in "one", "two", "audit":
            assert await emptied(broker, name) == [b"kept"]


@tx()
async def test_acks_wait_for_the_disk(tmp_path: Path) -> None:
    disk, clock = Disk(), Clock()
    async with opened(tmp_path / "data", disk, clock) as broker:
        for n in range(4):
            await put(broker, b"%d" % n)
        first, second, third = [await take(broker) for _ in range(3)]
        disk.breaks()
        acked = broker.ack([first])
        purged = Deferred.fromCoroutine(broker.purge("other"))
        settled = broker.settle(second.id)
        broker.nack([third])
        for _ in range(3):
            await tried_again(disk, clock)
            assert (acked.called, settled.called) == (False, False)
        assert broker.trouble
        # producers do not wait
        assert await put(broker, b"lost") is None
        assert not acked.called
        disk.is_back()
        await tried_again(disk, clock)
        await acked
        await settled
        await purged
        clock.advance(QUIET)
        assert broker.trouble == ""
        assert await put(broker, b"4") is not None
    async with opened(tmp_path / "data") as broker:
        again = await take(broker)
        assert (again.message.body, again.attempts, again.redelivered) == (b"2", 1, True)
        assert await emptied(broker) == [b"3", b"4"]


@tx()
async def test_a_producer_that_comes_again_brings_the_acks_along(tmp_path: Path) -> None:
    disk, clock = Disk(), Clock()
    async with opened(tmp_path / "data", disk, clock) as broker:
        await put(broker, b"0")
        delivery = await take(broker)
        disk.breaks()
        acked = broker.ack([delivery])
        assert await put(broker, b"lost") is None
        disk.is_back()
        assert await put(broker, b"1") is not None
        await acked
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == [b"1"]


@tx()
async def test_a_transaction_fails_whole(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path / "data", disk) as broker:
        for n in range(2):
            await put(broker, b"%d" % n)
        first, second = await take(broker), await take(broker)
        disk.breaks()
        transaction = broker.begin()
        transaction.publish(queue("out"), Message(body=b"lost"))
        transaction.ack([first])
        transaction.nack([second])
        with pytest.raises(StoreUnavailable):
            await transaction.commit()
        assert (first.on_loan, second.on_loan) == (True, True)
        assert broker.queue_stats("out").ready == 0
        disk.is_back()
        transaction = broker.begin()
        transaction.publish(queue("out"), Message(body=b"kept"))
        transaction.ack([first, second])
        await transaction.commit()
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker, "out") == [b"kept"]
        assert await emptied(broker) == []


@tx()
async def test_nobody_is_given_what_is_not_reserved(tmp_path: Path) -> None:
    """A first delivery needs a commit; while there is none, who asks is told so, and gets it later."""
    disk, clock = Disk(), Clock()
    async with opened(tmp_path / "data", clock=clock) as broker:
        await put(broker, b"0")
    async with opened(tmp_path / "data", disk, clock) as broker:
        disk.breaks()
        with pytest.raises(StoreUnavailable):
            await broker.take("q")
        waiting = Deferred.fromCoroutine(broker.take("q", wait=1000))
        await tried_again(disk, clock)
        assert not waiting.called
        disk.is_back()
        await tried_again(disk, clock)
        delivery = await waiting
        assert delivery is not None
        assert (delivery.message.body, delivery.redelivered) == (b"0", False)


@tx()
async def test_the_broker_stops_although_the_disk_is_gone(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path / "data", disk) as broker:
        for n in range(2):
            await put(broker, b"%d" % n)
        delivery = await take(broker)
        disk.breaks()
        acked = broker.ack([delivery])
    with pytest.raises(Stopping):
        await acked
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == [b"0", b"1"]


@pytest.mark.parametrize("seed", range(4))
@tx(20)
async def test_a_disk_that_fails_now_and_then(tmp_path: Path, seed: int) -> None:
    """A third of the commits fails, anywhere, while messages come and go, large enough for folds between them."""
    chance = random.Random(seed)
    disk, clock = Disk(lambda tried, at: chance.random() < 0.1), Clock()
    confirmed: list[str] = []
    bodies: list[bytes] = []
    settled: list[bytes] = []

    async def produce(n: int) -> None:
        body = b"%d " % n + bytes(20_000)
        if (told := await put(broker, body)) is not None:
            confirmed.append(told)
            bodies.append(body)

    async def consume() -> None:
        try:
            delivery = await broker.take("q")
        except StoreUnavailable:
            return
        if delivery is None:
            return
        if chance.random() < 0.2:
            broker.nack([delivery])
            return
        await broker.ack([delivery])
        settled.append(delivery.message.body)

    async with opened(tmp_path / "data", disk, clock) as broker:
        consumers: list[Deferred[None]] = []
        for first in range(0, 400, 10):
            producers = [Deferred.fromCoroutine(produce(n)) for n in range(first, first + 10)]
            consumers += [Deferred.fromCoroutine(consume()) for _ in range(3)]
            for one in producers:
                await one
        disk.is_back()
        while not all(one.called for one in consumers):
            clock.advance(1)
            await deferLater(reactor, 0.001)
        for one in consumers:
            await one
    failed = 400 - len(confirmed)
    assert failed > 40
    assert len(settled) > 40
    assert numbers(confirmed) == list(range(len(confirmed)))
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == [body for body in bodies if body not in set(settled)]
