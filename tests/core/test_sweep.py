"""What has expired leaves queues that nobody reads."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from broker.core.broker import Broker
from broker.core.destination import queue, topic
from broker.core.policy import BindingPolicy, Policies, Policy, Rule
from broker.core.store import Expired
from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, result, start, text


class Asked(MemoryStore):
    """Remembers how often it was asked for what has expired."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0
        self.fails = False

    def expired(self, lane: int, seq: int, now: int, max_bytes: int) -> Deferred[Expired]:
        self.questions += 1
        if self.fails:
            raise StoreUnavailable("it was made to fail")
        return super().expired(lane, seq, now, max_bytes)


def publish(broker: Broker, name: str, count: int, **fields: int) -> None:
    for n in range(count):
        result(broker.publish(queue(name), text(str(n), **fields)))


def test_what_expires_by_its_own_moment_goes_and_the_rest_stays() -> None:
    bench = Bench()
    for n in range(10):
        result(bench.broker.publish(queue("q"), text(str(n), ttl=5_000 if n % 2 else 0)))
    bench.turn(4.5)
    assert bench.broker.queue_stats("q").ready == 10
    bench.turn(2)
    bench.turn(2)
    stats = bench.broker.queue_stats("q")
    assert (stats.ready, stats.expired, bench.broker.stats.expired) == (5, 5, 5)
    assert [bench.body("q") for _ in range(6)] == [b"0", b"2", b"4", b"6", b"8", None]


def test_it_is_settled_on_disk() -> None:
    bench = Bench()
    publish(bench.broker, "q", 100, ttl=1_000)
    publish(bench.broker, "q", 1)
    for _ in range(4):
        bench.turn(1)
    bench.boot()
    assert bench.broker.queue_stats("q").ready == 1


def test_what_was_stored_before_the_start_expires_too() -> None:
    bench = Bench()
    publish(bench.broker, "q", 10, ttl=60_000)
    bench.boot()
    bench.turn(59)
    assert bench.broker.queue_stats("q").ready == 10
    bench.turn(2)
    bench.turn(2)
    assert bench.broker.queue_stats("q").ready == 0


@pytest.mark.parametrize("of", ["queue", "binding"])
def test_the_queues_or_the_bindings_time_to_live(of: str) -> None:
    bench = Bench(policy=Policy(ttl=10_000 if of == "queue" else 0))
    policy = BindingPolicy(ttl=10_000 if of == "binding" else None)
    result(start(bench.broker.bind("q", topic("t"), policy=policy)))
    for _ in range(4):
        result(bench.broker.publish(topic("t"), text("x")))
        bench.turn(3)
    bench.turn(1.5)
    bench.turn(1.5)
    assert bench.broker.queue_stats("q").expired == 2
    bench.turn(20)
    bench.turn(2)
    assert bench.broker.queue_stats("q").ready == 0


def test_what_is_on_loan_stays_with_its_consumer() -> None:
    bench = Bench()
    publish(bench.broker, "q", 3, ttl=1_000)
    taken = result(start(bench.broker.take("q")))
    assert taken is not None
    bench.turn(3)
    bench.turn(3)
    stats = bench.broker.queue_stats("q")
    assert (stats.ready, stats.on_loan) == (0, 1)
    result(bench.broker.ack([taken]))
    assert bench.broker.queue_stats("q").settled == 1


def test_they_go_to_another_queue_if_the_policy_says_so() -> None:
    policies = Policies(Policy(), [Rule("work", {"expire_to": "late"})])
    bench = Bench(policy=policies)
    publish(bench.broker, "work", 2_500, ttl=1_000)
    bench.turn(2)
    for _ in range(20):
        bench.turn(0.1)
    assert bench.broker.queue_stats("work").ready == 0
    assert bench.broker.queue_stats("late").ready == 2_500
    bodies = [bench.body("late") for _ in range(2_500)]
    assert bodies == [str(n).encode() for n in range(2_500)]


def test_what_is_in_memory_only_expires_too() -> None:
    bench = Bench(policy=Policy(durable=False, ttl=5_000))
    publish(bench.broker, "q", 2_500)
    bench.turn(7)
    bench.turn(2)
    assert (bench.broker.queue_stats("q").ready, bench.broker.queue_stats("q").expired) == (0, 2_500)


def test_nothing_that_expires_later_is_asked_for_again_and_again() -> None:
    store = Asked()
    bench = Bench(store)
    for n in range(20):
        publish(bench.broker, f"q{n}", 1, ttl=3_600_000)
        publish(bench.broker, f"never{n}", 1)
    for _ in range(100):
        bench.turn(1)
    assert store.questions == 0, "each is asked about when its moment has come"
    bench.boot()
    for _ in range(100):
        bench.turn(1)
    assert store.questions == 40, "after a start once each"


def test_a_store_that_cannot_be_read_is_asked_again() -> None:
    store = Asked()
    bench = Bench(store)
    publish(bench.broker, "q", 3, ttl=1_000)
    store.fails = True
    for _ in range(3):
        bench.turn(1)
    assert bench.broker.queue_stats("q").ready == 3
    store.fails = False
    for _ in range(3):
        bench.turn(1)
    assert bench.broker.queue_stats("q").ready == 0


def test_a_piece_asks_a_bounded_number_of_questions() -> None:
    store = Asked()
    bench = Bench(store)
    for n in range(200):
        publish(bench.broker, f"q{n}", 1, ttl=1_000)
    before = store.questions
    bench.turn(3)
    assert 0 < store.questions - before <= 50
    for _ in range(10):
        bench.turn(0.1)
    assert store.questions - before == 200


def test_stopping_ends_it_at_once() -> None:
    bench = Bench()
    publish(bench.broker, "q", 3, ttl=1_000)
    result(start(bench.broker.stop()))
    assert not bench.clock.getDelayedCalls()
