"""A session's way out: an `Outbox` that knows when something was written, and what a last word is."""

from __future__ import annotations

from collections.abc import Callable

from broker.outbox import Outbox, Promise, Transport


class SessionOutbox(Outbox):
    """`wrote` is called when something is written: heart-beats are due only in silence."""

    def __init__(self, transport: Transport, relieved: Callable[[], None], wrote: Callable[[], None]) -> None:
        self._wrote = wrote
        super().__init__(transport, relieved)

    def write(self, data: bytes) -> None:
        """Write now, ahead of any promise."""
        if data:
            super().write(data)
            self._wrote()

    def last(self, promise: Promise, reply: bytes) -> bool:
        """Keep `promise` as the last one: what was promised after it is forgotten.

        False if it was forgotten itself, because an earlier one became the last.
        """
        if promise not in self._promises:
            return False
        while self._promises[-1] is not promise:
            self._owed_bytes -= self._promises.pop().size
        promise.keep(reply)
        return True
