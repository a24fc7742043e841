"""Kestrel's blocks: what ``dump_stats`` and ``dump_config`` say of each queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from broker.core.policy import Policy
from broker.memcache import stats

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory


def block(name: str, values: Mapping[str, object]) -> bytes:
    """``queue '<name>' {``, a line for each value, ``}``."""
    lines = "".join(f"  {key}={value}\r\n" for key, value in values.items()) or "  \r\n"
    return f"queue '{name}' {{\r\n{lines}}}\r\n".encode()


def numbers(of: MemcacheFactory, name: str) -> dict[str, object]:
    """What is known of a queue; nothing of one that is not there."""
    return dict(stats.of_queue(of, name)) if of.broker.exists(name) else {}


def policy(of: Policy) -> dict[str, object]:
    """What a policy says, as it stands in a configuration file."""
    return {key: _shown(value) for key, value in msgspec.structs.asdict(of).items()}


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
