"""The ration: what all queues of a broker together may look at in vain in one reactor turn.

What has expired, waits for a busy group or is not wanted by a selector is passed over on the way to what can be
delivered, however much of it there is. The ration keeps that from holding up the reactor; the rest is looked at in
later turns.
"""

from __future__ import annotations

from collections.abc import Callable

#: Messages of a turn, and bytes of them (one message, if it is larger). Half of what a turn may handle, 1,000 and
#: 256 KiB, because stored messages are decoded a batch at a time, a little ahead of where they are looked at.
MAX_MESSAGES = 500
MAX_BYTES = 128 * 1024


class Ration:
    """What is left of it."""

    __slots__ = ("_bytes", "_messages", "exhausted", "over")

    def __init__(self) -> None:
        self._messages = self._bytes = 0
        #: True since somebody was refused.
        self.over = False
        #: Called when somebody is refused: it is time for a new one, in the next turn.
        self.exhausted: Callable[[], None] = lambda: None

    def take(self, size: int) -> bool:
        """Look at a message of so many bytes; False: not in this turn."""
        if self._messages >= MAX_MESSAGES or (self._messages and self._bytes + size > MAX_BYTES):
            self.over = True
            self.exhausted()
            return False
        self._messages += 1
        self._bytes += size
        return True

    def renew(self) -> None:
        """A reactor turn begins."""
        self._messages = self._bytes = 0
        self.over = False
