"""Messages by their id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker.core.broker import Broker
from broker.errors import NotFound
from broker.http.call import Answer, Call
from broker.http.problem import Problem


class Messages:
    """Everything under ``/messages``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def settle(self, call: Call) -> Answer:
        """``DELETE /messages/N``: by anyone, in any state; 204 once that is committed."""
        with _known():
            await self._broker.settle(call.match.message)
        return Answer(204)

    async def touch(self, call: Call) -> Answer:
        """``POST /messages/N/touch``: its lease begins anew; a message that waits is hidden for one."""
        with _known():
            await self._broker.touch(call.match.message)
        return Answer(204)


@contextmanager
def _known() -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise Problem(404, "not-found", "Message not found.", silent=True) from None
