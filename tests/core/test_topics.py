"""Topics and what reads them: patterns, names that say what they read, aliases, live subscribers, retained topics."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.bindings import MAX_FILTERS
from broker.core.delivery import Delivery
from broker.core.destination import Destination, queue, topic
from broker.core.policy import BindingPolicy, Policies, Rule
from broker.errors import BadName, BadValue, MessageTooLarge, QueueFull, StoreUnavailable
from tests.core.support import Bench, Holding, result, start, text
from tests.storage.support import inline_store


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bind(bench: Bench, name: str, source: Destination, policy: BindingPolicy | None = None, match: str = "") -> None:
    result(start(bench.broker.bind(name, source, policy or BindingPolicy(), match=match)))


def unbind(bench: Bench, name: str, source: Destination) -> bool:
    return result(start(bench.broker.unbind(name, source)))


def publish(bench: Bench, destination: Destination, *bodies: str) -> list[list[str]]:
    """Publish these; which queues got each."""
    return [sorted(result(bench.broker.publish(destination, text(body))).deliveries) for body in bodies]


def drain(bench: Bench, name: str) -> list[str]:
    """Everything in a queue, as source and body."""
    found = []
    while (delivery := result(start(bench.broker.take(name)))) is not None:
        result(bench.broker.ack([delivery]))
        found.append(f"{delivery.source.name}: {delivery.message.body.decode()}")
    return found


# -- patterns, live


def test_a_live_subscription_to_a_pattern_says_where_each_message_was_published(bench: Bench) -> None:
    got: list[Delivery] = []
    subscription = bench.broker.subscribe(topic("prices.*"), got.append, prefetch=10)
    publish(bench, topic("prices.eu"), "1")
    publish(bench, topic("prices"), "none of its")
    bind(bench, "q", topic("prices.us"))
    publish(bench, topic("prices.us"), "2")
    assert [(d.source, d.message.body) for d in got] == [(topic("prices.eu"), b"1"), (topic("prices.us"), b"2")]
    result(bench.broker.ack(got))
    names = {d.message_id for d in got}
    assert len(names) == 2  # what a delivery is called outlives its settlement
    bench.broker.unsubscribe(subscription)
    publish(bench, topic("prices.eu"), "3")
    assert len(got) == 2


def test_a_pattern_cannot_be_published_to(bench: Bench) -> None:
    for name in ("prices.*", "#", "a.>"):
        with pytest.raises(BadName, match="pattern"):
            _ = bench.broker.publish(topic(name), text("x"))
        with pytest.raises(BadName, match="pattern"):
            bench.broker.begin().publish(topic(name), text("x"))
    publish(bench, queue("prices.*"), "a queue's name is only a name")


def test_a_bad_pattern_is_refused(bench: Bench) -> None:
    with pytest.raises(BadName, match="last word"):
        bench.broker.subscribe(topic("a.>.b"), lambda delivery: None, prefetch=1)
    with pytest.raises(BadName, match="last word"):
        bind(bench, "q", topic("a.>.b"))
    publish(bench, topic("a"), "nothing is left behind")
    assert bench.broker.topics() == []


# -- patterns, bound


def test_a_queue_bound_to_a_pattern_reads_the_topics_there_are_and_those_that_come(bench: Bench) -> None:
    for name in ("prices.eu", "news"):
        bind(bench, "other", topic(name))
    bind(bench, "q", topic("prices.#"), BindingPolicy(priority=3))
    assert publish(bench, topic("prices.eu"), "1") == [["other", "q"]]
    assert publish(bench, topic("prices.us"), "2", "3") == [["q"], ["q"]]
    assert publish(bench, topic("news"), "4") == [["other"]]
    assert drain(bench, "q") == ["prices.eu: 1", "prices.us: 2", "prices.us: 3"]
    assert bench.broker.bound(topic("prices.us")) == ["q"]
    assert bench.broker.sources("q") == [topic("prices.#")]


def test_the_first_message_of_a_topic_and_its_binding_are_one_commit() -> None:
    bench = Bench()
    bind(bench, "q", topic("prices.*"))
    bench.memory.hold = True
    published = bench.broker.publish(topic("prices.eu"), text("1"))
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable):
        result(published)
    bench.memory.hold = False
    assert publish(bench, topic("prices.eu"), "2") == [["q"]]
    bench.boot()
    assert drain(bench, "q") == ["prices.eu: 2"]


def test_a_pattern_and_what_follows_from_it_outlive_a_restart(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"), BindingPolicy(priority=3), "priority < 9")
    publish(bench, topic("prices.eu"), "1")
    result(start(bench.broker.stop()))
    bench.boot()
    assert publish(bench, topic("prices.eu"), "2") == [["q"]]
    assert publish(bench, topic("prices.us"), "3") == [["q"]]
    assert result(bench.broker.publish(topic("prices.us"), text("x", priority=9))).deliveries == {}
    assert bench.broker.sources("q") == [topic("prices.*")]
    assert unbind(bench, "q", topic("prices.*"))
    assert publish(bench, topic("prices.eu"), "4") == publish(bench, topic("prices.uk"), "5") == [[]]
    assert drain(bench, "q") == ["prices.eu: 1", "prices.eu: 2", "prices.us: 3"]


def test_a_message_that_two_patterns_match_comes_once(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"), BindingPolicy(priority=1))
    bind(bench, "q", topic("#.eu"), BindingPolicy(priority=2))
    publish(bench, topic("prices.eu"), "1")
    delivery = result(start(bench.broker.take("q")))
    assert delivery is not None
    assert delivery.priority == 1  # as the pattern says that was bound first
    assert drain(bench, "q") == []
    assert unbind(bench, "q", topic("prices.*"))
    assert publish(bench, topic("prices.eu"), "2") == [["q"]]
    assert publish(bench, topic("prices.us"), "3") == [[]]
    delivery = result(start(bench.broker.take("q")))
    assert delivery is not None
    assert delivery.priority == 2


def test_a_binding_of_its_own_comes_before_a_patterns(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"), match="priority = 1")
    bind(bench, "q", topic("prices.eu"))
    assert publish(bench, topic("prices.eu"), "1") == [["q"]]
    assert bench.broker.sources("q") == [topic("prices.*"), topic("prices.eu")]
    bind(bench, "q", topic("prices.*"), match="priority = 2")  # changes nothing for the topic
    assert publish(bench, topic("prices.eu"), "2") == [["q"]]
    assert unbind(bench, "q", topic("prices.eu"))
    assert publish(bench, topic("prices.eu"), "not of priority 2") == [[]]
    assert not unbind(bench, "q", topic("prices.eu"))
    assert unbind(bench, "q", topic("prices.*"))
    assert (bench.broker.bound(topic("prices.eu")), bench.broker.topics()) == ([], [])


def test_new_terms_of_a_pattern_hold_for_all_its_topics(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"), match="priority = 1")
    result(bench.broker.publish(topic("prices.eu"), text("1", priority=1)))
    bind(bench, "q", topic("prices.*"), match="priority = 2")
    for priority in (1, 2):
        result(bench.broker.publish(topic("prices.eu"), text(f"of {priority}", priority=priority)))
    assert drain(bench, "q") == ["prices.eu: 1", "prices.eu: of 2"]


def test_what_a_patterns_filter_does_not_match_leaves_nothing_behind(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"), match="priority = 1")
    commits = bench.memory.commits
    published = result(bench.broker.publish(topic("prices.eu"), text("x")))
    assert published.message_id.startswith("live.")
    assert (bench.broker.bound(topic("prices.eu")), bench.memory.commits) == ([], commits)


def test_a_deleted_queue_leaves_its_pattern(bench: Bench) -> None:
    bind(bench, "q", topic("prices.*"))
    publish(bench, topic("prices.eu"), "1")
    assert result(start(bench.broker.delete("q")))
    assert publish(bench, topic("prices.eu"), "2") == publish(bench, topic("prices.us"), "3") == [[]]


def test_the_number_of_filters_on_patterns_is_bounded(bench: Bench) -> None:
    for number in range(MAX_FILTERS):
        bind(bench, f"q{number}", topic(f"t{number}.*"), match="priority = 1")
    with pytest.raises(BadValue, match="all patterns together have 100 bindings with a filter"):
        bind(bench, "one more", topic("t.*"), match="priority = 1")
    bind(bench, "q1", topic("t1.*"), match="priority = 2")
    bind(bench, "without", topic("t.*"))
    assert unbind(bench, "q1", topic("t1.*"))
    bind(bench, "one more", topic("t.*"), match="priority = 1")


# -- queues whose names say what they read


def test_a_child_gets_what_its_parent_gets_from_its_first_use_on(bench: Bench) -> None:
    publish(bench, queue("orders"), "early")
    assert result(start(bench.broker.take("orders+audit"))) is None
    assert publish(bench, queue("orders"), "1") == [["orders", "orders+audit"]]
    assert publish(bench, queue("orders+audit"), "2") == [["orders+audit"]]
    assert publish(bench, queue("orders+copy+x"), "3") == [["orders+copy+x"]]  # a first use too
    assert publish(bench, queue("orders"), "4") == [["orders", "orders+audit", "orders+copy+x"]]
    bench.boot()
    assert publish(bench, queue("orders"), "5") == [["orders", "orders+audit", "orders+copy+x"]]
    assert drain(bench, "orders+audit") == ["orders: 1", "orders+audit: 2", "orders: 4", "orders: 5"]
    assert drain(bench, "orders") == [f"orders: {body}" for body in ("early", "1", "4", "5")]


@pytest.mark.parametrize("use", ["take", "wait", "peek", "subscribe"])
def test_any_way_of_reading_a_child_is_its_first_use(bench: Bench, use: str) -> None:
    if use == "subscribe":
        bench.broker.subscribe(queue("orders+audit"), lambda delivery: None, prefetch=1)
    elif use == "peek":
        assert result(start(bench.broker.peek("orders+audit"))) is None
    else:
        _ = start(bench.broker.take("orders+audit", wait=5 if use == "wait" else 0))
    assert bench.broker.sources("orders+audit") == [queue("orders")]
    assert publish(bench, queue("orders"), "1") == [["orders", "orders+audit"]]


def test_who_reads_a_child_first_is_answered_when_it_is_bound_on_disk() -> None:
    bench = Bench()
    bench.memory.hold = True
    taken = start(bench.broker.take("orders+audit"))
    assert not taken.called
    bench.memory.release_commit()
    assert result(taken) is None
    bench.boot()
    bench.memory.hold = False
    assert publish(bench, queue("orders"), "1") == [["orders", "orders+audit"]]


def test_to_flush_delete_or_count_is_no_use(bench: Bench) -> None:
    assert result(start(bench.broker.purge("orders+audit"))) == 0
    assert not result(start(bench.broker.delete("orders+audit")))
    assert bench.broker.queue_stats("orders+audit").ready == 0
    assert publish(bench, queue("orders"), "1") == [["orders"]]


def test_a_parent_that_is_deleted_leaves_its_children(tmp_path: Path) -> None:
    bench = Bench(Holding(lambda: inline_store(tmp_path / "data")))
    publish(bench, queue("orders+audit"), "1")
    publish(bench, queue("orders"), "2")
    assert result(start(bench.broker.delete("orders")))
    assert drain(bench, "orders") == []
    assert publish(bench, queue("orders"), "3") == [["orders", "orders+audit"]]
    assert result(start(bench.broker.delete("orders")))
    result(start(bench.broker.stop()))
    bench.boot()
    assert publish(bench, queue("orders"), "4") == [["orders", "orders+audit"]]
    assert drain(bench, "orders") == ["orders: 4"]
    assert drain(bench, "orders+audit") == ["orders+audit: 1", "orders: 2", "orders: 3", "orders: 4"]


def test_a_child_that_is_deleted_gets_nothing_until_it_is_used_again(bench: Bench) -> None:
    publish(bench, queue("orders+audit"), "1")
    assert result(start(bench.broker.delete("orders+audit")))
    assert publish(bench, queue("orders"), "2") == [["orders"]]
    assert result(start(bench.broker.take("orders+audit"))) is None
    assert publish(bench, queue("orders"), "3") == [["orders", "orders+audit"]]


def test_a_child_that_was_unbound_stays_so(bench: Bench) -> None:
    publish(bench, queue("orders+audit"), "1")
    assert unbind(bench, "orders+audit", queue("orders"))
    publish(bench, queue("orders+audit"), "2")
    assert publish(bench, queue("orders"), "3") == [["orders"]]


def test_a_consumer_of_a_virtual_topic_is_bound_to_it(bench: Bench) -> None:
    assert result(start(bench.broker.take("Consumer.audit.VirtualTopic.orders.eu"))) is None
    assert publish(bench, topic("VirtualTopic.orders.eu"), "1") == [["Consumer.audit.VirtualTopic.orders.eu"]]
    bench.boot()
    assert publish(bench, topic("VirtualTopic.orders.eu"), "2") == [["Consumer.audit.VirtualTopic.orders.eu"]]
    assert len(drain(bench, "Consumer.audit.VirtualTopic.orders.eu")) == 2


@pytest.mark.parametrize(
    "name", ["+audit", "Consumer.", "Consumer.a", "Consumer.a.orders", "Consumer.a.VirtualTopic.*"]
)
def test_other_names_say_nothing(bench: Bench, name: str) -> None:
    publish(bench, queue(name), "1")
    assert bench.broker.sources(name) == []


# -- several destinations at once


def test_a_publish_to_several_is_all_or_nothing() -> None:
    bench = Bench(policy=Policies(rules=[Rule("full", {"max_messages": 1})]))
    got: list[Delivery] = []
    bench.broker.subscribe(topic("t"), got.append, prefetch=5)
    parts = [queue("a"), topic("t"), queue("b"), queue("a")]
    published = result(bench.broker.publish_to(parts, text("1")))
    assert sorted(published.deliveries) == ["a", "b"]
    assert [d.source for d in got] == [topic("t")]
    publish(bench, queue("full"), "x")
    with pytest.raises(QueueFull):
        _ = bench.broker.publish_to([queue("a"), queue("full")], text("2"))
    bench.memory.hold = True
    failing = bench.broker.publish_to(parts, text("3"))
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable):
        result(failing)
    bench.memory.hold = False
    assert (drain(bench, "a"), drain(bench, "b"), len(got)) == (["a: 1"], ["b: 1"], 1)


def test_copies_of_a_large_message_are_bounded(bench: Bench) -> None:
    parts = [queue(f"q{number}") for number in range(100)]
    with pytest.raises(MessageTooLarge, match="for 100 destinations"):
        _ = bench.broker.publish_to(parts, text("x" * 700_000))
    result(bench.broker.publish_to(parts, text("x" * 1000)))


def test_an_alias_stands_for_others() -> None:
    aliases = {"all": (queue("a"), topic("t"), queue("more")), "more": (queue("b"), queue("a"), queue("all"))}
    bench = Bench(policy=Policies(aliases=aliases))
    bind(bench, "reader", topic("t"))
    assert publish(bench, queue("all"), "1") == [["a", "b", "reader"]]
    transaction = bench.broker.begin()
    transaction.publish(queue("all"), text("2"))
    result(transaction.commit())
    result(bench.broker.publish(queue("all"), text("3", delay=5)))
    bench.turn(11)
    for name in ("a", "b", "reader"):
        assert [line[-1] for line in drain(bench, name)] == ["1", "2", "3"]
    assert bench.broker.exists("all")
    assert "all" not in bench.broker.queues()


def test_an_alias_that_meets_a_full_queue_stores_nothing() -> None:
    bench = Bench(
        policy=Policies(rules=[Rule("full", {"max_messages": 1})], aliases={"all": (queue("a"), queue("full"))})
    )
    publish(bench, queue("full"), "x")
    with pytest.raises(QueueFull):
        _ = bench.broker.publish(queue("all"), text("1"))
    assert drain(bench, "a") == []


def test_nothing_is_read_from_an_alias_nor_done_to_it(bench: Bench) -> None:
    publish(bench, queue("hidden"), "1")
    result(start(bench.broker.reload(Policies(aliases={"hidden": (queue("a"),)}))))
    publish(bench, queue("hidden"), "2")
    assert drain(bench, "a") == ["a: 2"]
    assert result(start(bench.broker.take("hidden"))) is None
    assert result(start(bench.broker.peek("hidden"))) is None
    waiting = start(bench.broker.take("hidden", wait=5))
    assert not waiting.called
    bench.turn(5)
    assert result(waiting) is None
    assert result(start(bench.broker.purge("hidden"))) == 0
    assert not result(start(bench.broker.delete("hidden")))
    with pytest.raises(BadValue, match="alias"):
        bench.broker.subscribe(queue("hidden"), lambda delivery: None, prefetch=1)
    with pytest.raises(BadValue, match="alias"):
        bind(bench, "hidden", topic("t"))
    with pytest.raises(BadValue, match="alias"):
        bind(bench, "q", queue("hidden"))
    result(start(bench.broker.reload(Policies())))
    assert drain(bench, "hidden") == ["hidden: 1"]


# -- retained topics


def test_a_retained_topic_is_appended_to_though_nobody_reads_it() -> None:
    bench = Bench(policy=Policies(topic_rules=[Rule("kept", {"retain": 60_000})]))
    assert not result(bench.broker.publish(topic("kept"), text("1"))).message_id.startswith("live.")
    assert result(bench.broker.publish(topic("other"), text("1"))).message_id.startswith("live.")


# -- live subscribers that are too slow


def slow(overflow: str) -> Bench:
    return Bench(policy=Policies(topic_rules=[Rule("t", {"max_bytes": 6_000, "overflow": overflow})]))


def test_a_slow_subscribers_oldest_messages_are_dropped() -> None:
    bench = slow("drop_oldest")
    got: list[Delivery] = []
    bench.broker.subscribe(topic("*"), got.append, prefetch=1)
    for number in range(10):
        publish(bench, topic("t"), f"{number}" + "x" * 1000)
    rest: list[bytes] = []
    while len(got) > len(rest):
        rest.append(got[-1].message.body[:1])
        result(bench.broker.ack([got[-1]]))
    assert rest == [b"0", b"7", b"8", b"9"]


def test_a_slow_subscriber_is_dropped_if_the_policy_says_so() -> None:
    bench = slow("disconnect")
    got: list[Delivery] = []
    dropped: list[str] = []
    bench.broker.subscribe(topic("t"), got.append, prefetch=1, dropped=lambda: dropped.append("x"))
    fast: list[Delivery] = []
    bench.broker.subscribe(topic("t"), fast.append, prefetch=100)
    for number in range(10):
        publish(bench, topic("t"), f"{number}" + "x" * 1000)
    assert (len(got), dropped, len(fast)) == (1, ["x"], 10)
    result(bench.broker.ack(got))
    assert len(got) == 1


def test_what_waits_for_a_subscriber_that_does_not_read_is_bounded(bench: Bench) -> None:
    subscription = bench.broker.subscribe(topic("t"), lambda delivery: None, prefetch=1)
    for _ in range(1024):
        publish(bench, topic("t"), "x" * 65_536)
    (reader,) = subscription.queue.readers
    assert reader.window.bytes <= 16 * 1024 * 1024
    assert reader.window.runs < 256


def test_a_binding_that_ends_before_its_topic_has_a_log_is_stored_with_what_comes(bench: Bench) -> None:
    result(start(bench.broker.bind("other", topic("t"))))
    bench.memory.hold = True
    first = bench.broker.publish(queue("elsewhere"), text("x"))
    waiting = [start(bench.broker.bind("q", topic("t"))), start(bench.broker.bind("q", topic("t")))]
    ended = start(bench.broker.unbind("q", topic("t")))
    published = bench.broker.publish(topic("t"), text("y"))
    bench.memory.hold = False
    bench.memory.release_commit()
    bench.turn()
    assert result(first).message_id
    assert [result(one) for one in waiting] == [None, None]
    assert result(ended)
    assert sorted(result(published).deliveries) == ["other", "q"], "an unbind holds after what rides in its commit"
    result(bench.broker.publish(topic("t"), text("z")))
    bench.boot()
    assert [bench.body("q") for _ in range(2)] == [b"y", None]
    assert [bench.body("other") for _ in range(2)] == [b"y", b"z"]
