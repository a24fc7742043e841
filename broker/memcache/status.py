"""Kestrel's server status: what memcache clients may do at the moment, as an operator says."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.memcache.commands import Level
from broker.memcache.voice import Blocked


class ServerStatus:
    """The status of all memcache listeners together. A stricter one is told at once, and holds after `grace` seconds.

    While it is waited for, a further stricter one is ignored; a less strict one ends the wait and holds at once.
    """

    def __init__(self, clock: IReactorTime, grace: float = 0.0) -> None:
        self._clock = clock
        self._grace = grace
        #: What is told.
        self.level = Level.UP
        self._enforced = Level.UP
        self._call: IDelayedCall | None = None

    def change(self, level: Level) -> None:
        """An operator says so."""
        if level.value <= self.level.value:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            self._enforce(level)
        elif self._call is None:
            self.level = level
            if self._grace:
                self._call = self._clock.callLater(self._grace, self._over)
            else:
                self._enforce(level)

    def stop(self) -> None:
        """The broker stops: nothing is waited for any more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def check_write(self) -> None:
        """Raise `Blocked` where nothing may be stored, deleted or flushed."""
        if self._enforced.value >= Level.READONLY.value:
            raise Blocked(f"the server's status is {self._enforced.name}")

    def check_read(self) -> None:
        """Raise `Blocked` where nothing may be read."""
        if self._enforced.value >= Level.QUIESCENT.value:
            raise Blocked(f"the server's status is {self._enforced.name}")

    def _over(self) -> None:
        self._call = None
        self._enforce(self.level)

    def _enforce(self, level: Level) -> None:
        self.level = self._enforced = level
