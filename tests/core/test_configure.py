"""What is told to a broker while it runs: policies of single queues, draining, publishes that are withdrawn."""

from __future__ import annotations

import pytest

from broker.core.destination import queue, topic
from broker.core.level import Level
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.errors import QueueFull, Stopping
from tests.core.support import Bench, result, start, text


def bench() -> Bench:
    return Bench(policy=Policies(Policy(), [Rule("q*", {"ttl": 5_000}), Rule("q", {"max_messages": 1})]))


def configure(on: Bench, **said: dict[str, object]) -> None:
    waiting = start(on.broker.configure({queue(name): keys for name, keys in said.items()}))
    on.turn()
    result(waiting)


def test_what_is_said_of_one_queue_is_over_the_rules_and_beside_them() -> None:
    on = bench()
    configure(on, q={"ttl": 7_000})
    policy = on.broker.rules_of(queue("q"))
    assert isinstance(policy, Policy)
    assert (policy.ttl, policy.max_messages) == (7_000, 1)
    assert on.broker.configured == {queue("q"): {"ttl": 7_000}}
    configure(on)
    assert on.broker.rules_of(queue("q")) == Policy(ttl=5_000, max_messages=1)


def test_what_was_said_outlives_a_reload() -> None:
    on = bench()
    configure(on, q={"paused": True})
    waiting = start(on.broker.reload(Policies(Policy(), [Rule("q", {"ttl": 9_000})])))
    on.turn()
    result(waiting)
    assert on.broker.rules_of(queue("q")) == Policy(ttl=9_000, paused=True)


def test_a_queue_that_is_there_follows_at_once() -> None:
    on = bench()
    configure(on, q={"paused": True})
    result(on.broker.publish(queue("q"), text("x")))
    waiting = start(on.broker.take("q", wait=60))
    on.turn()
    assert on.broker.queue_stats("q").paused
    configure(on, q={"paused": False})
    delivery = result(waiting)
    assert delivery is not None
    assert delivery.message.body == b"x"


def test_topics_have_theirs() -> None:
    on = bench()
    result(start(on.broker.configure({topic("news"): {"retain": 60_000}})))
    assert on.broker.rules_of(topic("news")) == TopicPolicy(retain=60_000)
    result(on.broker.publish(topic("news"), text("kept")))
    assert len(result(start(on.broker.browse(topic("news")))).seen) == 1


def test_a_broker_that_drains_takes_nothing_in_and_moves_what_is_due() -> None:
    on = bench()
    result(on.broker.publish(queue("a"), text("late", delay=1_000)))
    on.broker.status.become(Level.DRAINING)
    with pytest.raises(Stopping):
        _ = on.broker.publish(queue("a"), text("x"))
    on.turn(2)
    assert on.body("a") == b"late"
    on.broker.status.become(Level.UP)
    result(on.broker.publish(queue("a"), text("x")))


def test_a_publish_that_waits_for_room_can_be_withdrawn_and_one_on_its_way_cannot() -> None:
    on = Bench(policy=Policy(max_messages=1, overflow="wait"))
    first = on.broker.publish(queue("a"), text("first"))
    second, third = [on.broker.publish(queue("a"), text(body)) for body in ("second", "third")]
    for one in (first, second):
        on.broker.withdraw(one)
    assert result(first).deliveries
    with pytest.raises(Stopping):
        result(second)
    assert [on.body("a"), on.body("a")] == [b"first", b"third"]
    result(third)


def test_the_full_queues_of_a_topic_are_those_that_would_want_the_message() -> None:
    on = Bench(policy=Policies(Policy(), [Rule("small*", {"max_messages": 1})]))
    for name, match in (("small", ""), ("small-picky", "size > 5"), ("large", "")):
        result(start(on.broker.bind(name, topic("news"), match=match)))
    assert on.broker.full(topic("news"), text("x")) == []
    result(on.broker.publish(topic("news"), text("long enough")))
    assert on.broker.full(topic("news"), text("x")) == ["small"]
    assert on.broker.full(topic("news"), text("long enough")) == ["small", "small-picky"]
    with pytest.raises(QueueFull):
        _ = on.broker.publish(queue("small"), text("x"))
