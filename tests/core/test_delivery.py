"""Who gets which message, and when: groups, selectors, priorities of consumers, schedulers, rates, several queues."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from broker.core import ration
from broker.core.broker import Broker
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.policy import Policies, Policy
from tests.core.support import Bench, looked_at_in_each_turn, result, start, text


def fill(bench: Bench, *bodies: str, name: str = "q", **fields: Any) -> None:
    for body in bodies:
        result(bench.broker.publish(queue(name), text(body, group=body[0] if body[0] in "abc" else "", **fields)))


class Consumer:
    """A subscription and what it got."""

    def __init__(self, broker: Broker, name: str = "q", prefetch: int = 1, **wishes: Any) -> None:
        self.broker = broker
        self.got: list[Delivery] = []
        self.subscription: Subscription = broker.subscribe(queue(name), self.got.append, prefetch=prefetch, **wishes)

    @property
    def bodies(self) -> list[str]:
        return [delivery.message.body.decode() for delivery in self.got]

    def ack(self, body: str) -> None:
        (delivery,) = [d for d in self.got if d.message.body.decode() == body and d.on_loan]
        result(self.broker.ack([delivery]))


# -- message groups


def test_a_group_is_worked_on_by_one_consumer_in_order() -> None:
    bench = Bench(policy=Policy(groups=True))
    fill(bench, "a1", "a2", "b1", "a3", "x", "b2")
    first, second = Consumer(bench.broker, prefetch=2), Consumer(bench.broker, prefetch=2)
    bench.turn()
    assert (first.bodies, second.bodies) == (["a1", "a2"], ["b1", "x"])
    first.ack("a1")
    bench.turn()
    assert first.bodies == ["a1", "a2", "a3"]
    second.ack("x")
    bench.turn()
    assert second.bodies == ["b1", "x", "b2"]


def test_a_failed_message_keeps_its_group_until_it_may_be_tried_again() -> None:
    bench = Bench(policy=Policy(groups=True, backoff=(5_000,)))
    fill(bench, "a1", "a2", "b1")
    consumer = Consumer(bench.broker, prefetch=1)
    bench.turn()
    bench.broker.nack(consumer.got)
    bench.turn()
    assert consumer.bodies == ["a1", "b1"]
    consumer.ack("b1")
    bench.turn(4.9)
    assert consumer.bodies == ["a1", "b1"]
    bench.turn(0.2)
    consumer.ack("a1")
    bench.turn()
    assert consumer.bodies == ["a1", "b1", "a1", "a2"]


def test_a_group_whose_consumer_is_gone_goes_to_another() -> None:
    bench = Bench(policy=Policy(groups=True))
    fill(bench, "a1", "a2", "a3")
    first, second = Consumer(bench.broker, prefetch=2), Consumer(bench.broker)
    bench.turn()
    assert second.bodies == []
    bench.broker.unsubscribe(first.subscription)
    bench.broker.nack(first.got)
    bench.turn()
    assert second.bodies == ["a1"]
    assert second.got[0].redelivered


def test_a_lease_keeps_its_group_across_a_restart() -> None:
    bench = Bench(policy=Policy(groups=True))
    fill(bench, "a1", "a2", "b1")
    taken = result(start(bench.broker.take("q", leased=True, lease=10_000)))
    assert taken is not None
    bench.turn(1)
    bench.boot()
    assert bench.body("q") == b"b1"
    assert bench.body("q") is None
    bench.turn(10)
    assert [bench.body("q"), bench.body("q"), bench.body("q")] == [b"a1", b"a2", None]


def test_what_lies_behind_a_busy_group_is_found_and_the_group_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of one group at the head, read in slices; each slice a reactor turn."""
    looked = looked_at_in_each_turn(monkeypatch)
    bench = Bench(policy=Policy(groups=True, max_scan=5_000))
    for n in range(3_000):
        fill(bench, f"a{n}")
    fill(bench, "b1", "a3000", "b2")
    taken = result(start(bench.broker.take("q")))
    assert taken is not None
    consumer = Consumer(bench.broker, prefetch=5)
    bench.turn()
    assert max(looked) == ration.MAX_MESSAGES
    assert len(looked) >= 6
    assert consumer.bodies == ["b1", "b2"]
    result(bench.broker.ack([taken]))
    bench.turn()
    assert consumer.bodies[2:] == ["a1", "a2", "a3"]
    bench.broker.unsubscribe(consumer.subscription)
    bench.broker.release(consumer.got)
    assert [bench.body("q") for _ in range(3_003)][:4] == [b"a1", b"a2", b"a3", b"a4"]
    assert bench.broker.queue_stats("q").ready == 0


def test_a_scan_that_reaches_its_bound_says_so_and_goes_on_when_the_head_shrinks() -> None:
    bench = Bench(policy=Policy(groups=True, max_scan=10))
    fill(bench, *(f"a{n}" for n in range(13)), "b1")
    first = Consumer(bench.broker)
    second = Consumer(bench.broker)
    bench.turn()
    assert (first.bodies, second.bodies) == (["a0"], [])
    assert "max_scan" in bench.broker.queue_stats("q").blocked
    for n in range(3):
        (first if f"a{n}" in first.bodies else second).ack(f"a{n}")
        bench.turn()
    assert first.bodies[-1:] + second.bodies[-1:] in (["a3", "b1"], ["b1", "a3"])
    assert bench.broker.queue_stats("q").blocked == ""


def test_groups_switched_off_and_on_lose_nothing() -> None:
    bench = Bench(policy=Policy(groups=True))
    fill(bench, "a1", "a2", "b1", "a3")
    first, second = Consumer(bench.broker), Consumer(bench.broker, prefetch=2)
    bench.turn()
    assert (first.bodies, second.bodies) == (["a1"], ["b1"])
    result(start(bench.broker.reload(Policies(Policy()))))
    bench.turn()
    assert second.bodies == ["b1", "a2"]
    result(start(bench.broker.reload(Policies(Policy(groups=True)))))
    second.ack("b1")
    bench.turn()
    assert second.bodies == ["b1", "a2"], "two consumers hold messages of the group: nobody gets more of it"
    first.ack("a1")
    second.ack("a2")
    bench.turn()
    assert sorted(first.bodies + second.bodies) == ["a1", "a2", "a3", "b1"]


# -- memory


def test_a_queue_that_is_drained_keeps_no_message_in_memory() -> None:
    bench = Bench()
    consumer = Consumer(bench.broker, prefetch=100)
    for n in range(20):
        fill(bench, f"{n}")
    bench.turn()
    assert len(consumer.bodies) == 20
    (reader,) = consumer.subscription.queue.readers
    assert (reader.window.bytes, reader.window.runs) == (0, 0)
    fill(bench, "next")
    bench.turn()
    assert consumer.bodies[-1] == "next"


def test_queues_that_were_read_long_ago_let_their_messages_go_when_memory_is_short() -> None:
    bench = Bench()
    names = [f"q{n}" for n in range(8)]
    for name in names:
        for n in range(10):
            result(bench.broker.publish(queue(name), text(f"{n}" + "x" * 1000)))
    bench.boot()
    budget = bench.broker._directory.budget
    budget.limit = 40_000
    taken = [bench.body(name) for name in names]
    assert [body and body[:1] for body in taken] == [b"0"] * 8
    assert 0 < budget.used <= budget.limit
    assert [(bench.body(name) or b"")[:1] for name in names] == [b"1"] * 8


# -- selectors


def test_a_selective_consumer_gets_its_own_from_behind_the_others() -> None:
    bench = Bench()
    for n in range(2_500):
        fill(bench, f"{n}")
    picky = Consumer(bench.broker, prefetch=2, accepts=lambda message: message.body.endswith(b"99"))
    bench.turn()
    assert picky.bodies == ["99", "199"]
    plain = Consumer(bench.broker, prefetch=1)
    bench.turn()
    assert plain.bodies == ["0"]
    picky.ack("99")
    bench.turn()
    assert picky.bodies == ["99", "199", "299"]
    bench.broker.unsubscribe(picky.subscription)
    bench.broker.nack(picky.got[1:])
    plain.ack("0")
    bench.turn()
    assert plain.bodies == ["0", "1"]
    bench.broker.unsubscribe(plain.subscription)
    bench.broker.release(plain.got[1:])
    left = [bench.body("q") for _ in range(2_499)]
    assert left[-1] is None
    assert left[:-1] == [b"%d" % n for n in range(1, 2_500) if n != 99]


def test_what_is_given_back_goes_to_a_selective_consumer_too() -> None:
    bench = Bench()
    plain = Consumer(bench.broker, prefetch=3)
    bench.turn()
    fill(bench, "1", "2", "3")
    picky = Consumer(bench.broker, prefetch=3, accepts=lambda message: message.body != b"2")
    bench.turn()
    assert picky.bodies == []
    bench.broker.unsubscribe(plain.subscription)
    bench.broker.nack(plain.got)
    bench.turn()
    assert picky.bodies == ["1", "3"]
    assert bench.body("q") == b"2"


# -- whose turn


def test_consumers_of_a_higher_priority_are_served_first() -> None:
    bench = Bench()
    low, high = Consumer(bench.broker, prefetch=5), Consumer(bench.broker, prefetch=2, priority=7)
    fill(bench, "1", "2", "3")
    bench.turn()
    assert (low.bodies, high.bodies) == (["3"], ["1", "2"])
    high.ack("1")
    fill(bench, "4")
    bench.turn()
    assert high.bodies == ["1", "2", "4"]


def test_reliable_consumers_are_favoured_if_the_policy_says_so() -> None:
    for favoured in (False, True):
        bench = Bench(policy=Policy(scheduler="favour_reliable" if favoured else "round_robin"))
        auto, acking = Consumer(bench.broker, prefetch=5, reliable=False), Consumer(bench.broker, prefetch=5)
        fill(bench, "1", "2")
        bench.turn()
        assert (auto.bodies, acking.bodies) == ([], ["1", "2"]) if favoured else (["1"], ["2"])


def test_at_random_everybody_gets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(policy=Policy(scheduler="random"))
    consumers = [Consumer(bench.broker, prefetch=100) for _ in range(3)]
    turns = itertools.cycle([2, 2, 0, 1])
    monkeypatch.setattr("random.randrange", lambda count: next(turns))
    fill(bench, "1", "2", "3", "4")
    bench.turn()
    assert [consumer.bodies for consumer in consumers].count([]) == 0
    assert sorted(body for consumer in consumers for body in consumer.bodies) == ["1", "2", "3", "4"]


# -- rates


def test_a_rate_holds_over_seconds_and_allows_a_seconds_worth_at_once() -> None:
    bench = Bench(policy=Policy(rate=10))
    fill(bench, *map(str, range(40)))
    consumer = Consumer(bench.broker, prefetch=100)
    bench.turn()
    assert len(consumer.got) == 10
    for second in range(1, 4):
        bench.turn(0.55)
        bench.turn(0.45)
        assert len(consumer.got) == 10 + 10 * second
    bench.turn(5)
    assert len(consumer.got) == 40
    assert result(start(bench.broker.take("q"))) is None


# -- several queues


def test_one_message_of_several_queues_whichever_has_one_first() -> None:
    bench = Bench()
    fill(bench, "1", name="second")
    now = result(start(bench.broker.take(["first", "second"])))
    assert now is not None
    assert (now.queue, now.message.body) == ("second", b"1")
    assert result(start(bench.broker.take(["first", "second"]))) is None
    later = start(bench.broker.take(["first", "second", "third"], wait=10))
    bench.turn(1)
    fill(bench, "2", name="third")
    fill(bench, "3", name="first")
    got = result(later)
    assert got is not None
    assert got.queue == "third"
    assert bench.broker.queue_stats("first").ready == 1
    assert bench.body("first") == b"3"
    waiting = start(bench.broker.take(["first", "second"], wait=2))
    bench.turn(2.1)
    assert result(waiting) is None
    assert bench.broker.queue_stats("second").waiters == 0


def test_a_backoff_with_jitter_stays_within_its_bounds() -> None:
    bench = Bench(policy=Policy(backoff=(10_000,), jitter=50))
    waits = set()
    for n in range(30):
        fill(bench, str(n))
    for _ in range(30):
        taken = result(start(bench.broker.take("q")))
        assert taken is not None
        bench.broker.nack([taken])
        hidden = taken.reader.on_loan[taken.seq]
        waits.add(hidden.due - bench.broker.now())
    assert all(5_000_000 <= wait <= 15_000_000 for wait in waits)
    assert len(waits) > 10


def test_an_ack_of_many_makes_one_commit() -> None:
    bench = Bench()
    for n in range(10):
        result(bench.broker.publish(queue("q"), text(str(n))))
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=10)
    bench.turn()
    before = bench.memory.commits
    result(bench.broker.ack(got))
    assert (len(got), bench.memory.commits - before) == (10, 1)


def test_hundreds_that_wait_for_one_commit_and_ask_again_at_once_are_all_served() -> None:
    bench = Bench()
    got: list[str] = []

    async def consume() -> None:
        for _ in range(3):
            delivery = await bench.broker.take("q", wait=60)
            assert delivery is not None
            got.append(delivery.message.body.decode())

    waiting = [start(consume()) for _ in range(200)]
    bodies = [str(number) for number in range(600)]
    bench.memory.hold = True
    for body in bodies:
        _ = bench.broker.publish(queue("q"), text(body))
    while bench.memory.held is not None:
        bench.memory.release_commit()
        bench.turn()
    for one in waiting:
        result(one)
    assert got == bodies
