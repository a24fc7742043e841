"""The broker's time: that of the wall clock, but it never goes back.

Leases, delays and expiry are moments of the wall clock, so that a restart keeps them. Were the machine's clock set back
by an hour, a lease of 30 s would last an hour longer. So the broker goes on by the time that has passed, a tenth slower
until the wall clock is there too. When that is set forward, as after a machine has slept, the broker follows at once.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

#: What of the time that passes is given back while we are ahead of the wall clock.
_SLOWER = 0.1
#: Seconds by which the machine's clock must be set before it is worth a line in the log.
_TOLD = 1.0


class Wall:
    """Seconds since 1970. `wall` may jump either way; `steady` counts seconds from anywhere and does not jump."""

    _log = Logger()

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._wall = wall
        self._steady = steady
        self._last = steady()
        self._offset = wall() - self._last
        self._told = 0.0

    def now(self) -> float:
        """The time; never less than it was."""
        wall, steady = self._wall(), self._steady()
        passed, self._last = max(steady - self._last, 0.0), steady
        ahead = steady + self._offset - wall
        if ahead <= 0:
            self._offset -= ahead
            self._told = 0.0
            if ahead < -_TOLD:
                self._log.info("the machine's clock was set forward by {seconds:.0f} s", seconds=-ahead)
            return wall
        self._offset -= min(ahead, passed * _SLOWER)
        if ahead > self._told + _TOLD:
            self._told = ahead
            self._log.warn(
                "the machine's clock was set back: until it is there again, for {seconds:.0f} s, leases, delays and"
                " expiry take a tenth longer",
                seconds=ahead / _SLOWER,
            )
        return steady + self._offset
