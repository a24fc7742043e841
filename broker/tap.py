"""Taps: what passes over one connection, or becomes of one queue's messages, told to a person while it happens.

A tap is bounded in time, in events a second and in bytes of a body; what does not pass is counted. What may be a secret
never does: fronts leave out what they take for a password, and fields with such names are blanked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker.errors import NotFound, OverLimit

#: Events that a tap tells in a second, and taps at a time.
MAX_RATE, MAX_TAPS = 200, 10
#: Seconds of a tap, and bytes of a body that it shows, unless said otherwise, and at most.
SECONDS, MAX_SECONDS = 60, 3600
BYTES, MAX_BYTES = 32, 4096
#: Fields of a message that are shown, and characters of one.
MAX_FIELDS, MAX_FIELD = 40, 200

#: Names of fields that hold secrets, or may.
_secret = re.compile(r"pass|secret|token|credential|authorization|cookie|api-?key|signature", re.IGNORECASE)
HIDDEN = "(hidden)"


class Tell(Protocol):
    """Is told that something happened."""

    def __call__(self, event: str, /, **said: Any) -> None: ...


#: Begins to tell what passes over a connection; what it gives ends that.
Watch = Callable[[Any, Tell], Callable[[], None]]


class Connection(Protocol):
    """What a front has for each client."""

    transport: Any


def replaced(owner: Any, name: str, method: object) -> Callable[[], None]:
    """Have one object use `method` instead of its own; what is given ends that."""
    fields = vars(owner)
    before = fields.get(name)
    fields[name] = method

    def end() -> None:
        if fields.get(name) is not method:
            return  # somebody else has replaced it since
        if before is None:
            del fields[name]
        else:
            fields[name] = before

    return end


class Tapped:
    """A transport, and what is written to it."""

    def __init__(self, transport: Any, went: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._went = went

    def write(self, data: bytes) -> None:
        """Write, and tell."""
        self._transport.write(data)
        self._went(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def watched(
    connection: Any,
    tell: Tell,
    instead: Mapping[str, object],
    went: Callable[[bytes], None] | None = None,
) -> Callable[[], None]:
    """Have a connection use these `instead` of its own, and tell when it is gone; what is given ends that.

    `went` is told what its outbox writes, if it has one.
    """
    lost = connection.connectionLost

    def gone(reason: Any) -> None:
        lost(reason)
        tell("gone")

    ends = [replaced(connection, name, method) for name, method in {**instead, "connectionLost": gone}.items()]
    if went is not None:
        outbox = connection._outbox
        ends.append(replaced(outbox, "_transport", Tapped(outbox._transport, went)))

    def end() -> None:
        for one in ends:
            one()

    return end


class Tap:
    """One of them: bounds and cleans what it is told, and hands on a line of JSON for each event."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, write: Callable[[bytes], None], size: int, *, logs: bool) -> None:
        """`size`: bytes of a body that are shown; `logs`: the log gets the lines too."""
        self._clock = clock
        self._write = write
        self._size = size
        self._logs = logs
        self._second, self._told = -1, 0
        self._missed = 0
        self._telling = False
        #: True: nobody takes the lines at the moment.
        self.full = False
        #: Called when nothing more can come.
        self.over: Callable[[], None] = lambda: None

    def tell(self, event: str, /, **said: Any) -> None:
        """Something happened. That it is told is nothing that happens, on whichever connection it is."""
        if self._telling:
            return
        self._telling = True
        try:
            self._tell(event, said)
        finally:
            self._telling = False
        if event == "gone":
            self.over()

    def _tell(self, event: str, said: Mapping[str, Any]) -> None:
        second = int(self._clock.seconds())
        if second != self._second:
            self._second, self._told = second, 0
        if self.full or self._told >= MAX_RATE:
            self._missed += 1
        else:
            self._told += 1
            if self._missed:
                missed, self._missed = self._missed, 0
                self._line("missed", {"count": missed})
            self._line(event, said)

    def _line(self, event: str, said: Mapping[str, Any]) -> None:
        when = datetime.now(UTC).isoformat(timespec="microseconds")
        line = msgspec.json.encode({"time": when, "event": event} | {k: self._shown(k, v) for k, v in said.items()})
        if self._logs:
            self._log.info("trace: {line}", line=line.decode())
        self._write(line)

    def _shown(self, name: str, value: Any) -> Any:
        if _secret.search(name):
            return HIDDEN
        if isinstance(value, bytes | bytearray | memoryview):
            return _cut(bytes(value[: self._size]).decode("utf-8", "backslashreplace"), len(value) > self._size)
        if isinstance(value, str):
            return _cut(value[:MAX_FIELD], len(value) > MAX_FIELD)
        if isinstance(value, Mapping):
            pairs = list(value.items())[:MAX_FIELDS]
            return {str(key)[:MAX_FIELD]: self._shown(str(key), one) for key, one in pairs}
        return value if value is None or isinstance(value, bool | int | float) else str(value)[:MAX_FIELD]


def _cut(text: str, more: bool) -> str:
    return text.encode("utf-8", "backslashreplace").decode() + ("..." if more else "")


class Taps:
    """What can be tapped: the queues, by `queues`, and the `connections` there are, each with its front's watch."""

    def __init__(
        self,
        clock: IReactorTime,
        queues: Callable[[str, Tell], Callable[[], None]],
        connections: Callable[[], Iterable[tuple[Watch, Connection, str]]] = lambda: (),
    ) -> None:
        self._clock = clock
        self._queues = queues
        self._connections = connections
        #: Taps that are open.
        self.open = 0

    def check(self, connection: str | None) -> None:
        """Raise `NotFound` if there is no such connection, `OverLimit` if there are as many taps as may be."""
        if self.open >= MAX_TAPS:
            raise OverLimit(f"There are {MAX_TAPS} traces at a time already.")
        if connection is not None:
            self._find(connection)

    def tap(
        self, write: Callable[[bytes], None], *, queue: str | None, connection: str | None, size: int, logs: bool
    ) -> tuple[Tap, Callable[[], None]]:
        """Begin; what ends it. Raises what `check` does."""
        self.check(connection)
        tap = Tap(self._clock, write, size, logs=logs)
        if connection is not None:
            watch, found = self._find(connection)
            end = watch(found, tap.tell)
        else:
            end = self._queues(queue or "", tap.tell)
        self.open += 1
        over = False

        def ended() -> None:
            nonlocal over
            if not over:
                over = True
                self.open -= 1
                end()

        return tap, ended

    def _find(self, name: str) -> tuple[Watch, Connection]:
        for watch, connection, peer in self._connections():
            if name in (peer, getattr(connection, "name", None)):
                return watch, connection
        raise NotFound("There is no such connection; the log names them, by where they come from: 192.0.2.1:50000.")
