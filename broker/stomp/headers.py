"""Single headers of frames, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.stomp.errors import Refused

_MAX_RANK = 2**31 - 1

_number = re.compile(r"[0-9]{1,20}", re.ASCII)
_integer = re.compile(r"-?[0-9]{1,10}", re.ASCII)


def needed(headers: Mapping[str, str], name: str) -> str:
    """Header `name`, which must be there. Raises `Refused`."""
    value = headers.get(name)
    if value is None:
        raise Refused(f"Missing {name}", f"the frame needs a header {name}")
    return value


def flag(headers: Mapping[str, str], name: str) -> bool:
    """True if header `name` says yes."""
    return headers.get(name, "").lower() == "true"


def number(headers: Mapping[str, str], name: str, limit: int) -> int | None:
    """Header `name` as a count from 0 to `limit`; None if it is not there. Raises `Refused`."""
    text = headers.get(name)
    if text is None:
        return None
    value = int(text) if _number.fullmatch(text) else -1
    if not 0 <= value <= limit:
        raise Refused("Invalid header", f"{name} must be a number from 0 to {limit}")
    return value


def rank(headers: Mapping[str, str]) -> int:
    """The priority of a subscription, the higher the earlier it is served; 0 if it says none. Raises `Refused`."""
    for name in ("activemq.priority", "x-priority"):
        text = headers.get(name)
        if text is not None:
            value = int(text) if _integer.fullmatch(text) else _MAX_RANK + 1
            if abs(value) > _MAX_RANK:
                raise Refused("Invalid header", f"{name} must be a whole number of at most 32 bits")
            return value
    return 0
