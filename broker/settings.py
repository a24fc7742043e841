"""What was configured over HTTP while the broker ran: in a small file beside the data, so that a restart knows it.

The file is JSON: ``{"queue": {"orders": {"ttl": 1000}}, "topic": {...}}``, replaced whole and synced before anybody is
told. The configuration file is never written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread

from broker import config_check
from broker.core.destination import Destination, Kind
from broker.core.policy import Policy, TopicPolicy
from broker.errors import ConfigError

Said = dict[Destination, dict[str, Any]]
_TYPES: Mapping[Kind, type[Policy] | type[TopicPolicy]] = {Kind.QUEUE: Policy, Kind.TOPIC: TopicPolicy}


class Settings:
    """The file; without a path they are forgotten when the broker ends."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def load(self) -> Said:
        """What was said; raises `ConfigError` for a file that cannot be read or understood."""
        if self.path is None or not os.path.exists(self.path):
            return {}
        try:
            with open(self.path, "rb") as file:
                tables = msgspec.json.decode(file.read(), type=dict[str, dict[str, dict[str, Any]]])
            return {
                Destination(Kind(table), name): checked(Destination(Kind(table), name), keys)
                for table, named in tables.items()
                for name, keys in named.items()
            }
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path}: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error.reason}") from None

    def save(self, said: Mapping[Destination, Mapping[str, Any]]) -> Deferred[None]:
        """Keep this instead; fires once it is on disk."""
        if self.path is None:
            return succeed(None)
        tables: dict[str, dict[str, Any]] = {}
        for destination, keys in sorted(said.items(), key=lambda one: str(one[0])):
            tables.setdefault(destination.kind.value, {})[destination.name] = dict(keys)
        return deferToThread(_replace, self.path, msgspec.json.format(msgspec.json.encode(tables)) + b"\n")


def checked(destination: Destination, keys: Mapping[str, Any]) -> dict[str, Any]:
    """`keys` as the values of a policy; raises `ConfigError`, which names the key."""
    path = f"{destination.kind.value}.{destination.name}"
    try:
        policy = msgspec.convert(dict(keys), _TYPES[destination.kind])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    if set("*?") & set(destination.name):
        raise ConfigError(f"{path}: a name with * or ? is a pattern; patterns stand in the configuration file")
    config_check.values(policy, path)
    return {key: getattr(policy, key) for key in keys}


def _replace(path: str, content: bytes) -> None:
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
