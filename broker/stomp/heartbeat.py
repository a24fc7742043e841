"""Heart-beats: what both sides promise in CONNECT and CONNECTED, and the timers that keep and check it.

The client's ``heart-beat:cx,cy`` says "I can send every cx ms, I want to receive every cy ms"; we answer the mirror
image, between a floor and a ceiling, so what the client asks for is what it gets. 0 means none, in either place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: The shortest period we agree to (ms): a beat of 250 ms costs a connection 8 timer calls a second.
FLOOR = 250
#: Silence, in periods, after which a peer counts as gone. Artemis and CoilMQ use 2.0 as well.
GRACE = 2.0
#: The part of a period after which we send a beat if we wrote nothing else: late enough to be rare, never late.
EARLY = 0.75
#: What is left of a period is over when it is shorter than this (s): sums of floats are not exact.
TICK = 0.001

#: Ten digits of milliseconds are 115 days.
_header = re.compile(r"[ \t]*([0-9]{1,10})[ \t]*,[ \t]*([0-9]{1,10})[ \t]*", re.ASCII)


class Beats(msgspec.Struct, frozen=True):
    """An agreement. Periods are milliseconds; 0 = none."""

    #: Something must come from us at least this often.
    outgoing: int = 0
    #: Something must come from the peer at least this often.
    incoming: int = 0
    #: Our header in CONNECTED.
    header: str = "0,0"


def negotiate(header: str | None, floor: int = FLOOR, ceiling: int = 0) -> Beats:
    """What holds after CONNECT with this `heart-beat` header (None: it had none); no `ceiling`: 0.

    We may beat more often than a client asks, so the ceiling holds for ours whatever it says. It need not beat more
    often than it offers, so above the ceiling its own period holds: one that keeps its word is never cut off.

    Raises `ValueError` if it is not two non-negative integers with a comma between.
    """
    if header is None:
        return Beats()
    match = _header.fullmatch(header)
    if match is None:
        raise ValueError("heart-beat must be two non-negative integers (milliseconds) with a comma between")
    theirs_out, theirs_in = (int(number) for number in match.groups())
    ours_out, ours_in = (_offered(theirs, floor, ceiling) for theirs in (theirs_in, theirs_out))
    # The standard's period is the larger of what one side offers and the other wants, 0 if either says 0.
    return Beats(outgoing=ours_out, incoming=max(ours_in, theirs_out), header=f"{ours_out},{ours_in}")


def _offered(theirs: int, floor: int, ceiling: int) -> int:
    """Our number for one of theirs."""
    period = max(theirs, floor) if theirs else 0
    return min(period, ceiling) if ceiling else period


class Heartbeat:
    """Both timers of one connection. No timer is moved when bytes go by: each looks back when it fires.

    `beat` is called when something must be written, `expired` once when the peer has been silent for too long.
    `reading` says whether we read from the peer at all: while we do not, its silence means nothing.
    """

    def __init__(
        self,
        clock: IReactorTime,
        beats: Beats,
        *,
        beat: Callable[[], None],
        expired: Callable[[], None],
        reading: Callable[[], bool],
        grace: float = GRACE,
    ) -> None:
        self._clock = clock
        self._beat = beat
        self._expired = expired
        self._reading = reading
        self._write_within = beats.outgoing * EARLY / 1000
        self._read_within = beats.incoming * grace / 1000
        self._written = self._read = clock.seconds()
        self._stopped = False
        self._calls: dict[str, IDelayedCall] = {}
        if beats.outgoing:
            self._calls["write"] = clock.callLater(self._write_within, self._check_written)
        if beats.incoming:
            self._calls["read"] = clock.callLater(self._read_within, self._check_read)

    def wrote(self) -> None:
        """Something was written."""
        self._written = self._clock.seconds()

    def received(self) -> None:
        """Something was received, or we have only now begun to read again."""
        self._read = self._clock.seconds()

    def stop(self) -> None:
        """No beats, no checks from now on."""
        self._stopped = True
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def _check_written(self) -> None:
        del self._calls["write"]
        left = self._written + self._write_within - self._clock.seconds()
        if left < TICK:
            self._beat()
            self.wrote()
            left = self._write_within
        if not self._stopped:  # writing may end the connection
            self._calls["write"] = self._clock.callLater(left, self._check_written)

    def _check_read(self) -> None:
        del self._calls["read"]
        if not self._reading():
            self.received()
        left = self._read + self._read_within - self._clock.seconds()
        if left < TICK:
            self.stop()
            self._expired()
        else:
            self._calls["read"] = self._clock.callLater(left, self._check_read)
