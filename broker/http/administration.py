"""What administrators ask of the whole broker."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from broker.errors import ConfigError, NothingToReload, NotUpgraded
from broker.http.call import Answer, Call, json
from broker.http.problem import Problem

#: Reads the broker's files again, for whoever is named; what then holds.
Reload = Callable[[str], Awaitable[object]]


#: Has a new process take over, for whoever is named; its id. Raises `NotUpgraded`.
Upgrade = Callable[[str], Awaitable[int]]


async def no_upgrade(asked: str) -> int:
    """Where there is no way to start another process."""
    raise NotUpgraded("it was not started by twistd")


class Administration:
    """``/reload`` and ``/upgrade``. Without a `reload` there is nothing to read."""

    def __init__(self, reload: Reload | None, upgrade: Upgrade) -> None:
        self._reload = reload
        self._upgrade = upgrade

    async def reload(self, call: Call) -> Answer:
        """``POST /reload``: 200 with what has changed; 422 and why, if a file has a mistake and nothing has."""
        if self._reload is None:
            raise NothingToReload
        try:
            return json(200, await self._reload(f"{call.access.user.name} over HTTP"))
        except ConfigError as error:
            raise Problem(422, "bad-configuration", error.reason) from None

    async def upgrade(self, call: Call) -> Answer:
        """``POST /upgrade``: 202 with both processes, once the new one has shown that it could serve; else 409."""
        return json(202, {"from": os.getpid(), "to": await self._upgrade(f"{call.access.user.name} over HTTP")})
