"""Delayed messages: on disk at once, delivered when they are due."""

from __future__ import annotations

import pytest

from broker.core import clock
from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.errors import NotFound
from tests.core.support import Bench, result, start, text


def put(bench: Bench, body: str, delay: int, **fields: object) -> int:
    published = result(bench.broker.publish(queue("q"), text(body, delay=delay, **fields)))
    return published.deliveries["q"]


def all_of(bench: Bench) -> list[bytes]:
    """What is there 20 ms later: a message is not early, and may be 10 ms late."""
    found = []
    bench.turn(0.02)
    while (body := bench.body("q")) is not None:
        found.append(body)
    return found


def test_each_comes_when_it_is_due_whatever_the_order_they_were_sent_in() -> None:
    bench = Bench()
    for body, delay in (("c", 30_000), ("a", 500), ("b", 12_000), ("now", 0)):
        put(bench, body, delay)
    assert all_of(bench) == [b"now"]
    assert bench.broker.delayed == 3
    bench.turn(0.4)
    assert all_of(bench) == []
    bench.turn(0.1)
    assert all_of(bench) == [b"a"]
    bench.turn(11.4)
    assert all_of(bench) == []
    bench.turn(0.1)
    assert all_of(bench) == [b"b"]
    bench.turn(18)
    assert all_of(bench) == [b"c"]
    assert bench.broker.delayed == 0


def test_a_waiting_consumer_gets_it_at_once() -> None:
    bench = Bench()
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=1)
    put(bench, "x", 2000)
    bench.turn(2.01)
    assert [(d.message.body, d.message.delay, d.message.target, d.redelivered) for d in got] == [(b"x", 0, "", False)]


def test_a_restart_keeps_them_and_those_that_were_due_meanwhile_come_at_once() -> None:
    bench = Bench()
    put(bench, "soon", 2000)
    put(bench, "later", 40_000)
    bench.passed += 10
    bench.boot()
    assert all_of(bench) == [b"soon"]
    bench.boot()
    bench.turn(30)
    assert all_of(bench) == [b"later"]


def test_one_that_waits_can_be_cancelled_by_its_id() -> None:
    bench = Bench()
    first, second, third = (put(bench, body, 15_000) for body in "abc")
    result(bench.broker.settle(first))
    bench.turn(14.5)  # its slot is read by now
    result(bench.broker.settle(second))
    bench.turn(0.5)
    assert all_of(bench) == [b"c"]
    with pytest.raises(NotFound):
        _ = bench.broker.settle(third)


def test_a_queues_policy_delays_what_says_nothing_itself() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("q", {"delay": 3000})]))
    put(bench, "policy", 0)
    put(bench, "own", 1000)
    bench.turn(1)
    assert all_of(bench) == [b"own"]
    bench.turn(2)
    assert all_of(bench) == [b"policy"]


def test_the_time_to_live_begins_when_it_is_due() -> None:
    bench = Bench()
    put(bench, "x", 5000, ttl=1000)
    bench.turn(5.9)
    assert all_of(bench) == [b"x"]
    put(bench, "y", 5000, ttl=1000)
    bench.turn(5.05)
    bench.turn(1)
    assert all_of(bench) == []


def test_a_topic_is_published_to_when_it_is_due_for_whoever_is_bound_then() -> None:
    bench = Bench()
    result(bench.broker.publish(topic("t"), Message(body=b"1", delay=1000)))
    result(bench.broker.publish(topic("t"), Message(body=b"2", delay=3000)))
    live: list[Delivery] = []
    bench.turn(1.01)
    result(start(bench.broker.bind("q", topic("t"))))
    bench.broker.subscribe(topic("t"), live.append, prefetch=5)
    bench.turn(2.01)
    assert all_of(bench) == [b"2"]
    assert [delivery.message.body for delivery in live] == [b"2"]


def test_while_the_store_does_not_commit_they_wait() -> None:
    bench = Bench()
    put(bench, "x", 1000)
    bench.memory.hold = True
    bench.turn(1.01)
    bench.memory.fail_commit()
    assert bench.broker.queue_stats("q").ready == 0
    bench.memory.hold = False
    bench.turn(2)
    assert all_of(bench) == [b"x"]


def test_a_crash_between_due_and_commit_delivers_once() -> None:
    bench = Bench()
    put(bench, "x", 1000)
    bench.memory.hold = True
    bench.turn(1.01)
    bench.boot()
    bench.memory.hold = False
    bench.turn(1)
    assert all_of(bench) == [b"x"]


def test_a_transaction_may_delay() -> None:
    bench = Bench()
    transaction = bench.broker.begin()
    transaction.publish(queue("q"), text("later", delay=1000))
    transaction.publish(queue("q"), text("now"))
    result(transaction.commit())
    assert all_of(bench) == [b"now"]
    bench.turn(1)
    assert all_of(bench) == [b"later"]


def test_a_slot_is_forgotten_after_its_time() -> None:
    bench = Bench()
    put(bench, "x", 1000)
    assert len(bench.broker._directory.slots) == 1
    bench.turn(1)
    assert all_of(bench) == [b"x"]
    for _ in range(4):
        bench.turn(5)
    assert bench.broker._directory.slots == {}
    bench.boot()
    assert bench.broker._directory.slots == {}
    put(bench, "y", 1)
    bench.turn(1)
    assert all_of(bench) == [b"y"]


def test_what_does_not_fit_into_memory_is_read_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_MEMORY", 3000)
    bench = Bench()
    for number in range(50):
        put(bench, f"{number:02}", 1000 + number)
    bench.turn(1.1)
    bench.turn()
    assert sorted(all_of(bench)) == [b"%02d" % number for number in range(50)]


def test_a_turn_releases_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_MAX_PER_TURN", 10)
    bench = Bench()
    for number in range(35):
        put(bench, f"{number:02}", 1000)
    turns: list[int] = []
    ring = clock.Delays._ring

    def counted(delays: clock.Delays) -> None:
        before = delays.waiting
        ring(delays)
        turns.append(before - delays.waiting)

    monkeypatch.setattr(clock.Delays, "_ring", counted)
    bench.turn(2)
    assert all_of(bench) == [b"%02d" % number for number in range(35)]
    assert max(turns) == 10
