"""Turns: one at a time does something that waits."""

from __future__ import annotations

from twisted.internet.defer import DeferredLock


class Turn:
    """``async with turn``: nobody else is in such a block of this turn.

    A coroutine that is thrown away in its block, with its whole broker, does not call the next one: that is thrown away
    too, and Python refuses to run what it is about to close.
    """

    def __init__(self) -> None:
        self._lock = DeferredLock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GeneratorExit:
            self._lock.release()
