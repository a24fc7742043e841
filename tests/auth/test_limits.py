"""Limits by themselves: what a bucket gives in how much time, and what a quota counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from broker.auth.limits import RECOUNT, Bucket, Limits, Quota
from broker.errors import OverLimit


@attrs.define(eq=False)
class Lent:
    """Something on loan."""

    on_loan: bool = True


def quota(clock: Clock, **limits: int) -> Quota:
    return Quota(Limits(**limits), clock.seconds)


def words(what: Callable[[], object]) -> str:
    """The reason why that is refused."""
    with pytest.raises(OverLimit) as raised:
        what()
    return raised.value.reason


costs = st.integers(0, 50)


@given(st.integers(1, 20), st.lists(st.tuples(st.floats(0, 3), costs), max_size=60))
def test_no_more_is_taken_in_any_time_than_the_rate_allows(rate: int, tries: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock.seconds)
    taken: list[tuple[float, int]] = []
    for pause, cost in tries:
        clock.advance(pause)
        if not bucket.wait(cost):
            bucket.take(cost)
            taken.append((clock.seconds(), cost))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last][0] - taken[first][0]
            some = sum(cost for _, cost in taken[first : last + 1])
            over = max(taken[last][1] - rate, 0)
            assert some <= rate * (span + 1) + over + 0.01


@given(st.integers(1, 20), st.lists(costs, max_size=20))
def test_who_waits_as_long_as_he_is_told_is_served(rate: int, tries: list[int]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock.seconds)
    for cost in tries:
        wait = bucket.wait(cost)
        clock.advance(wait)
        assert not bucket.wait(cost)
        bucket.take(cost)


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing() -> None:
    clock = Clock()
    bucket = Bucket(10, clock.seconds)
    bucket.take(10)
    clock.rightNow = -1000.0
    assert bucket.wait(1) == pytest.approx(0.1)
    clock.advance(0.1)
    assert not bucket.wait(1)


def test_a_second_s_worth_of_messages_comes_at_once_and_the_next_one_a_little_later() -> None:
    clock = Clock()
    his = quota(clock, messages=5)
    for _ in range(5):
        his.publish(1, 10)
    with pytest.raises(OverLimit, match="too many messages: a user may put in 5 a second") as raised:
        his.publish(1, 10)
    assert raised.value.after == pytest.approx(0.2)
    assert raised.value.retryable
    clock.advance(0.2)
    his.publish(1, 10)


def test_what_is_refused_for_its_bytes_does_not_count_as_a_message() -> None:
    clock = Clock()
    his = quota(clock, messages=1, bytes=10)
    his.publish(0, 10)
    assert "too many bytes" in words(lambda: his.publish(1, 10))
    clock.advance(1)
    his.publish(1, 10)


def test_a_body_larger_than_a_second_s_worth_is_taken_and_paid_for_later() -> None:
    clock = Clock()
    his = quota(clock, bytes=10)
    his.publish(1, 100)
    clock.advance(9.5)
    assert words(lambda: his.publish(1, 10))
    clock.advance(0.5)
    his.publish(1, 10)


def test_connections_are_counted_by_whoever_has_them() -> None:
    his = quota(Clock(), connections=2)
    his.connect(1)
    assert words(lambda: his.connect(2)) == "too many connections: a user may have 2"


def test_queues_are_counted_again_when_the_limit_is_reached_and_once_a_second_at_most() -> None:
    clock = Clock()
    his = quota(clock, queues=2)
    counts: list[int] = []

    def count(there: int) -> Callable[[], int]:
        def counted() -> int:
            counts.append(there)
            return there

        return counted

    his.create(count(0))
    his.create(count(1))
    assert counts == [0]
    assert words(lambda: his.create(count(2)))
    assert words(lambda: his.create(count(0)))
    assert counts == [0, 2]
    clock.advance(RECOUNT)
    his.create(count(1))
    assert counts == [0, 2, 1]


def test_what_was_settled_is_not_on_loan_any_more() -> None:
    his = quota(Clock(), unsettled=2)
    loans = [Lent(), Lent()]
    his.lent(loans)
    assert words(his.room) == "too many unsettled messages: a user may have 2"
    loans[0].on_loan = False
    assert his.room() == 1


def test_a_loan_that_nobody_knows_any_more_is_none() -> None:
    his = quota(Clock(), unsettled=2)
    his.lent([Lent(), Lent()])
    assert his.room() == 2


def test_a_subscription_gets_what_is_left_and_gives_it_back() -> None:
    his = quota(Clock(), unsettled=10)
    loan = Lent()
    his.lent([loan])
    assert his.reserve(6) == 6
    assert his.reserve(6) == 3
    assert words(lambda: his.reserve(1))
    his.free(6)
    assert his.room() == 6


def test_other_limits_hold_at_once_and_what_he_has_stays_his() -> None:
    his = quota(Clock(), unsettled=10)
    assert his.reserve(8) == 8
    his.change(Limits(unsettled=5))
    assert words(his.room)
    his.free(8)
    assert his.room() == 5


def test_without_limits_nothing_is_counted() -> None:
    his = quota(Clock())
    his.connect(10**6)
    his.publish(10**6, 10**9)
    his.create(lambda: 1 // 0)
    assert his.reserve(10**6) == 10**6
    assert not math.isinf(his.room())
