"""A test fails that leaves anything behind: timers, open sockets, logged failures, Deferreds that failed unseen."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from broker.reactor import install
from tests.storage.support import InlinePool
from tests.support import leaks, logged_errors

# The reactor twistd gives the broker, before pytest-twisted installs Twisted's own; BROKER_STOCK_REACTOR=1 keeps that.
_stock = install()

# Under nohup every process of the suite would ignore SIGHUP, in a shell's background SIGINT and SIGQUIT, and so would
# the brokers, as they should. What is handled is not handed on.
for _number, _handler in {
    signal.SIGHUP: lambda *_: None,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: lambda *_: os._exit(131),
}.items():
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

# In CI the same examples every time: a change is judged by what it changes. Others are looked for at everybody's desk,
# and by script/fuzz and script/soak. How long an example takes depends on who else uses the machine.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_report_header() -> str:
    """Which reactor the tests run on."""
    return f"reactor: Twisted's own, {_stock}" if _stock else "reactor: lean"


#: Reactor turns in which closed sockets, and calls that are due, may go away; trial gives two.
TURNS = 20


#: Events of the running test that hold a password.
leaked: list[LogEvent] = []


@implementer(ILogObserver)
def _observe(event: LogEvent) -> None:
    if leaks(event):
        leaked.append(event)
    if event.get("log_failure") is not None:
        logged_errors.append(event)
    elif event.get("failure") is not None:  # Twisted's older way: what a protocol raises, and its reactor logs
        logged_errors.append({**event, "log_failure": event["failure"]})


def _open() -> tuple[set[object], set[object]]:
    """The reactor's timers, and what it reads and writes beside its own wakers."""
    from twisted.internet import reactor

    own: set[object] = getattr(reactor, "_internalReaders", set())
    sockets: set[object] = {*reactor.getReaders(), *reactor.getWriters()}
    return set(reactor.getDelayedCalls()), sockets - own


def _left(timers: set[object], sockets: set[object]) -> tuple[set[object], set[object]]:
    new_timers, new_sockets = _open()
    return new_timers - timers, new_sockets - sockets


async def _turns(timers: set[object], sockets: set[object]) -> None:
    from twisted.internet import reactor

    for _ in range(TURNS):
        await task.deferLater(reactor, 0)
        if not any(_left(timers, sockets)):
            return


#: What the start of a broker in this process would have handled for all tests behind it.
_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """`makeService` says how the process handles signals and looks for garbage: it has one of its own elsewhere."""
    handlers, thresholds = [signal.getsignal(number) for number in _SIGNALS], gc.get_threshold()
    yield
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    gc.set_threshold(*thresholds)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _open()
    logged_errors.clear()
    leaked.clear()
    globalLogPublisher.addObserver(_observe)
    try:
        yield
        if any(_left(*before)):
            pytest_twisted.blockon(Deferred.fromCoroutine(_turns(*before)))
        # A failed Deferred in a cycle is reported when it is collected.
        gc.collect(1)
    finally:
        globalLogPublisher.removeObserver(_observe)
    InlinePool.close_all()
    left: list[str] = []
    timers, sockets = _left(*before)
    for timer in timers:
        left.append(f"a timer: {timer}")
        timer.cancel()  # type: ignore[attr-defined]
    left += [f"a socket: {one}" for one in sockets]
    left += [f"a password in the log: {event!r}" for event in leaked]
    # trial's own cases look at what they log themselves, and let it be flushed.
    if not isinstance(request.instance, SynchronousTestCase):
        left += [f"logged: {formatEvent(event)}\n{event['log_failure'].getTraceback()}" for event in logged_errors]
    if left:
        pytest.fail("the test left behind\n" + "\n".join(left), pytrace=False)
