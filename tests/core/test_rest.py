"""Queues that nobody uses come to rest, and wake when they are spoken of."""

from __future__ import annotations

import gc
import weakref

import pytest

from broker.core import usage
from broker.core.broker import Broker
from broker.core.destination import queue, topic
from broker.core.policy import Policies, Policy, Rule
from broker.core.queue import Queue
from broker.core.survey import Surveyor
from broker.errors import NotFound
from tests.core.support import Bench, result, start, text

#: Seconds after which a queue is at rest: it is looked at every quarter of a minute.
LONG = 80


def put(bench: Bench, name: str, *bodies: str) -> None:
    for body in bodies:
        result(bench.broker.publish(queue(name), text(body)))


def awake(bench: Bench) -> set[str]:
    return set(bench.broker._directory.queues)


def resting(bench: Bench) -> set[str]:
    return set(bench.broker._directory.dormant.names())


def test_after_a_start_only_what_is_used_is_in_memory() -> None:
    bench = Bench()
    for n in range(5):
        put(bench, f"q{n}", "a", "b")
    bench.boot()
    assert (awake(bench), resting(bench)) == (set(), {f"q{n}" for n in range(5)})
    assert bench.body("q1") == b"a"
    put(bench, "q2", "c")
    assert awake(bench) == {"q1", "q2"}
    assert [bench.body("q2") for _ in range(4)] == [b"a", b"b", b"c", None]


def test_who_has_not_used_it_for_a_while_finds_it_as_it_was() -> None:
    bench = Bench()
    put(bench, "q", *"abcde")
    assert bench.body("q") == b"a"
    before = bench.broker.queue_stats("q")
    bench.turn(LONG)
    assert awake(bench) == set()
    after = bench.broker.queue_stats("q")
    assert resting(bench) == {"q"}, "who looks at its numbers does not wake it"
    assert (after.ready, after.bytes, after.settled, after.published, after.last_id) == (
        before.ready,
        before.bytes,
        before.settled,
        before.published,
        before.last_id,
    )
    assert after.oldest_ms == LONG * 1000 - 1, "the second message came a microsecond later"
    assert [bench.body("q") for _ in range(5)] == [b"b", b"c", b"d", b"e", None]
    assert bench.broker.queue_stats("q").settled == 5


def test_of_very_many_those_used_longest_ago_come_to_rest_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_USED", 3)
    bench = Bench()
    for n in range(5):
        put(bench, f"q{n}", "a")
    held = result(start(bench.broker.take("q0")))
    assert held is not None
    looked = start(bench.broker.peek("q1"))
    bench.turn(2)
    assert result(looked) is not None
    assert awake(bench) == {"q0", "q1", "q4"}, "q2 and q3 were used longest ago, of those with nothing on loan"
    result(bench.broker.ack([held]))
    assert [bench.body(f"q{n}") for n in range(5)] == [None, b"a", b"a", b"a", b"a"]
    bench.turn(2)
    assert len(awake(bench)) == 3


def test_a_queue_that_rests_is_gone_without_a_garbage_collection() -> None:
    bench = Bench()
    put(bench, "q", "a", "b")
    assert bench.body("q") == b"a"
    queue_ = weakref.ref(bench.broker._directory.queues["q"])
    gc.collect()
    gc.disable()
    try:
        bench.turn(LONG)
        assert queue_() is None
    finally:
        gc.enable()
    assert bench.body("q") == b"b"


def test_a_policy_that_no_longer_lets_queues_go_is_followed() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("q", {"max_idle": 300_000})]))
    put(bench, "q", "a")
    assert bench.body("q") == b"a"
    bench.turn(LONG)
    _ = start(bench.broker.reload(Policies(Policy())))
    bench.turn(400)
    assert "q" in awake(bench) | resting(bench)


def test_it_does_not_rest_while_anything_of_it_is_odd() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("kept", {"retain": 1_000_000}), Rule("memory", {"durable": False})]))
    put(bench, "on-loan", "a")
    put(bench, "nacked", "a")
    put(bench, "priorities", "a")
    put(bench, "kept", "a")
    put(bench, "memory", "a")
    put(bench, "plain", "a")
    put(bench, "reading", "a")
    result(bench.broker.publish(queue("priorities"), text("b", priority=-1)))
    result(start(bench.broker.bind("reading", topic("t"))))
    result(start(bench.broker.bind("other", queue("read"))))
    assert result(start(bench.broker.take("on-loan"))) is not None
    nacked = result(start(bench.broker.take("nacked")))
    assert nacked is not None
    bench.broker.nack([nacked])
    bench.broker.subscribe(queue("consumed"), lambda delivery: None, prefetch=1)
    bench.turn(LONG)
    bench.turn(LONG)
    assert resting(bench) == {"plain"}
    assert awake(bench) == {"on-loan", "nacked", "priorities", "kept", "memory", "reading", "other", "consumed", "read"}


def test_what_was_settled_out_of_order_keeps_it_awake_until_it_is_settled() -> None:
    bench = Bench()
    put(bench, "q", "a", "b")
    taken = [result(start(bench.broker.take("q"))) for _ in range(2)]
    assert taken[0] is not None
    assert taken[1] is not None
    result(bench.broker.ack([taken[1]]))
    bench.broker.release([taken[0]])
    bench.turn(LONG)
    assert awake(bench) == {"q"}
    assert bench.body("q") == b"a"
    bench.turn(LONG)
    assert awake(bench) == set()


def test_the_id_of_a_message_wakes_it() -> None:
    bench = Bench()
    put(bench, "q", "a", "b")
    looked = start(bench.broker.peek("q"))
    bench.turn()
    peeked = result(looked)
    assert peeked is not None
    bench.boot()
    assert bench.broker.queue_of(peeked.id) == queue("q")
    assert bench.broker.queue_of(peeked.id + 5) is None
    bench.boot()
    result(start(bench.broker.touch(peeked.id, 60_000)))
    assert bench.body("q") == b"b"
    bench.boot()
    result(bench.broker.settle(peeked.id))
    with pytest.raises(NotFound):
        result(bench.broker.settle(peeked.id))
    assert bench.broker.queue_stats("q").ready == 0


def test_a_delivery_that_is_acked_late_is_settled() -> None:
    bench = Bench()
    put(bench, "q", "a", "b")
    taken = result(start(bench.broker.take("q")))
    assert taken is not None
    bench.turn(LONG)
    result(bench.broker.ack([taken]))
    bench.turn(LONG)
    assert resting(bench) == {"q"}
    bench.boot()
    assert bench.body("q") == b"b"


def test_binding_deleting_and_purging_wake_it() -> None:
    bench = Bench()
    for name in ("bound", "source", "gone", "purged"):
        put(bench, name, "a")
    bench.boot()
    result(start(bench.broker.bind("bound", topic("t"))))
    result(start(bench.broker.bind("copy", queue("source"))))
    assert result(start(bench.broker.delete("gone")))
    assert result(start(bench.broker.purge("purged"))) == 1
    assert resting(bench) == set()
    put(bench, "source", "b")
    result(bench.broker.publish(topic("t"), text("c")))
    assert [bench.body("bound") for _ in range(2)] == [b"a", b"c"]
    assert [bench.body("source") for _ in range(2)] == [b"a", b"b"]
    assert bench.body("copy") == b"b"
    bench.boot()
    assert bench.broker.queues() == ["bound", "copy"], "they are bound"


def test_the_surveys_count_what_rests() -> None:
    bench = Bench()
    for n in range(30):
        put(bench, f"q{n:02}", "abc")
    put(bench, "empty", "a")
    assert bench.body("empty")
    bench.boot()
    put(bench, "q29", "more")
    survey = result(start(Surveyor(bench.broker).survey(lambda name: name.startswith("q0"), most=100)))
    assert (survey.broker["queues"], survey.broker["ready"], survey.broker["queues_in_use"]) == (31, 31, 30)
    assert [(name, stats.ready) for name, stats in survey.queues] == [(f"q0{n}", 1) for n in range(10)]
    assert len(awake(bench)) == 1
    assert survey.last_id == bench.broker.queue_stats("q29").last_id
    assert bench.broker.queues() == [f"q{n:02}" for n in range(30)]
    assert Surveyor(bench.broker).queues(after="q27") == ["q28", "q29"]


def test_a_new_policy_holds_for_what_rests() -> None:
    bench = Bench()
    put(bench, "q", "a")
    put(bench, "short", "a")
    bench.boot()
    rules = [Rule("q", {"paused": True}), Rule("short", {"max_idle": 1_000})]
    result(start(bench.broker.reload(Policies(Policy(), rules))))
    assert bench.broker.queue_stats("q").paused
    assert bench.body("q") is None
    assert awake(bench) == {"q", "short"}, "who is to go when it is not used must be looked at"


def test_what_rests_expires() -> None:
    bench = Bench(policy=Policy(ttl=100_000))
    put(bench, "by-policy", "a")
    bench.turn(90)
    result(bench.broker.publish(queue("by-itself"), text("a", ttl=5_000)))
    result(bench.broker.publish(queue("by-itself"), text("b")))
    bench.boot()
    bench.turn(2)
    assert resting(bench) == {"by-policy", "by-itself"}
    for _ in range(20):
        bench.turn(1)
    assert bench.broker.queue_stats("by-policy").ready == 0
    assert bench.broker.queue_stats("by-itself").ready == 1
    assert resting(bench) == {"by-policy", "by-itself"}


def test_after_a_crash_what_may_have_been_delivered_is_redelivered_and_after_a_stop_nothing_else() -> None:
    def redelivered() -> bool:
        taken = result(start(bench.broker.take("q")))
        assert taken is not None
        bench.broker.release([taken])
        return taken.redelivered

    bench = Bench()
    put(bench, "q", "a")
    assert result(start(bench.broker.take("q"))) is not None
    bench.boot()
    assert resting(bench) == {"q"}
    assert redelivered()
    bench.turn(LONG)
    put(bench, "q2", "a")
    assert bench.body("q2")
    put(bench, "q2", "b")
    bench.turn(LONG)
    assert "q2" in resting(bench)
    result(start(bench.broker.stop()))
    bench.boot()
    taken = result(start(bench.broker.take("q2")))
    assert taken is not None
    assert not taken.redelivered


def test_many_come_to_rest_a_thousand_in_a_turn() -> None:
    bench = Bench()
    for n in range(2_500):
        put(bench, f"q{n}", "a")
    seen = []
    rest = bench.broker._directory.rest

    def count(queue: Queue) -> bool:
        seen.append(bench.clock.seconds())
        return rest(queue)

    bench.broker._directory.rest = count  # type: ignore[method-assign]
    bench.clock.rightNow += LONG
    bench.broker._supply.usage._evict()
    assert len(seen) == 1_000
    bench.turn()
    assert (len(seen), awake(bench)) == (2_500, set())


def test_who_publishes_again_after_a_restart_and_a_rest_is_told_the_same() -> None:
    bench = Bench(policy=Policy(dedup_window=3_600_000))
    first = result(bench.broker.publish(queue("q"), text("a", key="k")))
    assert bench.body("q")
    put(bench, "q", "b")
    for wait in (0, LONG):
        bench.boot()
        bench.turn(wait)
        again = result(bench.broker.publish(queue("q"), text("a", key="k")))
        assert (again.message_id, again.deliveries, again.duplicate) == (first.message_id, first.deliveries, True)


def test_a_queue_that_wakes_twice_is_one_queue() -> None:
    bench = Bench()
    put(bench, "q", "a")
    bench.boot()
    broker: Broker = bench.broker
    waiting = start(broker.take("q", wait=5))
    assert result(waiting) is not None
    assert broker._directory.find("q") is broker._directory.queue("q")
    assert len(broker._directory.readers) == 1


def test_looking_for_what_has_expired_leaves_nothing_in_memory() -> None:
    bench = Bench()
    for n in range(200):
        put(bench, f"q{n}", "a")
    bench.boot()
    for _ in range(30):
        bench.turn(0.5)
    assert bench.broker.queue_stats("q0").oldest_ms >= 15_000, "somebody has looked"
    assert (awake(bench), list(bench.broker._supply.usage._used)) == (set(), [])


def test_many_that_are_to_go_some_time_are_looked_at_every_quarter_of_a_minute() -> None:
    bench = Bench(policy=Policy(max_idle=600_000))
    for n in range(1_500):
        put(bench, f"q{n}", *("a" * (n % 2)))
        bench.broker.subscribe(queue(f"q{n}"), lambda delivery: None, prefetch=1)
    evict = bench.broker._supply.usage._evict
    for subscription in [one for found in bench.broker._directory.queues.values() for one in found.subscriptions]:
        bench.broker.release(list(subscription.unsettled))
        bench.broker.unsubscribe(subscription)
    for _ in range(20):
        bench.turn(59)
        (call,) = [call for call in bench.clock.getDelayedCalls() if getattr(call, "func", None) == evict]
        assert call.getTime() > bench.clock.seconds()
