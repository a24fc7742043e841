"""Bursts: plain messages for one queue that are put in together."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.defer import Deferred

from broker.core import burst as bursts
from broker.core.burst import Burst
from broker.core.delivery import Delivery
from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.core.topic import Live
from broker.errors import StoreRefused, StoreUnavailable
from tests.core.support import Bench, result, start, text
from tests.support import flush_logged_errors


def made(bench: Bench, to: Destination = queue("q"), count: int = 3) -> Burst:  # noqa: B008 - frozen
    burst = bench.broker.burst(to)
    assert burst is not None
    for n in range(count):
        message = text(str(n))
        assert burst.takes(message)
        burst.add(message)
    return burst


def begin(bench: Bench, *some: Burst) -> Deferred[None]:
    """Fires when they are on disk."""
    done: Deferred[None] = Deferred()
    bench.broker.put(some, lambda error: done.errback(error) if error else done.callback(None))
    return done


def put(bench: Bench, burst: Burst) -> int:
    """The delivery id of the first one, once they are on disk."""
    result(begin(bench, burst))
    return burst.first


def filled(policy: Policies | Policy = Policy()) -> Bench:  # noqa: B008 - frozen
    """A bench whose queue q was published to."""
    bench = Bench(policy=policy)
    result(bench.broker.publish(queue("q"), text("first")))
    return bench


def test_they_are_stored_in_order_behind_what_was_there_and_have_ids_that_follow_one_another() -> None:
    bench = filled()
    first = put(bench, made(bench))
    result(bench.broker.publish(queue("q"), text("last")))
    deliveries = [result(start(bench.broker.take("q"))) for _ in range(5)]
    assert [one and one.message.body for one in deliveries] == [b"first", b"0", b"1", b"2", b"last"]
    assert [one and one.id for one in deliveries[1:4]] == [first, first + 1, first + 2]
    stamps = [one.message.stamp for one in deliveries if one]
    assert stamps == sorted(set(stamps))


def test_one_whose_waiter_fails_does_not_keep_the_others_from_being_told() -> None:
    bench = filled()
    bench.memory.hold = True
    told: list[object] = []

    def fail(error: object) -> None:
        raise ZeroDivisionError("a waiter's mistake")

    for waiter in (told.append, fail, told.append):
        bench.broker.put([made(bench)], waiter)
    bench.memory.release_commit()
    bench.memory.release_commit()
    assert told == [None, None]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_burst_is_gone_once_it_is_told_without_the_garbage_collector() -> None:
    bench = filled()
    burst = made(bench)
    left = weakref.ref(burst)
    gc.disable()
    try:
        put(bench, burst)
        del burst
        assert left() is None
    finally:
        gc.enable()


def test_they_are_counted_and_there_after_a_restart() -> None:
    bench = filled()
    result(begin(bench, made(bench)))
    stats = bench.broker.queue_stats("q")
    assert (stats.published, stats.ready) == (4, 4)
    assert (bench.broker.stats.published, bench.broker.stats.published_bytes) == (4, len("first012"))
    bench.boot()
    assert [bench.body("q") for _ in range(5)] == [b"first", b"0", b"1", b"2", None]


def test_several_ride_in_one_commit() -> None:
    bench = filled()
    bench.memory.hold = True
    before = bench.memory.commits
    three = [made(bench) for _ in range(3)]
    told = [begin(bench, burst) for burst in three]
    bench.memory.release_commit()
    bench.memory.release_commit()
    assert all(one.called for one in told)
    assert len({burst.first for burst in three}) == 3
    assert bench.memory.commits - before == 2, "the first of them began a commit, the others were the next"


def test_those_for_several_queues_are_one_unit() -> None:
    bench = filled()
    for name in ("a", "b"):
        result(bench.broker.publish(queue(name), text(f"first of {name}")))
    bench.memory.hold = True
    some = [made(bench, queue(name), count) for name, count in (("a", 2), ("q", 1), ("a", 1), ("b", 3))]
    told = begin(bench, *some)
    assert not told.called
    bench.memory.release_commit()
    result(told)
    assert bench.broker.queue_stats("a").bytes == len("first of a010")
    assert bench.broker.queue_stats("q").bytes == len("first0")
    bench.memory.hold = False
    bodies = {name: [bench.body(name) for _ in range(5)] for name in ("a", "b", "q")}
    assert bodies["a"] == [b"first of a", b"0", b"1", b"0", None]
    assert bodies["b"] == [b"first of b", b"0", b"1", b"2", None]
    assert bodies["q"] == [b"first", b"0", None, None, None]
    assert bench.broker.stats.published == 3 + 7
    assert some[2].first == some[0].first + 2


def test_the_stamps_of_those_that_are_put_in_together_are_in_order() -> None:
    bench = filled()
    result(bench.broker.publish(queue("other"), text("x")))
    some = [made(bench, queue(name)) for name in ("q", "other", "q")]
    result(begin(bench, *some))
    stamps = [message.stamp for burst in some for message in burst.messages]
    assert stamps == sorted(set(stamps))
    assert len(stamps) == 9


def test_of_those_that_are_put_in_together_the_store_keeps_all_or_none() -> None:
    bench = filled()
    result(bench.broker.publish(queue("other"), text("x")))
    bench.memory.hold = True
    told = begin(bench, made(bench), made(bench, queue("other")))
    bench.memory.fail_commit(StoreRefused("not this one"))
    with pytest.raises(StoreRefused):
        result(told)
    bench.memory.hold = False
    assert [bench.broker.queue_stats(name).ready for name in ("q", "other")] == [1, 1]
    assert bench.broker.stats.published == 2


def test_one_whose_queue_is_deleted_meanwhile_does_not_keep_the_others() -> None:
    bench = filled()
    result(bench.broker.publish(queue("other"), text("x")))
    bench.memory.hold = True
    _ = bench.broker.publish(queue("third"), text("x"))
    gone, kept = made(bench), made(bench, queue("other"))
    told = begin(bench, gone, kept)
    _ = start(bench.broker.delete("q"))
    bench.memory.hold = False
    while bench.memory.held is not None:
        bench.memory.release_commit()
    result(told)
    assert (gone.first, kept.first > 0) == (0, True)
    assert bench.broker.queue_stats("other").ready == 4


def test_nothing_is_delivered_or_told_before_the_commit_and_a_failure_is_told_to_all() -> None:
    bench = filled()
    bench.memory.hold = True
    told = begin(bench, made(bench))
    assert not told.called
    assert bench.broker.queue_stats("q").ready == 1
    bench.memory.fail_commit(StoreUnavailable("no room"))
    with pytest.raises(StoreUnavailable):
        result(told)
    assert bench.broker.queue_stats("q").ready == 1


def test_a_queue_that_is_deleted_meanwhile() -> None:
    bench = filled()
    bench.memory.hold = True
    other = bench.broker.publish(queue("other"), text("x"))
    burst = made(bench)
    told = begin(bench, burst)
    _ = start(bench.broker.delete("q"))
    bench.memory.hold = False
    while bench.memory.held is not None:
        bench.memory.release_commit()
    assert result(other).message_id
    result(told)
    assert burst.first == 0


def test_a_message_that_is_put_in_twice_is_two() -> None:
    bench = filled()
    message = text("same")
    for _ in range(2):
        burst = bench.broker.burst(queue("q"))
        assert burst is not None
        burst.add(message)
        burst.add(message)
        result(begin(bench, burst))
    taken = [result(start(bench.broker.take("q"))) for _ in range(5)]
    assert len({one.message.stamp for one in taken if one}) == 5


@pytest.mark.parametrize(
    "wish", [{"key": "k"}, {"ttl": 1}, {"expires": 1}, {"delay": 1}, {"priority": 1}, {"body": b"12345678901"}]
)
def test_what_is_not_plain_is_published_by_itself(wish: dict[str, object]) -> None:
    bench = filled(Policies(Policy(), [Rule("q", {"max_message_size": 10})]))
    assert made(bench).takes(Message(**({"body": b"x"} | wish))) is False  # type: ignore[arg-type]


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = filled()
    monkeypatch.setattr(bursts, "MAX_MESSAGES", 3)
    assert not made(bench).takes(text("x"))
    monkeypatch.setattr(bursts, "MAX_MESSAGES", 100)
    monkeypatch.setattr(Burst, "MOST", 10)
    assert made(bench, count=0).takes(text("x" * 100)), "one that is larger is alone"
    assert not made(bench, count=1).takes(text("x"))


@pytest.mark.parametrize(
    "policy",
    [
        {"max_messages": 10},
        {"max_bytes": 10_000},
        {"delay": 1_000},
        {"retain": 1_000},
        {"durable": False},
        {"fanout_only": True},
    ],
)
def test_a_queue_where_more_depends_on_a_message_takes_none(policy: dict[str, object]) -> None:
    bench = filled(Policies(Policy(), [Rule("q", policy)]))
    assert bench.broker.burst(queue("q")) is None


def test_neither_do_queues_that_others_read_nor_those_that_are_not_there() -> None:
    bench = filled(Policies(Policy(), aliases={"alias": (queue("q"),)}))
    assert bench.broker.burst(queue("nobody")) is None
    assert bench.broker.burst(queue("alias")) is None
    result(start(bench.broker.bind("other", queue("q"))))
    assert bench.broker.burst(queue("q")) is None


def test_a_broker_that_stops_takes_none() -> None:
    bench = filled()
    _ = start(bench.broker.stop())
    assert bench.broker.burst(queue("q")) is None


def subscribed(bench: Bench, name: str, take: bool = True) -> list[list[tuple[str, str]]]:
    """What a live subscriber of a topic is told, by calls."""
    told: list[list[tuple[str, str]]] = []

    def tell(lives: list[Live]) -> bool:
        if take:
            told.append([(live.message.body.decode(), str(live.source)) for live in lives])
        return take

    def deliver(delivery: Delivery) -> None:
        told.append([(f"loan of {delivery.message.body.decode()}", str(delivery.source))])

    bench.broker.subscribe(topic(name), deliver, prefetch=10, tell=tell)
    return told


def test_a_topics_live_subscribers_are_told_all_at_once() -> None:
    bench = Bench()
    told, by_pattern, lent = subscribed(bench, "t"), subscribed(bench, "#"), subscribed(bench, "t", take=False)
    assert put(bench, made(bench, topic("t"))) == 0
    assert told == by_pattern == [[("0", "/topic/t"), ("1", "/topic/t"), ("2", "/topic/t")]]
    assert lent == [[("loan of 0", "/topic/t")], [("loan of 1", "/topic/t")], [("loan of 2", "/topic/t")]]
    stats = bench.broker.stats
    assert (stats.published, stats.published_to_topics, stats.published_bytes, stats.delivered) == (3, 3, 3, 9)
    assert bench.memory.commits == 0


def test_a_burst_for_a_topic_is_bounded_by_what_a_subscriber_may_be_behind() -> None:
    burst = made(Bench(), topic("t"), count=0)
    burst.add(text("x" * 60_000))
    assert not burst.takes(text("x" * 10_000))


def test_a_topic_that_is_kept_or_read_by_a_queue_takes_none() -> None:
    bench = Bench(policy=Policies(Policy(), topic_rules=[Rule("kept", {"retain": 60_000})]))
    result(start(bench.broker.bind("q", topic("bound"))))
    result(start(bench.broker.bind("q", topic("by.*"))))
    assert [bench.broker.burst(topic(name)) for name in ("kept", "bound", "by.pattern", "a.#")] == [None] * 4
    assert bench.broker.burst(topic("by.other.pattern")) is not None
