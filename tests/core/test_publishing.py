"""The way in: what a full queue does, keys against doubles, queues in memory only, and what else policies say."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from broker.core import keys
from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.message import OVERHEAD
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.core.route import Published
from broker.core.waiting import PATIENCE
from broker.errors import QueueFull, StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, Holding, result, start, text


def put(bench: Bench, body: str, name: str = "q", **fields: Any) -> Published:
    return result(bench.broker.publish(queue(name), text(body, **fields)))


def everything(bench: Bench, name: str = "q") -> list[str]:
    bodies = []
    while (body := bench.body(name)) is not None:
        bodies.append(body.decode())
    return bodies


def holding(policy: Policy | Policies) -> Bench:
    memory = MemoryStore()
    return Bench(Holding(lambda: memory), policy)


# -- a full queue


def test_bytes_are_a_limit_too_and_one_large_message_is_always_taken() -> None:
    bench = Bench(policy=Policy(max_bytes=3 * (OVERHEAD + 100)))
    for n in range(3):
        put(bench, str(n) * 100)
    with pytest.raises(QueueFull):
        put(bench, "x")
    assert bench.body("q") == b"0" * 100
    put(bench, "x" * 90)
    with pytest.raises(QueueFull):
        put(bench, "y" * 90)
    assert len(everything(bench)) == 3
    put(bench, "z" * 10_000)
    with pytest.raises(QueueFull):
        put(bench, "x")


def test_what_is_on_its_way_to_the_disk_counts() -> None:
    bench = holding(Policy(max_messages=2))
    bench.memory.hold = True
    for body in "12":
        _ = bench.broker.publish(queue("q"), text(body))
    with pytest.raises(QueueFull):
        _ = bench.broker.publish(queue("q"), text("3"))


def test_drop_new_confirms_and_keeps_what_is_there() -> None:
    bench = Bench(policy=Policy(max_messages=2, overflow="drop_new"))
    told = [put(bench, body) for body in "1234"]
    assert [published.skipped for published in told] == [[], [], ["q"], ["q"]]
    assert bench.broker.queue_stats("q").discarded == 2
    assert everything(bench) == ["1", "2"]


def test_drop_oldest_drops_in_the_commit_of_what_comes() -> None:
    bench = holding(Policy(max_messages=3, overflow="drop_oldest"))
    for body in "123":
        put(bench, body)
    bench.memory.hold = True
    lost = bench.broker.publish(queue("q"), text("4"))
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable):
        result(lost)
    bench.memory.hold = False
    bench.turn(5)
    assert bench.broker.queue_stats("q").ready == 3, "it failed: the oldest stays"
    for body in "567":
        put(bench, body)
    assert bench.broker.queue_stats("q").discarded == 3
    bench.boot()
    assert everything(bench) == ["5", "6", "7"]


def test_drop_oldest_spares_what_is_on_loan_and_drops_the_least_urgent_first() -> None:
    bench = Bench(policy=Policy(max_messages=3, overflow="drop_oldest"))
    put(bench, "urgent", priority=-1)
    put(bench, "1")
    put(bench, "2")
    loan = result(start(bench.broker.take("q")))
    assert loan is not None
    assert loan.message.body == b"urgent"
    put(bench, "3")
    put(bench, "4")
    assert everything(bench) == ["3", "4"]
    assert loan.on_loan
    put(bench, "5")
    for _ in range(2):
        put(bench, "6")
    held = [result(start(bench.broker.take("q"))) for _ in range(2)]
    assert None not in held
    with pytest.raises(QueueFull):  # everything is on loan
        put(bench, "7")


def test_a_full_queue_on_a_topic_drops_its_own_oldest_and_no_others() -> None:
    rules = [Rule("small", {"max_messages": 2, "overflow": "drop_oldest"}), Rule("strict", {"max_messages": 2})]
    bench = Bench(policy=Policies(Policy(), rules))
    for name in ("small", "strict", "large"):
        result(start(bench.broker.bind(name, topic("t"))))
    skipped = [result(bench.broker.publish(topic("t"), text(body))).skipped for body in "1234"]
    assert skipped == [[], [], ["strict"], ["strict"]]
    assert everything(bench, "small") == ["3", "4"]
    assert everything(bench, "strict") == ["1", "2"]
    assert everything(bench, "large") == ["1", "2", "3", "4"]


def test_who_waits_for_room_is_served_in_order() -> None:
    bench = Bench(policy=Policy(max_messages=1, overflow="wait"))
    put(bench, "1")
    second, third = (bench.broker.publish(queue("q"), text(body)) for body in "23")
    bench.turn(1)
    assert not second.called
    assert bench.body("q") == b"1"
    bench.turn()
    assert (second.called, third.called) == (True, False)
    bench.turn(PATIENCE - 0.5)
    with pytest.raises(QueueFull):
        result(third)
    assert everything(bench) == ["2"]
    stopping = [bench.broker.publish(queue("q"), text(body)) for body in "45"]
    bench.turn()
    result(start(bench.broker.stop()))
    assert stopping[0].called
    with pytest.raises(Exception, match="stopping"):
        result(stopping[1])


def test_a_transaction_with_one_publish_too_many_is_refused_whole() -> None:
    bench = Bench(policy=Policy(max_messages=2))
    put(bench, "1")
    put(bench, "in", "other")
    taken = result(start(bench.broker.take("other")))
    assert taken is not None
    transaction = bench.broker.begin()
    for body in "23":
        transaction.publish(queue("q"), text(body))
    transaction.publish(queue("elsewhere"), text("4"))
    transaction.ack([taken])
    with pytest.raises(QueueFull):
        result(transaction.commit())
    assert taken.on_loan
    result(bench.broker.ack([taken]))
    put(bench, "5")
    assert (everything(bench), everything(bench, "elsewhere")) == (["1", "5"], [])


# -- keys against doubles


def test_the_same_publish_again_is_answered_with_the_first_ones_id() -> None:
    bench = Bench(policy=Policy(dedup_window=60_000))
    first = put(bench, "1", key="k")
    again = put(bench, "1", key="k")
    assert (again.message_id, again.deliveries, again.duplicate) == (first.message_id, first.deliveries, True)
    assert not first.duplicate
    put(bench, "1", "other", key="k")
    bench.turn(1)
    bench.boot()
    assert put(bench, "1", key="k").message_id == first.message_id
    bench.turn(60)
    assert put(bench, "2", key="k").message_id != first.message_id
    assert everything(bench) == ["1", "2"]
    assert everything(bench, "other") == ["1"]


def test_two_equal_keys_in_one_group_share_one_answer_also_a_failure() -> None:
    bench = holding(Policy(dedup_window=60_000))
    bench.memory.hold = True
    first, second = (bench.broker.publish(queue("q"), text("1", key="k")) for _ in range(2))
    bench.memory.fail_commit()
    for failed in (first, second):
        with pytest.raises(StoreUnavailable):
            result(failed)
    bench.memory.hold = False
    bench.turn(5)
    bench.memory.hold = True
    first, second = (bench.broker.publish(queue("q"), text("1", key="k")) for _ in range(2))
    bench.memory.release_commit()
    told, again = result(first), result(second)
    assert told.message_id == again.message_id
    assert (told.duplicate, again.duplicate) == (False, True)
    bench.memory.hold = False
    assert everything(bench) == ["1"]


def test_keys_of_delayed_messages_and_of_topics_survive_a_restart() -> None:
    bench = Bench(policy=Policies(Policy(dedup_window=60_000), topic_default=TopicPolicy(dedup_window=60_000)))
    delayed = put(bench, "1", key="k", delay=30_000)
    result(start(bench.broker.bind("q", topic("t"))))
    told = result(bench.broker.publish(topic("t"), text("2", key="k")))
    bench.turn(1)
    bench.boot()
    assert put(bench, "1", key="k", delay=30_000).deliveries == delayed.deliveries
    assert result(bench.broker.publish(topic("t"), text("2", key="k"))).deliveries == told.deliveries
    bench.turn(40)
    assert sorted(everything(bench)) == ["1", "2"]


def test_a_delayed_message_does_not_prolong_its_key() -> None:
    bench = Bench(policy=Policy(dedup_window=60_000))
    put(bench, "1", key="k", delay=50_000)
    bench.turn(51)
    bench.boot()
    assert put(bench, "1", key="k").duplicate
    bench.turn(10)
    assert not put(bench, "2", key="k").duplicate
    assert everything(bench) == ["1", "2"]


def test_a_transaction_leaves_out_what_was_published_before() -> None:
    bench = Bench(policy=Policy(dedup_window=60_000))
    put(bench, "1", key="k")
    transaction = bench.broker.begin()
    transaction.publish(queue("q"), text("1", key="k"))
    transaction.publish(queue("q"), text("2", key="l"))
    result(transaction.commit())
    put(bench, "2", key="l")
    assert everything(bench) == ["1", "2"]


def test_keys_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = keys.Keys(3)
    for n in range(10):
        bounded.begin(queue("q"), str(n), 100)
        bounded.remember(queue("q"), str(n), 100, lambda n=n: Published(str(n)))  # type: ignore[misc]
    assert len(bounded) == 3
    assert bounded.seen(queue("q"), "0", 0) is None
    seen = bounded.seen(queue("q"), "9", 0)
    assert seen is not None
    assert result(seen).message_id == "9"
    bounded.expire(100)
    assert len(bounded) == 0


# -- queues in memory only


def test_a_queue_in_memory_costs_no_commit_and_behaves_like_any_other() -> None:
    bench = holding(Policies(Policy(), [Rule("fast", {"durable": False, "max_attempts": 2, "dead_letter": "dead"})]))
    commits = bench.memory.commits
    for n in range(5):
        put(bench, str(n), "fast", priority=n % 2)
    assert bench.memory.commits == commits
    got: list[Delivery] = []
    consumer = bench.broker.subscribe(queue("fast"), got.append, prefetch=2)
    bench.turn()
    assert [delivery.message.body for delivery in got] == [b"0", b"2"]
    bench.broker.nack(got[:1])
    bench.turn()
    assert (got[2].message.body, got[2].redelivered, got[2].attempts) == (b"0", True, 1)
    bench.broker.nack(got[2:3])
    bench.turn()
    assert bench.body("dead") == b"0"
    assert bench.broker.find(got[1].id) is got[1]
    result(bench.broker.settle(got[1].id))
    bench.turn()
    bench.broker.unsubscribe(consumer)
    bench.broker.release([d for d in got if d.on_loan])
    assert bench.broker.queue_stats("fast").ready == 3
    assert result(start(bench.broker.purge("fast"))) == 3
    put(bench, "last", "fast")
    bench.turn(100)
    assert everything(bench, "fast") == ["last"]
    put(bench, "gone", "fast")
    bench.boot()
    assert everything(bench, "fast") == []


def test_a_queue_in_memory_is_bounded() -> None:
    bench = Bench(policy=Policy(durable=False, max_bytes=10 * (OVERHEAD + 1000), overflow="drop_oldest"))
    for n in range(1_000):
        put(bench, f"{n:01000}")
    (reader,) = bench.broker._directory.queues["q"].readers
    assert reader.window.bytes <= 11 * (OVERHEAD + 1000)
    assert [int(body) for body in everything(bench)] == list(range(990, 1000))


def test_queues_in_memory_and_on_disk_read_one_topic() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("fast", {"durable": False})]))
    for name in ("fast", "kept"):
        result(start(bench.broker.bind(name, topic("t"))))
    told = result(bench.broker.publish(topic("t"), text("1")))
    assert set(told.deliveries) == {"fast", "kept"}
    assert (everything(bench, "fast"), everything(bench, "kept")) == (["1"], ["1"])
    put(bench, "own", "fast")
    result(bench.broker.publish(topic("t"), text("2")))
    bench.boot()
    assert (everything(bench, "fast"), everything(bench, "kept")) == ([], ["2"])


def test_a_queue_that_becomes_durable_keeps_what_it_has_in_order() -> None:
    bench = Bench(policy=Policy(durable=False))
    put(bench, "1")
    result(start(bench.broker.reload(Policies(Policy()))))
    put(bench, "2")
    result(start(bench.broker.reload(Policies(Policy(durable=False)))))
    put(bench, "3")
    assert everything(bench) == ["1", "2", "3"]


def test_a_transaction_over_both_kinds_tells_once_it_is_on_disk() -> None:
    bench = holding(Policies(Policy(), [Rule("fast", {"durable": False})]))
    bench.memory.hold = True
    transaction = bench.broker.begin()
    transaction.publish(queue("fast"), text("1"))
    transaction.publish(queue("kept"), text("2"))
    done: Deferred[None] = transaction.commit()
    assert bench.broker.queue_stats("fast").ready == 0
    bench.memory.release_commit()
    result(done)
    bench.memory.hold = False
    assert (everything(bench, "fast"), everything(bench, "kept")) == (["1"], ["2"])


# -- the rest of the policies


def test_only_children_keep_what_is_published_to_a_fanout_queue() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("all", {"fanout_only": True})]))
    put(bench, "nobody", "all")
    result(start(bench.broker.bind("child", queue("all"))))
    told = put(bench, "1", "all")
    assert set(told.deliveries) == {"child"}
    bench.boot()
    assert (everything(bench, "all"), everything(bench, "child")) == ([], ["1"])


def test_priorities_can_be_switched_off() -> None:
    bench = Bench(policy=Policy(priority="off"))
    result(start(bench.broker.bind("bound", topic("t"))))
    for n, priority in enumerate((5, -5, 0)):
        put(bench, str(n), priority=priority)
        result(bench.broker.publish(topic("t"), text(str(n), priority=priority)))
    assert everything(bench) == ["0", "1", "2"]
    assert everything(bench, "bound") == ["0", "1", "2"]


def test_a_wish_above_max_ttl_is_shortened() -> None:
    bench = Bench(policy=Policy(max_ttl=5_000))
    put(bench, "1", ttl=60_000)
    put(bench, "2", expires=(1_700_000_000 + 1_000) * 1_000_000)
    put(bench, "3", ttl=1_000)
    put(bench, "4")
    bench.turn(2)
    assert bench.broker.queue_stats("q").ready == 3
    bench.turn(3.1)
    assert everything(bench) == ["4"]


@pytest.mark.parametrize("limit", [{"max_messages": 2}, {"max_bytes": 2 * OVERHEAD + 2}])
def test_drop_oldest_takes_all_that_come_at_once_and_keeps_the_last(limit: dict[str, Any]) -> None:
    bench = Bench(policy=Policy(overflow="drop_oldest", **limit))
    bench.memory.hold = True
    published = [bench.broker.publish(queue("q"), text(str(n))) for n in range(6)]
    bench.memory.hold = False
    bench.memory.release_commit()
    assert all(result(one).deliveries for one in published)
    stats = bench.broker.queue_stats("q")
    assert (stats.ready, stats.discarded) == (2, 4)
    bench.turn()
    bench.boot()
    assert everything(bench) == ["4", "5"]
