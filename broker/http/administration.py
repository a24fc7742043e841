"""What administrators ask of the whole broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.errors import ConfigError, NothingToReload
from broker.http.call import Answer, Call, json
from broker.http.problem import Problem

#: Reads the broker's files again, for whoever is named; what then holds.
Reload = Callable[[str], Awaitable[object]]


class Administration:
    """``/reload``. Without a `reload` there is nothing to read."""

    def __init__(self, reload: Reload | None) -> None:
        self._reload = reload

    async def reload(self, call: Call) -> Answer:
        """``POST /reload``: 200 with what has changed; 422 and why, if a file has a mistake and nothing has."""
        if self._reload is None:
            raise NothingToReload
        try:
            return json(200, await self._reload(f"{call.access.user.name} over HTTP"))
        except ConfigError as error:
            raise Problem(422, "bad-configuration", error.reason) from None
