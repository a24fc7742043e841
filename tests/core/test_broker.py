"""What fronts may rely on, one sentence a test: over a memory store and a clock that stands still."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from broker.core.bindings import MAX_FILTERS
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.filter import BadFilter
from broker.core.journal import RETRY_AFTER
from broker.core.message import Message
from broker.core.policy import BindingPolicy, Policy, TopicPolicy
from broker.core.queue import Queue
from broker.core.reader import CLAIM, SEQ_BITS
from broker.core.supply import MAX_PER_TURN, Supply
from broker.core.usage import KEEP
from broker.errors import BadValue, MessageTooLarge, NotFound, QueueFull, Stopping, StoreRefused, StoreUnavailable
from tests.core.support import Bench, result, start, text


@pytest.fixture
def bench() -> Bench:
    return Bench()


def publish(bench: Bench, name: str, *bodies: str) -> None:
    for body in bodies:
        result(bench.broker.publish(queue(name), text(body)))


def take(bench: Bench, name: str) -> Delivery:
    delivery = result(start(bench.broker.take(name)))
    assert delivery is not None
    return delivery


def subscribe(bench: Bench, name: str, prefetch: int = 10) -> tuple[Subscription, list[Delivery]]:
    got: list[Delivery] = []
    subscription = bench.broker.subscribe(queue(name), got.append, prefetch=prefetch)
    bench.turn()
    return subscription, got


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.message.body for delivery in deliveries]


# -- publishing


def test_a_publish_is_answered_after_its_commit(bench: Bench) -> None:
    bench.memory.hold = True
    published = bench.broker.publish(queue("q"), text("x"))
    assert not published.called
    assert bench.broker.queue_stats("q").ready == 0
    bench.memory.release_commit()
    assert result(published).deliveries == {"q": 1 << SEQ_BITS | 1}


def test_a_thousand_publishes_behind_a_busy_disk_are_few_commits(bench: Bench) -> None:
    """A store that holds each commit until 100 more wait."""
    bench.memory.hold = True
    answers = []
    for number in range(1000):
        answers.append(bench.broker.publish(queue(f"q{number % 7}"), text("x")))
        if number % 100 == 99:
            bench.memory.release_commit()
    while bench.memory.held is not None:
        bench.memory.release_commit()
    assert all(answer.called for answer in answers)
    assert bench.memory.commits <= 20


def test_a_group_takes_no_further_unit_once_it_is_full(bench: Bench) -> None:
    bench.memory.hold = True
    for _ in range(5):
        _ = bench.broker.publish(queue("q"), Message(body=bytes(3 * 1024 * 1024)))
    sizes = []
    while bench.memory.held is not None:
        sizes.append(sum(len(m.body) for part in bench.memory.held.parts.values() for m in part) // (1024 * 1024))
        bench.memory.release_commit()
    assert sizes == [3, 6, 6]


def test_too_large_is_refused_before_anything_is_done(bench: Bench) -> None:
    bench.policy = Policy(max_message_size=10)
    bench.boot()
    with pytest.raises(MessageTooLarge, match="11 bytes long, at most 10"):
        _ = bench.broker.publish(queue("q"), text("x" * 11))
    assert bench.memory.commits == 0
    publish(bench, "q", "x" * 10)


def test_a_full_queue_refuses_and_counts_what_is_on_loan_and_on_its_way(bench: Bench) -> None:
    bench.policy = Policy(max_messages=2)
    bench.boot()
    bench.memory.hold = True
    _ = bench.broker.publish(queue("q"), text("1"))
    _ = bench.broker.publish(queue("q"), text("2"))
    with pytest.raises(QueueFull):
        _ = bench.broker.publish(queue("q"), text("3"))
    bench.memory.release_commit()
    bench.memory.release_commit()
    bench.memory.hold = False
    delivery = take(bench, "q")
    with pytest.raises(QueueFull):
        _ = bench.broker.publish(queue("q"), text("3"))
    result(bench.broker.ack([delivery]))
    publish(bench, "q", "3")


def test_stamps_increase_also_when_the_wall_clock_stands_still_or_a_restart_comes_between(bench: Bench) -> None:
    publish(bench, "q", "1", "2")
    bench.boot()
    publish(bench, "q", "3")
    stamps = [take(bench, "q").message.stamp for _ in range(3)]
    assert len(set(stamps)) == 3
    assert stamps == sorted(stamps)


# -- the store fails


def test_a_failed_commit_fails_its_publishes_and_leaves_no_hole(bench: Bench) -> None:
    publish(bench, "q", "1")
    bench.memory.hold = True
    lost = bench.broker.publish(queue("q"), text("2"))
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable):
        result(lost)
    bench.memory.hold = False
    published = result(bench.broker.publish(queue("q"), text("3")))
    assert published.message_id == "1.1"
    assert [bench.body("q"), bench.body("q"), bench.body("q")] == [b"1", b"3", None]


def test_an_ack_in_a_failed_commit_is_answered_once_the_store_commits_again(bench: Bench) -> None:
    publish(bench, "q", "1")
    delivery = take(bench, "q")
    bench.memory.hold = True
    acked = bench.broker.ack([delivery])
    bench.memory.fail_commit()
    assert not acked.called
    assert bench.broker.trouble
    bench.turn(RETRY_AFTER)
    bench.memory.release_commit()
    result(acked)
    assert not bench.broker.trouble
    bench.memory.hold = False
    bench.boot()
    assert bench.body("q") is None


def test_a_store_that_fails_unexpectedly_does_not_stop_the_journal(bench: Bench) -> None:
    """An exception that nobody foresaw must not end group commit silently."""
    from tests.support import flush_logged_errors

    bench.memory.hold = True
    lost = bench.broker.publish(queue("q"), text("1"))
    bench.memory.fail_commit(ZeroDivisionError("nobody foresaw this"))
    with pytest.raises(StoreUnavailable):
        result(lost)
    bench.memory.hold = False
    publish(bench, "q", "2")
    assert bench.body("q") == b"2"
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_unit_the_store_refuses_fails_alone(bench: Bench) -> None:
    bench.memory.hold = True
    first = bench.broker.publish(queue("q"), text("first"))
    answers = [bench.broker.publish(queue("q"), text(body)) for body in ("a", "bad", "c")]
    bench.memory.release_commit()
    result(first)
    while (group := bench.memory.held) is not None:
        if any(m.body == b"bad" for part in group.parts.values() for m in part):
            bench.memory.fail_commit(StoreRefused("not this one"))
        else:
            bench.memory.release_commit()
    result(answers[0])
    result(answers[2])
    with pytest.raises(StoreRefused):
        result(answers[1])
    bench.memory.hold = False
    assert [bench.body("q") for _ in range(4)] == [b"first", b"a", b"c", None]


def test_taking_from_a_store_in_trouble_is_refused_not_answered_with_nothing(bench: Bench) -> None:
    publish(bench, "q", "1")
    bench.boot()
    bench.memory.hold = True
    taken = start(bench.broker.take("q"))
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable):
        result(taken)


# -- taking


def test_nothing_is_made_for_a_look_at_an_unknown_queue(bench: Bench) -> None:
    assert result(start(bench.broker.take("nothing"))) is None
    assert result(start(bench.broker.peek("nothing"))) is None
    assert bench.broker.queues() == []
    assert bench.memory.commits == 0


def test_those_who_wait_are_served_in_order(bench: Bench) -> None:
    first, second = (start(bench.broker.take("q", wait=5)) for _ in range(2))
    assert bench.broker.queues() == ["q"]
    assert bench.broker.queue_stats("q").waiters == 2
    publish(bench, "q", "1", "2")
    assert bodies([d for d in (result(first), result(second)) if d]) == [b"1", b"2"]


def test_queues_of_one_commit_are_served_in_the_order_in_which_they_were_published_to(bench: Bench) -> None:
    names = [f"q{number * 37 % 40}" for number in range(40)]
    served: list[str] = []
    for name in names:
        result(bench.broker.publish(queue(name), text("first")))
        bench.broker.subscribe(queue(name), lambda delivery: served.append(delivery.queue), prefetch=9)
    bench.turn()
    served.clear()
    bench.memory.hold = True
    _ = bench.broker.publish(queue("before"), text("whose commit is held"))
    for name in names:
        _ = bench.broker.publish(queue(name), text("second"))
    bench.memory.release_commit()
    bench.memory.release_commit()
    assert served == names


def test_waiting_ends_with_nothing_after_its_time(bench: Bench) -> None:
    taken = start(bench.broker.take("q", wait=5))
    bench.turn(4.9)
    assert not taken.called
    bench.turn(0.1)
    assert result(taken) is None
    assert bench.broker.queues() == []


def test_whoever_stops_waiting_loses_no_message(bench: Bench) -> None:
    taken = start(bench.broker.take("q", wait=5))
    taken.cancel()
    with pytest.raises(CancelledError):
        result(taken)
    publish(bench, "q", "1")
    assert bench.broker.queue_stats("q").ready == 1
    assert bench.body("q") == b"1"


def test_lower_priority_numbers_come_first_then_the_oldest(bench: Bench) -> None:
    for body, priority in (("c", 0), ("e", 7), ("a", -3), ("d", 0), ("b", -3)):
        result(bench.broker.publish(queue("q"), text(body, priority=priority)))
    assert [bench.body("q") for _ in range(5)] == [b"a", b"b", b"c", b"d", b"e"]


def test_the_257th_priority_takes_the_nearest_lane(bench: Bench) -> None:
    for priority in range(256):
        result(bench.broker.publish(queue("q"), text("x", priority=priority * 10)))
    published = result(bench.broker.publish(queue("q"), text("y", priority=23)))
    assert published.message_id == "3.1"


def test_what_is_given_back_returns_to_its_place(bench: Bench) -> None:
    publish(bench, "q", *"abcd")
    held = [take(bench, "q") for _ in range(3)]
    bench.broker.nack([held[2], held[0]])
    again = take(bench, "q")
    assert (again.message.body, again.attempts, again.redelivered) == (b"a", 1, True)
    bench.broker.release([again])
    again = take(bench, "q")
    assert (again.message.body, again.attempts, again.redelivered) == (b"a", 1, True)
    assert bodies([take(bench, "q"), take(bench, "q")]) == [b"c", b"d"]
    assert held[1].on_loan


def test_after_max_attempts_a_message_is_discarded(bench: Bench) -> None:
    result(bench.broker.publish(queue("q"), text("x", max_attempts=2)))
    bench.broker.nack([take(bench, "q")])
    bench.broker.release([take(bench, "q")])
    assert bench.broker.queue_stats("q").ready == 1
    bench.broker.nack([take(bench, "q")])
    assert bench.broker.queue_stats("q").ready == 0
    assert bench.broker.stats.discarded == 1
    bench.boot()
    assert bench.body("q") is None


def test_expiry_is_exact_at_delivery(bench: Bench) -> None:
    result(bench.broker.publish(queue("q"), text("short", ttl=1000)))
    result(bench.broker.publish(queue("q"), text("long", ttl=2000)))
    bench.turn(0.999)
    looking = start(bench.broker.peek("q"))
    bench.turn()
    looked = result(looking)
    assert looked is not None
    assert looked.message.body == b"short"
    bench.turn(0.001)
    assert bench.body("q") == b"long"
    assert bench.broker.stats.expired == 1


def test_a_look_takes_nothing_and_waits(bench: Bench) -> None:
    looked = start(bench.broker.peek("q", wait=1))
    publish(bench, "q", "1")
    seen = result(looked)
    assert seen is not None
    assert (seen.message.body, seen.on_loan, seen.redelivered) == (b"1", False, False)
    assert not take(bench, "q").redelivered
    nothing = start(bench.broker.peek("q", wait=1))
    bench.turn(1)
    assert result(nothing) is None


# -- subscriptions


def test_no_more_than_prefetch_is_on_loan_to_one_subscription(bench: Bench) -> None:
    publish(bench, "q", *"abcde")
    _, got = subscribe(bench, "q", prefetch=2)
    assert bodies(got) == [b"a", b"b"]
    result(bench.broker.ack([got[0]]))
    assert bodies(got) == [b"a", b"b", b"c"]


def test_nothing_is_delivered_before_subscribe_has_returned(bench: Bench) -> None:
    publish(bench, "q", "1")
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=1)
    assert got == []
    bench.turn()
    assert len(got) == 1


def test_competing_consumers_take_turns(bench: Bench) -> None:
    _, first = subscribe(bench, "q")
    _, second = subscribe(bench, "q")
    publish(bench, "q", *"abcd")
    assert bodies(first) == [b"a", b"c"]
    assert bodies(second) == [b"b", b"d"]


def test_a_queue_made_anew_is_not_forgotten_with_the_old_one(bench: Bench) -> None:
    gone, _ = subscribe(bench, "q")
    bench.broker.unsubscribe(gone)
    _, got = subscribe(bench, "q")
    bench.turn(3 * KEEP)
    publish(bench, "q", "1")
    assert bodies(got) == [b"1"]


def test_a_paused_subscription_gets_nothing_until_it_is_resumed(bench: Bench) -> None:
    subscription, got = subscribe(bench, "q")
    bench.broker.pause(subscription)
    publish(bench, "q", "1")
    assert got == []
    bench.broker.resume(subscription)
    assert bodies(got) == [b"1"]


def test_what_a_gone_subscription_had_stays_on_loan_until_it_is_given_back(bench: Bench) -> None:
    publish(bench, "q", "1")
    subscription, got = subscribe(bench, "q")
    bench.broker.unsubscribe(subscription)
    assert bench.body("q") is None
    bench.broker.nack(got)
    assert bench.body("q") == b"1"


@pytest.mark.parametrize("lost", [True, False])
def test_a_connection_that_ends_gives_a_bounded_number_back_in_one_turn(bench: Bench, lost: bool) -> None:
    subscription, got = subscribe(bench, "q", prefetch=10_000)
    publish(bench, "q", *(f"{n}" for n in range(2_500)))
    bench.turn()
    bench.broker.unsubscribe(subscription)
    (bench.broker.lost if lost else bench.broker.release)(got)
    assert bench.broker.queue_stats("q").on_loan == 1_500
    bench.turn()
    assert bench.broker.queue_stats("q").on_loan == 0
    _, again = subscribe(bench, "q", prefetch=10_000)
    bench.turn()
    assert bodies(again) == bodies(got)
    assert {one.attempts for one in again} == {int(lost)}


def test_whoever_stops_gives_everything_back_at_once(bench: Bench) -> None:
    publish(bench, "q", *(f"{n}" for n in range(1_500)))
    _, got = subscribe(bench, "q", prefetch=10_000)
    bench.turn()
    bench.broker.release(got)
    _ = start(bench.broker.stop())
    assert bench.broker.queue_stats("q").on_loan == 0


def test_a_consumer_that_fails_does_not_stop_the_others(bench: Bench) -> None:
    from tests.support import flush_logged_errors

    def fail(delivery: Delivery) -> None:
        raise ZeroDivisionError

    bench.broker.subscribe(queue("q"), fail, prefetch=1)
    _, got = subscribe(bench, "q")
    publish(bench, "q", "1", "2")
    assert bodies(got) == [b"2"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_turn_makes_a_bounded_number_of_deliveries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 in one turn would keep everybody else waiting for 44 ms."""
    subscription, got = subscribe(bench, "q", prefetch=10_000)
    bench.broker.pause(subscription)
    publish(bench, "q", *("x" for _ in range(3 * MAX_PER_TURN)))
    per_turn: list[int] = []
    pump = Supply.pump

    def counted(supply: Supply, pumped: Queue) -> None:
        before = len(got)
        pump(supply, pumped)
        per_turn.append(len(got) - before)

    monkeypatch.setattr(Supply, "pump", counted)
    bench.broker.resume(subscription)
    bench.turn()
    assert len(got) == 3 * MAX_PER_TURN
    assert max(per_turn) == MAX_PER_TURN


# -- claim, then deliver


def test_nothing_is_delivered_beyond_what_is_reserved_on_disk(bench: Bench) -> None:
    publish(bench, "q", "1")
    bench.memory.hold = True
    taken = start(bench.broker.take("q"))
    assert not taken.called
    assert bench.memory.held is not None
    assert bench.memory.held.reserved == {1: CLAIM}
    bench.memory.release_commit()
    assert result(taken) is not None


def test_one_commit_in_many_messages_carries_a_reservation(bench: Bench) -> None:
    publish(bench, "q", "0")
    _, got = subscribe(bench, "q", prefetch=10_000)
    before = bench.memory.commits
    publish(bench, "q", *("x" for _ in range(CLAIM // 2 - 10)))
    assert len(got) == CLAIM // 2 - 9
    assert bench.memory.commits == before + CLAIM // 2 - 10


def test_after_a_crash_what_may_have_been_delivered_is_redelivered_and_after_a_stop_nothing_else(bench: Bench) -> None:
    publish(bench, "q", *"abc")
    take(bench, "q")
    bench.boot()
    assert take(bench, "q").redelivered
    assert take(bench, "q").redelivered  # falsely, which is allowed
    result(start(bench.broker.stop()))
    bench.boot()
    publish(bench, "q", "d")
    assert [take(bench, "q").redelivered for _ in range(4)] == [True, True, True, False]
    publish(bench, "other", *"ab")
    take(bench, "other")
    result(start(bench.broker.stop()))
    bench.boot()
    assert [take(bench, "other").redelivered for _ in range(2)] == [True, False]


def test_after_two_crashes_suspects_go_out_one_at_a_time(bench: Bench) -> None:
    publish(bench, "q", *"abc")
    take(bench, "q")
    bench.boot()
    take(bench, "q")
    bench.boot()
    suspect = take(bench, "q")
    assert result(start(bench.broker.take("q"))) is None
    result(bench.broker.ack([suspect]))
    assert take(bench, "q").message.body == b"b"


# -- loans with an end


def test_a_lease_ends_and_the_message_is_back(bench: Bench) -> None:
    publish(bench, "q", "1")
    delivery = result(start(bench.broker.take("q", leased=True)))
    assert delivery is not None
    assert delivery.lease == 30_000
    bench.turn(29.9)
    assert delivery.on_loan
    bench.turn(0.1)
    assert not delivery.on_loan
    again = take(bench, "q")
    assert (again.attempts, again.redelivered) == (1, True)


@pytest.mark.parametrize(
    ("wish", "message", "binding", "expected"), [(5, 7, 9, 5), (0, 7, 9, 7), (0, 0, 9, 9), (0, 0, None, 30_000)]
)
def test_whose_lease_counts(bench: Bench, wish: int, message: int, binding: int | None, expected: int) -> None:
    result(start(bench.broker.bind("q", topic("t"), BindingPolicy(lease=binding))))
    result(bench.broker.publish(topic("t"), text("x", lease=message)))
    delivery = result(start(bench.broker.take("q", leased=True, lease=wish)))
    assert delivery is not None
    assert delivery.lease == expected


def test_a_restart_keeps_a_lease_and_its_end(bench: Bench) -> None:
    publish(bench, "q", "1", "2")
    delivery = result(start(bench.broker.take("q", leased=True)))
    assert delivery is not None
    bench.turn(10)
    bench.boot()
    other = take(bench, "q")
    assert other.message.body == b"2"
    result(bench.broker.ack([other]))
    bench.turn(19.9)
    assert bench.body("q") is None
    bench.turn(0.1)
    again = take(bench, "q")
    assert (again.message.body, again.attempts) == (b"1", 1)


def test_a_lease_that_outlived_a_restart_counts_for_max_attempts(bench: Bench) -> None:
    result(bench.broker.publish(queue("q"), text("x", max_attempts=1)))
    assert result(start(bench.broker.take("q", leased=True))) is not None
    bench.boot()
    bench.turn(31)
    assert bench.body("q") is None
    assert bench.broker.queue_stats("q").discarded == 1


def test_a_touch_begins_the_loan_anew_and_hides_what_waits(bench: Bench) -> None:
    publish(bench, "q", "1")
    delivery = result(start(bench.broker.take("q", leased=True, lease=1000)))
    assert delivery is not None
    for _ in range(3):
        bench.turn(0.9)
        result(start(bench.broker.touch(delivery.id)))
    bench.turn(0.9)
    assert delivery.on_loan
    bench.turn(0.1)
    assert not delivery.on_loan
    result(start(bench.broker.touch(delivery.id, 5000)))
    assert bench.body("q") is None
    bench.turn(5)
    assert take(bench, "q").message.body == b"1"


def test_settling_by_id_works_in_any_state_and_once(bench: Bench) -> None:
    publish(bench, "q", "1", "2")
    held = take(bench, "q")
    assert bench.broker.find(held.id) is held
    result(bench.broker.settle(held.id))
    result(bench.broker.settle(held.id + 1))
    for delivery_id in (held.id, held.id + 1, held.id + 2, 0, -1, 7 << SEQ_BITS):
        with pytest.raises(NotFound):
            _ = bench.broker.settle(delivery_id)
    with pytest.raises(NotFound):
        _ = bench.broker.ack([held])
    assert bench.body("q") is None


# -- topics and bindings


def test_every_bound_queue_gets_what_its_topic_gets_from_then_on(bench: Bench) -> None:
    assert result(bench.broker.publish(topic("t"), text("early"))).deliveries == {}
    result(start(bench.broker.bind("a", topic("t"))))
    result(bench.broker.publish(topic("t"), text("1")))
    result(start(bench.broker.bind("b", topic("t"))))
    published = result(bench.broker.publish(topic("t"), text("2")))
    assert set(published.deliveries) == {"a", "b"}
    assert (bench.broker.topics(), bench.broker.bound(topic("t"))) == (["t"], ["a", "b"])
    assert [bench.body("a") for _ in range(3)] == [b"1", b"2", None]
    assert [bench.body("b") for _ in range(2)] == [b"2", None]


def test_between_unbind_and_bind_a_queue_gets_nothing(bench: Bench) -> None:
    for other in ("q", "witness"):
        result(start(bench.broker.bind(other, topic("t"))))
    result(bench.broker.publish(topic("t"), text("1")))
    assert result(start(bench.broker.unbind("q", topic("t"))))
    assert not result(start(bench.broker.unbind("q", topic("t"))))
    result(bench.broker.publish(topic("t"), text("2")))
    result(start(bench.broker.bind("q", topic("t"))))
    result(bench.broker.publish(topic("t"), text("3")))
    bench.boot()
    assert [bench.body("q") for _ in range(3)] == [b"1", b"3", None]


def test_a_bindings_terms_hold_from_its_change_on(bench: Bench) -> None:
    result(start(bench.broker.bind("q", topic("t"), BindingPolicy(max_attempts=1, ttl=5000))))
    result(bench.broker.publish(topic("t"), text("1")))
    result(start(bench.broker.bind("q", topic("t"), BindingPolicy(priority=-1))))
    result(bench.broker.publish(topic("t"), text("2")))
    first, second = take(bench, "q"), take(bench, "q")
    assert bodies([first, second]) == [b"1", b"2"]  # one lane of one source is always in order
    assert (first.priority, first.max_attempts, first.ttl) == (0, 1, 5000)
    assert (second.priority, second.max_attempts, second.ttl) == (-1, 0, 0)


def test_a_full_bound_queue_is_passed_over(bench: Bench) -> None:
    bench.policy = Policy(max_messages=1)
    bench.boot()
    for name in ("a", "b"):
        result(start(bench.broker.bind(name, topic("t"))))
    result(bench.broker.publish(topic("t"), text("1")))
    assert bench.body("a") == b"1"
    published = result(bench.broker.publish(topic("t"), text("2")))
    assert (list(published.deliveries), published.skipped) == (["a"], ["b"])
    assert [bench.body("b"), bench.body("b")] == [b"1", None]


def test_a_binding_with_a_filter_brings_what_matches(bench: Bench) -> None:
    result(start(bench.broker.bind("high", topic("t"), match="priority < 0 or data.total > 99")))
    result(start(bench.broker.bind("all", topic("t"))))
    small = result(bench.broker.publish(topic("t"), text('{"total": 1}')))
    large = result(bench.broker.publish(topic("t"), text('{"total": 100}')))
    assert (list(small.deliveries), small.skipped) == (["all"], ["high"])
    assert set(large.deliveries) == {"all", "high"}
    bench.boot()
    result(bench.broker.publish(topic("t"), text("no JSON", priority=-1)))
    result(bench.broker.publish(topic("t"), text("no JSON")))
    assert [bench.body("high") for _ in range(3)] == [b"no JSON", b'{"total": 100}', None]
    assert bench.broker.queue_stats("all").ready == 4


def test_a_changed_filter_holds_from_then_on_and_none_takes_it_away(bench: Bench) -> None:
    for match, body in (("priority = 1", "1"), ("priority = 0", "2"), ("", "3"), ("priority = 1", "4")):
        result(start(bench.broker.bind("q", topic("t"), match=match)))
        commits = bench.memory.commits
        result(start(bench.broker.bind("q", topic("t"), match=match)))
        assert bench.memory.commits == commits
        result(bench.broker.publish(topic("t"), text(body)))
    assert [bench.body("q") for _ in range(3)] == [b"2", b"3", None]


def test_what_no_filter_matches_is_not_stored(bench: Bench) -> None:
    result(start(bench.broker.bind("q", topic("t"), match="priority = 1")))
    commits = bench.memory.commits
    assert result(bench.broker.publish(topic("t"), text("x"))).message_id.startswith("live.")
    assert bench.memory.commits == commits


def test_a_filter_that_cannot_be_compiled_binds_nothing(bench: Bench) -> None:
    with pytest.raises(BadFilter, match="at character 11"):
        result(start(bench.broker.bind("q", topic("t"), match="priority <")))
    assert bench.broker.bound(topic("t")) == []


def test_the_number_of_filters_on_one_destination_is_bounded(bench: Bench) -> None:
    for number in range(MAX_FILTERS):
        result(start(bench.broker.bind(f"q{number}", topic("t"), match="priority = 1")))
    with pytest.raises(BadValue, match="100 bindings with a filter"):
        result(start(bench.broker.bind("one more", topic("t"), match="priority = 1")))
    result(start(bench.broker.bind("without", topic("t"))))


def test_live_subscribers_get_what_is_published_while_they_are_there(bench: Bench) -> None:
    got: list[Delivery] = []
    subscription = bench.broker.subscribe(topic("t"), got.append, prefetch=10)
    live = result(bench.broker.publish(topic("t"), text("1")))
    assert live.message_id.startswith("live.")
    assert bench.memory.commits == 0
    result(start(bench.broker.bind("q", topic("t"))))
    stored = result(bench.broker.publish(topic("t"), text("2")))
    assert [d.message_id for d in got] == [live.message_id, stored.message_id]
    assert take(bench, "q").message_id == stored.message_id
    bench.broker.unsubscribe(subscription)
    result(bench.broker.publish(topic("t"), text("3")))
    assert len(got) == 2


def test_a_live_subscriber_that_does_not_settle_drops_its_oldest(bench: Bench) -> None:
    room = TopicPolicy().max_bytes
    got: list[Delivery] = []
    bench.broker.subscribe(topic("t"), got.append, prefetch=1)
    for number in range(20):
        message = Message(body=b"%02d" % number + bytes(room // 10))
        result(bench.broker.publish(topic("t"), message))
    rest: list[bytes] = []
    while len(got) > len(rest):
        rest.append(got[-1].message.body[:2])
        result(bench.broker.ack([got[-1]]))
    assert rest == [b"00", *(b"%02d" % n for n in range(11, 20))]


def test_a_live_delivery_that_is_nacked_comes_again(bench: Bench) -> None:
    got: list[Delivery] = []
    bench.broker.subscribe(topic("t"), got.append, prefetch=1)
    result(bench.broker.publish(topic("t"), text("1")))
    bench.broker.nack(got[:1])
    bench.turn()
    assert [(d.message.body, d.redelivered) for d in got] == [(b"1", False), (b"1", True)]


# -- transactions


def test_a_transaction_is_all_or_nothing(bench: Bench) -> None:
    publish(bench, "in", "1")
    for committed in (False, True):
        delivery = take(bench, "in")
        transaction = bench.broker.begin()
        transaction.publish(queue("out"), text("2"))
        transaction.ack([delivery])
        with pytest.raises(NotFound):
            _ = bench.broker.ack([delivery])
        bench.memory.hold = True
        done = transaction.commit()
        assert not done.called
        assert delivery.on_loan
        if committed:
            bench.memory.release_commit()
            result(done)
        else:
            bench.memory.fail_commit()
            with pytest.raises(StoreUnavailable):
                result(done)
            assert delivery.on_loan
            bench.broker.release([delivery])
        bench.memory.hold = False
        assert bench.broker.queue_stats("out").ready == committed
    assert bench.body("in") is None
    assert bench.body("out") == b"2"


def test_an_aborted_transaction_leaves_its_deliveries_on_loan(bench: Bench) -> None:
    publish(bench, "q", "1")
    delivery = take(bench, "q")
    transaction = bench.broker.begin()
    transaction.nack([delivery])
    transaction.publish(queue("q"), text("2"))
    transaction.abort()
    assert delivery.on_loan
    result(bench.broker.ack([delivery]))
    assert bench.body("q") is None
    with pytest.raises(NotFound):
        transaction.publish(queue("q"), text("3"))


def test_a_consumer_lost_during_its_commit_gets_nothing_back_if_it_succeeds(bench: Bench) -> None:
    publish(bench, "q", "1")
    delivery = take(bench, "q")
    transaction = bench.broker.begin()
    transaction.ack([delivery])
    bench.memory.hold = True
    done = transaction.commit()
    bench.broker.nack([delivery], reason="connection lost")
    assert delivery.on_loan
    bench.memory.release_commit()
    result(done)
    bench.memory.hold = False
    assert bench.body("q") is None


# -- whole queues


def test_purge_spares_what_is_on_loan_unless_told_otherwise(bench: Bench) -> None:
    publish(bench, "q", *"abcd")
    held = take(bench, "q")
    assert result(start(bench.broker.purge("q"))) == 3
    assert held.on_loan
    publish(bench, "q", "e")
    assert result(start(bench.broker.purge("q", on_loan=True))) == 2
    assert not held.on_loan
    bench.boot()
    assert bench.body("q") is None
    assert result(start(bench.broker.purge("nothing"))) == 0


def test_a_deleted_queue_is_gone_and_its_waiters_wait_on(bench: Bench) -> None:
    publish(bench, "q", "1")
    result(start(bench.broker.bind("q", topic("t"))))
    held = take(bench, "q")
    waiting = start(bench.broker.take("q", wait=9))
    assert result(start(bench.broker.delete("q"))) is True
    assert (held.on_loan, bench.broker.topics(), bench.broker.queue_stats("q").ready) == (False, [], 0)
    publish(bench, "q", "2")
    got = result(waiting)
    assert got is not None
    assert got.message.body == b"2"
    assert result(start(bench.broker.delete("other"))) is False
    bench.boot()
    assert take(bench, "q").message.body == b"2"
    assert bench.broker.topics() == []


def test_a_deleted_queues_subscriptions_go_on_and_are_told_once_that_is_on_disk(bench: Bench) -> None:
    told, got = list[str](), list[Delivery]()
    publish(bench, "q", "1")
    bench.broker.subscribe(queue("q"), got.append, prefetch=5, deleted=lambda: told.append("stays"))
    leaves = bench.broker.subscribe(queue("q"), lambda _: None, prefetch=0, deleted=lambda: told.append("left"))
    bench.broker.unsubscribe(leaves)
    bench.memory.hold = True
    deleting = start(bench.broker.delete("q"))
    bench.clock.advance(1)
    assert told == []
    bench.memory.hold = False
    bench.memory.release_commit()
    assert result(deleting) is True
    assert told == ["stays"]
    publish(bench, "q", "2")
    bench.clock.advance(0)
    assert got[-1].message.body == b"2"


def test_a_publish_on_its_way_to_a_deleted_queue_is_gone_with_it(bench: Bench) -> None:
    bench.memory.hold = True
    _ = bench.broker.publish(queue("q"), text("1"))
    second = bench.broker.publish(queue("q"), text("2"))
    deleted = start(bench.broker.delete("q"))
    while bench.memory.held is not None:
        bench.memory.release_commit()
    assert result(second).deliveries == {}
    assert result(deleted)
    bench.memory.hold = False
    assert bench.body("q") is None


# -- memory


def test_a_queue_nobody_uses_keeps_no_message_in_memory(bench: Bench) -> None:
    publish(bench, "q", "1", "2")
    assert bench.body("q") == b"1"
    held = take(bench, "q")
    bench.broker.nack([held])
    assert bench.broker._budget.used > 0
    bench.turn(2 * KEEP)
    assert bench.broker._budget.used == 0
    again = take(bench, "q")
    assert (again.message.body, again.attempts) == (b"2", 1)


def test_the_store_is_asked_to_free_what_is_settled(bench: Bench) -> None:
    publish(bench, "q", *"abc")
    while bench.body("q") is not None:
        pass
    assert result(bench.memory.read(1, 0, 1000))
    bench.turn(1)
    assert result(bench.memory.read(1, 0, 1000)) == []


# -- the end


def test_stopping_makes_durable_what_was_accepted_and_takes_nothing_new(bench: Bench) -> None:
    bench.memory.hold = True
    accepted = [bench.broker.publish(queue("q"), text(body)) for body in "ab"]
    waiting = start(bench.broker.take("other", wait=60))
    stopped: Deferred[None] = start(bench.broker.stop())
    with pytest.raises(Stopping):
        _ = bench.broker.publish(queue("q"), text("c"))
    while bench.memory.held is not None:
        bench.memory.release_commit()
    result(stopped)
    assert all(result(answer).deliveries for answer in accepted)
    waiting.cancel()
    with pytest.raises(CancelledError):
        result(waiting)
    assert [call for call in bench.clock.getDelayedCalls() if call.active()] == []


def test_no_queue_reads_a_lane_twice(bench: Bench) -> None:
    """Two readers of one queue on one lane would deliver every message twice, without an error."""
    publish(bench, "q", "1")
    directory = bench.broker._directory
    (reader,) = directory.queues["q"].readers
    with pytest.raises(AssertionError, match="reads lane 1 already"):
        directory._attach(99, reader.queue, reader.lane, 0)
