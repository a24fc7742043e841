"""What a queue does with messages that fail, wait too long, or may not be delivered now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import queue as queue_room
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.moving import RETRY_AFTER
from broker.core.policy import Policies, Policy, Rule
from broker.errors import NotFound
from tests.core.support import Bench, result, start, text


def bench(**rules: object) -> Bench:
    """A broker whose queue ``q`` has this policy."""
    return Bench(policy=Policies(Policy(), [Rule("q", rules)]))


def put(on: Bench, name: str = "q", body: str = "x", **fields: object) -> None:
    result(on.broker.publish(queue(name), text(body, **fields)))


def take(on: Bench, name: str = "q") -> Delivery | None:
    taken = start(on.broker.take(name))
    on.turn()
    return result(taken)


def taken(on: Bench, name: str = "q") -> Delivery:
    delivery = take(on, name)
    assert delivery is not None
    return delivery


# -- rules


def test_the_most_specific_rule_that_matches_has_the_last_word() -> None:
    policies = Policies(
        Policy(lease=1, max_attempts=1),
        [Rule("orders.eu", {"lease": 4}), Rule("*", {"lease": 2, "ttl": 9}), Rule("orders.*", {"lease": 3})],
    )
    assert [policies.of(name).lease for name in ("x", "orders.us", "orders.eu")] == [2, 3, 4]
    assert (policies.of("orders.eu").ttl, policies.of("orders.eu").max_attempts) == (9, 1)


@given(st.text(), st.text(alphabet="a.*?+[\n"))
def test_a_pattern_means_its_characters_but_for_two(name: str, pattern: str) -> None:
    matches = Policies(rules=[Rule(pattern, {"ttl": 1})]).of(name).ttl == 1
    if not set(pattern) & set("*?"):
        assert matches == (name == pattern)
    if pattern.strip("*") == "" and pattern:
        assert matches


def test_new_policies_hold_for_queues_that_are_there() -> None:
    on = bench(paused=True)
    put(on)
    assert take(on) is None
    got: list[Delivery] = []
    on.broker.subscribe(queue("q"), got.append, prefetch=1)
    on.turn()
    assert got == []
    result(start(on.broker.reload(Policies(Policy(lease=7)))))
    on.turn()
    assert len(got) == 1
    assert on.broker.policy.lease == 7


# -- dead letters


def test_the_last_failure_moves_a_message_to_the_dead_letter_queue() -> None:
    on = bench(max_attempts=2, dead_letter="dead")
    put(on, headers={"a": "b"}, content_type="text/x", flags=7, ttl=60_000)
    for _ in range(2):
        delivery = taken(on)
        on.broker.nack([delivery], reason="no good")
    on.turn()
    assert take(on) is None
    dead = taken(on, "dead")
    assert (dead.message.body, dead.message.content_type, dead.message.flags) == (b"x", "text/x", 7)
    assert (dead.attempts, dead.redelivered, dead.message.expires) == (0, False, 0)
    assert dead.message.headers == {
        "a": "b",
        "origin": delivery.message_id,
        "original-destination": "/queue/q",
        "dead-letter-reason": "max_attempts",
        "dead-letter-attempts": "2",
        "dead-letter-count": "1",
        "dead-letter-time": "1700000000000",
    }
    assert on.broker.stats.moved == 1


def test_a_message_remembers_how_often_it_has_died() -> None:
    on = Bench(policy=Policies(Policy(), [Rule(name, {"dead_letter": "dead"}) for name in ("q", "again")]))
    put(on, headers={"dead-letter-count": "many"})
    for name, deaths in (("q", "1"), ("again", "2")):
        result(on.broker.reject([taken(on, name)]))
        on.turn()
        dead = taken(on, "dead")
        assert dead.message.headers["dead-letter-count"] == deaths
        result(on.broker.publish(queue("again"), dead.message))


def test_a_rejected_message_is_dead_at_once_and_dropped_where_no_queue_is_named() -> None:
    for rules, left in (({"dead_letter": "dead"}, 1), ({}, 0)):
        on = bench(**rules)
        put(on)
        delivery = taken(on)
        result(on.broker.reject([delivery]))
        on.turn()
        assert take(on) is None
        assert on.broker.queue_stats("dead").ready == left
        with pytest.raises(NotFound):
            _ = on.broker.reject([delivery])


def test_a_message_is_moved_in_one_commit_or_not_at_all() -> None:
    on = bench(max_attempts=1, dead_letter="dead")
    put(on)
    delivery = taken(on)
    on.memory.hold = True
    on.broker.nack([delivery])
    while on.memory.held is not None and not on.memory.held.parts:
        on.memory.release_commit()
    group = on.memory.held
    assert group is not None
    assert group.settled == {1: [(0, 1)]}
    on.boot()  # a crash before that commit
    on.memory.hold = False
    on.turn()
    assert take(on) is None  # found exhausted, and moved
    on.turn()
    assert on.broker.queue_stats("dead").ready == 1
    on.boot()
    assert (on.broker.queue_stats("q").ready, on.broker.queue_stats("dead").ready) == (0, 1)


def test_a_full_target_keeps_the_message_where_it_is_and_says_why() -> None:
    rules = [Rule("q", {"max_attempts": 1, "dead_letter": "dead"}), Rule("dead", {"max_messages": 1})]
    on = Bench(policy=Policies(Policy(), rules))
    put(on, "dead", "first")
    put(on)
    on.broker.nack([taken(on)])
    on.turn(RETRY_AFTER)
    stats = on.broker.queue_stats("q")
    assert (stats.on_loan, stats.blocked) == (1, "dead is full")
    result(on.broker.ack([taken(on, "dead")]))
    on.turn(RETRY_AFTER)
    assert on.broker.queue_stats("q").blocked == ""
    assert taken(on, "dead").message.body == b"x"


def test_a_store_that_does_not_commit_keeps_the_message_where_it_is() -> None:
    on = bench(max_attempts=1, dead_letter="dead")
    put(on)
    delivery = taken(on)
    on.memory.hold = True
    on.broker.nack([delivery])
    for _ in range(2):
        on.memory.fail_commit()
        on.turn(RETRY_AFTER)
    on.memory.hold = False
    on.memory.fail_commit()
    on.turn(RETRY_AFTER)
    on.turn(RETRY_AFTER)
    assert (on.broker.queue_stats("q").on_loan, on.broker.queue_stats("dead").ready) == (0, 1)


def test_a_transaction_that_nacks_for_the_last_time_moves_the_message() -> None:
    on = bench(max_attempts=1, dead_letter="dead")
    put(on)
    transaction = on.broker.begin()
    transaction.nack([taken(on)])
    result(transaction.commit())
    on.turn()
    assert (take(on), on.broker.queue_stats("dead").ready) == (None, 1)


def test_a_transaction_rejects_with_its_commit() -> None:
    on = bench(dead_letter="dead")
    put(on)
    transaction = on.broker.begin()
    delivery = taken(on)
    transaction.reject([delivery])
    assert delivery.on_loan
    result(transaction.commit())
    on.turn()
    assert (take(on), on.broker.queue_stats("dead").ready) == (None, 1)


# -- expiry


def test_what_waited_too_long_goes_where_the_policy_says() -> None:
    on = bench(ttl=1000, expire_to="late")
    put(on)
    on.turn(1)
    assert take(on) is None
    on.turn()
    late = taken(on, "late")
    assert late.message.headers["dead-letter-reason"] == "expired"
    assert on.broker.stats.expired == 1
    on.boot()
    assert on.broker.queue_stats("q").ready == 0


def test_a_full_target_holds_a_bounded_number_in_memory_and_is_looked_at_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_room, "MAX_LEAVING", 5)
    rules = [Rule("q", {"expire_to": "late"}), Rule("late", {"max_messages": 1})]
    on = Bench(policy=Policies(Policy(), rules))
    put(on, "late", "full")
    for number in range(9):
        put(on, body=str(number), ttl=1000)
    put(on, body="fresh")
    on.turn(1.1)
    assert take(on) is None
    stats = on.broker.queue_stats("q")
    assert (stats.on_loan, stats.ready, stats.blocked) == (5, 5, "late is full")
    delivery = take(on, "late")
    for _ in range(9):
        assert delivery is not None
        result(on.broker.ack([delivery]))
        on.turn(RETRY_AFTER)
        assert on.broker.queue_stats("q").on_loan <= 5 + 1
        take(on)
        delivery = take(on, "late")
    assert on.broker.stats.moved == 9


def test_a_wish_above_max_ttl_is_shortened() -> None:
    on = bench(max_ttl=2000)
    put(on, ttl=60_000)
    put(on, body="without a wish")
    on.turn(2)
    assert taken(on).message.body == b"without a wish"


# -- delays after failures


def test_each_failure_hides_a_message_for_its_step_of_the_backoff() -> None:
    on = bench(backoff=(1000, 5000))
    put(on)
    for attempt, wait in ((1, 1.0), (2, 5.0), (3, 5.0)):
        on.broker.nack([taken(on)])
        on.turn(wait - 0.01)
        assert take(on) is None
        on.turn(0.01)
        again = taken(on)
        assert (again.attempts, again.redelivered) == (attempt, True)
        on.broker.release([again])


def test_a_nack_may_say_how_long() -> None:
    on = bench(backoff=(1000,))
    put(on)
    delivery = taken(on)
    on.broker.nack([delivery], delay=0)
    delivery = taken(on)
    on.broker.nack([delivery], delay=3000)
    with pytest.raises(NotFound):
        _ = on.broker.ack([delivery])
    on.turn(2.9)
    assert take(on) is None
    on.turn(0.1)
    assert taken(on).attempts == 2


def test_a_restart_keeps_a_message_hidden_and_counts_nothing() -> None:
    on = bench()
    put(on)
    put(on, body="y")
    on.broker.nack([taken(on)], delay=10_000)
    on.turn(5)
    on.boot()
    result(on.broker.ack([taken(on)]))
    on.turn(4.9)
    assert take(on) is None
    on.turn(0.1)
    again = taken(on)
    assert (again.message.body, again.attempts) == (b"x", 1)


def test_a_hidden_message_can_be_settled_by_its_id() -> None:
    on = bench()
    put(on)
    delivery = taken(on)
    on.broker.nack([delivery], delay=1000)
    result(on.broker.settle(delivery.id))
    on.turn(1)
    assert take(on) is None


# -- who gets what


def test_a_paused_queue_takes_and_delivers_nothing() -> None:
    on = bench(paused=True)
    put(on)
    got: list[Delivery] = []
    on.broker.subscribe(queue("q"), got.append, prefetch=1)
    on.turn()
    assert (got, take(on)) == ([], None)


def test_an_empty_queue_goes_after_its_time_unless_something_needs_it() -> None:
    rules = [Rule("q*", {"max_idle": 120_000})]
    on = Bench(policy=Policies(Policy(), rules))
    for name in ("q-empty", "q-full", "q-bound", "other"):
        put(on, name)
        if name != "q-full":
            result(on.broker.ack([taken(on, name)]))
    take(on, "q-full")
    result(start(on.broker.bind("q-bound", topic("t"))))
    for _ in range(8):
        on.turn(14)
    assert on.broker.exists("q-empty")
    for _ in range(8):
        on.turn(14)
    assert [on.broker.exists(name) for name in ("q-empty", "q-full", "q-bound", "other")] == [False, True, True, True]
    assert on.broker.stats.queues_deleted == 1
    assert on.broker.stats.queues_expired == 1
    on.boot()
    assert not on.broker.exists("q-empty")
    put(on, "q-empty")
    assert taken(on, "q-empty").message.body == b"x"


def test_no_more_than_max_on_loan_to_all_consumers_together() -> None:
    on = bench(max_on_loan=2)
    for body in "abcd":
        put(on, body=body)
    got: list[Delivery] = []
    on.broker.subscribe(queue("q"), got.append, prefetch=10)
    on.turn()
    assert len(got) == 2
    assert take(on) is None
    result(on.broker.ack(got[:1]))
    assert [delivery.message.body for delivery in got] == [b"a", b"b", b"c"]


def test_an_exclusive_consumer_is_alone_as_long_as_it_is_there() -> None:
    on = bench()
    got: dict[str, list[bytes]] = {name: [] for name in ("plain", "first", "second")}

    def consumer(name: str, exclusive: bool) -> Subscription:
        def deliver(delivery: Delivery) -> None:
            got[name].append(delivery.message.body)

        return on.broker.subscribe(queue("q"), deliver, prefetch=2, exclusive=exclusive)

    consumer("plain", False)
    first, second = consumer("first", True), consumer("second", True)
    for body in "abcdef":
        put(on, body=body)
    on.turn()
    assert got == {"plain": [], "first": [b"a", b"b"], "second": []}
    on.broker.unsubscribe(first)
    on.turn()
    assert got["second"] == [b"c", b"d"]
    on.broker.unsubscribe(second)
    on.turn()
    assert got["plain"] == [b"e", b"f"]


def test_one_exclusive_consumer_until_it_goes() -> None:
    on = bench(exclusive=True)
    first: list[Delivery] = []
    second: list[Delivery] = []
    active = on.broker.subscribe(queue("q"), first.append, prefetch=1)
    on.broker.subscribe(queue("q"), second.append, prefetch=9)
    for body in "ab":
        put(on, body=body)
    on.turn()
    assert (len(first), len(second)) == (1, 0)
    on.broker.unsubscribe(active)
    on.broker.nack(first)
    on.turn()
    assert [delivery.message.body for delivery in second] == [b"a", b"b"]
