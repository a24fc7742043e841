"""What helps to find out why the broker does what it does."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from broker import debug
from broker.debug import Levels
from broker.errors import BadValue
from broker.http.call import Answer, Call, json, text


class Debugging:
    """``/debug``."""

    def __init__(self, levels: Levels, reactor: IReactorTime) -> None:
        self._levels = levels
        self._reactor = reactor

    async def show(self, call: Call) -> Answer:
        """``GET /debug``: from which level on parts are logged."""
        return json(200, {"log": {"level": self._levels.default, "parts": self._levels.parts}})

    async def set_level(self, call: Call) -> Answer:
        """``PUT /debug/log``: from this level on a part is logged; without a part and a level, all as at the start."""
        part, level = call.parameters.text("part"), call.parameters.text("level")
        if level is None:
            raise BadValue(f"level is missing: {', '.join(debug.NAMES)}, or nothing for the one that holds otherwise.")
        asked = f"{call.access.user.name} over HTTP"
        if part or level:
            self._levels.set(part or debug.WHOLE, level, asked)
        else:
            self._levels.clear(asked)
        return await self.show(call)

    async def stack(self, call: Call) -> Answer:
        """``GET /debug/stack``: what every thread is doing now, and what the reactor has planned."""
        return text(200, debug.stack(self._reactor))
