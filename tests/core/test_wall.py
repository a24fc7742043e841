"""What the broker does when the machine's clock is set."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from broker.core.broker import Broker
from broker.core.destination import queue
from broker.core.policy import Policy
from broker.core.wall import Wall
from broker.service import _steady
from broker.storage.memory import MemoryStore
from tests.core.support import EPOCH, result, start, text


class Machine:
    """A machine whose clock somebody sets, while timers go on."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.set_by = 0.0
        self.store = MemoryStore()

    def wall(self) -> float:
        return EPOCH + self.clock.seconds() + self.set_by

    def broker(self, policy: Policy = Policy()) -> Broker:  # noqa: B008 - frozen
        broker = Broker(self.store, self.clock, policy=policy, wall=self.wall)
        result(start(broker.start()))
        return broker

    def turn(self, seconds: float) -> None:
        self.clock.pump([seconds, 0, 0, 0, 0])


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6))))
def test_it_never_goes_back_and_is_never_behind(steps: list[tuple[float, float]]) -> None:
    machine = Machine()
    time = Wall(machine.wall, machine.clock.seconds)
    before = time.now()
    for passed, jump in steps:
        machine.clock.advance(passed)
        machine.set_by += jump
        now = time.now()
        assert now >= before
        assert now >= machine.wall() - 1e-3
        before = now


def test_a_clock_that_was_set_back_is_caught_up_with_slowly(logged: list[LogEvent]) -> None:
    machine = Machine()
    time = Wall(machine.wall, machine.clock.seconds)
    machine.set_by = -60
    for _ in range(100):
        machine.clock.advance(1)
        time.now()
    assert time.now() - machine.wall() == pytest.approx(50)
    for _ in range(501):
        machine.clock.advance(1)
        time.now()
    assert time.now() == pytest.approx(machine.wall())
    assert [event["log_namespace"] for event in logged] == ["broker.core.wall.Wall"], "it is told once"


def test_a_lease_ends_in_time_when_the_clock_was_set_back() -> None:
    machine = Machine()
    broker = machine.broker()
    result(broker.publish(queue("q"), text("x")))
    taken = result(start(broker.take("q", leased=True, lease=30_000)))
    assert taken is not None
    machine.set_by = -3_600
    machine.turn(29)
    assert broker.queue_stats("q").on_loan == 1
    machine.turn(5)
    machine.turn(5)
    assert broker.queue_stats("q").ready == 1


@pytest.mark.parametrize("jump", [-3_600, 0])
def test_a_delayed_message_comes_in_time(jump: float) -> None:
    machine = Machine()
    broker = machine.broker()
    result(broker.publish(queue("q"), text("x", delay=30_000)))
    machine.set_by = jump
    for _ in range(29):
        machine.turn(1)
    assert broker.queue_stats("q").ready == 0
    for _ in range(6):
        machine.turn(1)
    assert broker.queue_stats("q").ready == 1


def test_what_is_due_after_a_jump_forward_is_seen_within_a_minute() -> None:
    machine = Machine()
    broker = machine.broker(Policy(ttl=50_000_000))
    result(broker.publish(queue("later"), text("x", delay=7_200_000)))
    result(broker.publish(queue("lent"), text("x")))
    result(broker.publish(queue("old"), text("x")))
    taken = result(start(broker.take("lent", leased=True, lease=7_200_000)))
    assert taken is not None
    machine.set_by = 8 * 3_600
    for _ in range(62):
        machine.turn(1)
    assert broker.queue_stats("later").ready == 1
    assert broker.queue_stats("lent").ready == 1
    assert broker.queue_stats("old").ready == 1
    machine.set_by = 24 * 3_600
    for _ in range(3):
        machine.turn(1)
    assert broker.queue_stats("old").ready == 0


def test_stamps_and_expiry_are_right_after_a_restart_behind_the_last_stamp() -> None:
    machine = Machine()
    broker = machine.broker()
    first = result(broker.publish(queue("q"), text("1")))
    result(start(broker.stop()))
    machine.set_by = -3_600
    broker = machine.broker()
    result(broker.publish(queue("q"), text("2", ttl=10_000)))
    assert first.message_id != ""
    for expected in (b"1", b"2"):
        taken = result(start(broker.take("q")))
        assert taken is not None
        assert taken.message.body == expected
        result(broker.ack([taken]))


class Quiet(ReactorBase):
    """A reactor that never runs."""

    def __init__(self) -> None:
        self._newTimedCalls: list[DelayedCall] = []
        self._pendingTimedCalls: list[DelayedCall] = []


def test_timers_count_what_passes_unless_some_are_set_already() -> None:
    reactor, late = Quiet(), Quiet()
    late.callLater(1, lambda: None)
    for one in (reactor, late):
        _steady(one)
    assert (reactor.seconds, late.seconds) == (time.monotonic, time.time)
    assert reactor.callLater(5, lambda: None).getTime() <= time.monotonic() + 5
