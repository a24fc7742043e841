"""What is logged, changed while the broker runs; and what it is doing at this moment, thread by thread."""

from __future__ import annotations

import heapq
import itertools
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogFilterPredicate, LogEvent, Logger, LogLevel, LogLevelFilterPredicate
from zope.interface import implementer

from broker.errors import BadValue

#: The levels, the least first.
NAMES = ("debug", "info", "warn", "error")
#: The part that is meant where none is named.
WHOLE = "broker"
#: Parts that may have a level of their own; there are fewer modules.
MAX_PARTS = 200
#: Frames of a thread, threads, and planned calls that a dump shows: 100 kB at most, as lines go.
MAX_FRAMES, MAX_THREADS, MAX_CALLS = 40, 50, 50


@implementer(ILogFilterPredicate)
class Levels:
    """The least that is logged, of each part of the broker: a module, or all those below it (``broker.stomp``).

    `default` holds for a part that has no level of its own, and lies in none that has.
    """

    _log = Logger()

    def __init__(self, default: str = "info") -> None:
        self.default = default
        self._said: dict[str, str] = {}
        #: What `debugs` found out since the levels changed.
        self._debugs: dict[str, bool] = {}
        self._predicate = LogLevelFilterPredicate(_level(default))

    def __call__(self, event: LogEvent) -> Any:
        """Whether `event` is logged."""
        return self._predicate(event)

    def debugs(self, namespace: str) -> bool:
        """Whether anything at all is logged of this part."""
        found = self._debugs.get(namespace)
        if found is None:
            found = self._predicate.logLevelForNamespace(namespace) is LogLevel.debug
            self._debugs[namespace] = found
        return found

    @property
    def parts(self) -> Mapping[str, str]:
        """The parts that have a level of their own."""
        return self._said

    def set(self, part: str, level: str, asked: str) -> str:
        """From now on this level holds for `part`; the empty one: that of what it lies in. The part's full name.

        The log says who `asked`. Raises `BadValue`.
        """
        part = _part(part)
        if level and level not in NAMES:
            raise BadValue(f"Invalid level: {', '.join(NAMES)}, or nothing for the one that holds otherwise.")
        if level and part not in self._said and len(self._said) >= MAX_PARTS:
            raise BadValue(f"{MAX_PARTS} parts have a level of their own already.")
        said = {known: its for known, its in self._said.items() if known != part}
        self._become(said | {part: level} if level else said)
        holds = level or "of what it lies in"
        self._log.info("{asked}: the level of {part} in the log is {holds}", asked=asked, part=part, holds=holds)
        return part

    def clear(self, asked: str) -> None:
        """No part has a level of its own any more."""
        self._become({})
        self._log.info("{asked}: the level of all parts in the log is {holds}", asked=asked, holds=self.default)

    def _become(self, said: dict[str, str]) -> None:
        predicate = LogLevelFilterPredicate(_level(self.default))
        for part, level in said.items():
            predicate.setLogLevelForNamespace(part, _level(level))
        self._said, self._predicate = said, predicate
        self._debugs.clear()


def _level(name: str) -> Any:
    return LogLevel.levelWithName(name)


def _part(name: str) -> str:
    """The full name of a part, ``broker.stomp`` for ``stomp``; `BadValue` if there is no such module."""
    for full in (name, f"{WHOLE}.{name}"):
        if full.split(".", 1)[0] in (WHOLE, "twisted") and full in sys.modules:
            return full
    shown = "".join(c if c.isprintable() else "?" for c in name[:80])
    raise BadValue(f"Invalid part: there is no {shown}; a module is meant, as {WHOLE}.stomp or {WHOLE}.core.journal.")


def stack(reactor: IReactorTime, main: FrameType | None = None) -> str:
    """What every thread is doing, and what `reactor` has planned; no values, which may be secrets.

    `main` is where the main thread was interrupted, if that is not where it is now.
    """
    return "\n".join([*_threads(main), "", *_planned(reactor)]) + "\n"


def _threads(main: FrameType | None) -> Iterator[str]:
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    first = threading.main_thread().ident
    if main is not None and first is not None:
        frames[first] = main
    yield f"{len(frames)} threads"
    for ident in itertools.islice(
        sorted(frames, key=lambda ident: (ident != first, named.get(ident, ""))), MAX_THREADS
    ):
        yield ""
        yield f"thread {named.get(ident, ident)}:"
        # without the lines themselves, which would be read from files
        found = traceback.StackSummary.extract(
            traceback.walk_stack(frames[ident]), limit=MAX_FRAMES, lookup_lines=False
        )
        for frame in reversed(found):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"


def _planned(reactor: IReactorTime) -> Iterator[str]:
    now = reactor.seconds()
    calls = reactor.getDelayedCalls()
    yield f"{len(calls)} calls planned"
    for call in heapq.nsmallest(MAX_CALLS, calls, key=lambda call: call.getTime()):
        yield f"  in {call.getTime() - now:.3f} s: {_name_of(getattr(call, 'func', None))}"
    for what in ("Readers", "Writers"):
        their = getattr(reactor, f"get{what}", None)
        if their is not None:
            yield f"{len(their())} {what.lower()}"


def _name_of(function: Any) -> str:
    """Where a function stands, without what it is bound to."""
    function = getattr(function, "func", function)  # a partial
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def on_quit(reactor: IReactorTime) -> None:
    """SIGQUIT writes the dump to the log, even while the reactor hangs in a loop; nohup's wish to ignore it stands."""
    log = Logger()

    def dump(number: int, frame: FrameType | None) -> None:
        text = stack(reactor, frame)
        # Logged in another thread: this one may stand in the middle of a line of the log.
        threading.Thread(target=lambda: log.warn("SIGQUIT: {stack}", stack=text), name="SIGQUIT", daemon=True).start()

    if signal.getsignal(signal.SIGQUIT) != signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, dump)
