"""How fast a queue delivers."""

from __future__ import annotations


class Rate:
    """So many deliveries a second, up to a second's worth at once."""

    __slots__ = ("_allowed", "_allowed_at", "resting_until")

    def __init__(self) -> None:
        #: Until when nothing is delivered (us).
        self.resting_until = 0
        self._allowed = 0.0
        self._allowed_at = 0

    def allows(self, rate: int, now: int) -> bool:
        """True if `rate` allows a delivery now (us), which is then made; else `resting_until` says when it will."""
        if now != self._allowed_at:
            gained = (now - self._allowed_at) * rate / 1e6 if now > self._allowed_at else 0.0
            self._allowed = min(self._allowed + gained, rate)
            self._allowed_at = now
        if self._allowed < 1:
            self.resting_until = now + int((1 - self._allowed) * 1e6 / rate) + 1
            return False
        self._allowed -= 1
        return True
