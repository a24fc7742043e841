"""What holds for a queue or topic, key by key, and which section of the configuration says so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from broker.core.destination import Destination, Kind, queue, topic
from broker.core.policy import Policies, Policy, Ruled, TopicPolicy

Explained = dict[str, "Value"]


class Value(msgspec.Struct, frozen=True):
    """What a key is, and where that comes from."""

    key: str
    value: Any
    #: ``defaults`` or ``queue."orders.*"``; empty: it is built in.
    section: str

    @property
    def path(self) -> str:
        """The key as an error names it."""
        return f"{self.section}.{self.key}".lstrip(".")


def section(table: str, name: str) -> str:
    """How a section is named in errors; also one whose name holds a quote or a line's end is one line."""
    return f"{table}.{msgspec.json.encode(name).decode()}"


def destination_of(text: str) -> Destination:
    """The destination somebody means: ``orders`` and ``/queue/orders`` a queue, ``/topic/x`` a topic. `BadName`."""
    if text.startswith("/topic/"):
        return topic(text.removeprefix("/topic/"))
    return queue(text.removeprefix("/queue/"))


def defaults(policies: Policies, said: Collection[str]) -> Explained:
    """What holds for a queue that no section speaks of; `said` has the keys of ``[defaults]``, with that in front."""
    return {
        key: Value(key, value, "defaults" if f"defaults.{key}" in said else "")
        for key, value in msgspec.structs.asdict(policies.default).items()
    }


def explained(policies: Policies, said: Collection[str], destination: Destination) -> Explained:
    """What holds for a queue or topic."""
    if destination.kind is Kind.TOPIC:
        # what the defaults of queues say of topics too
        size = "defaults" if "defaults.max_message_size" in said else ""
        found = {
            key: Value(key, value, size if key == "max_message_size" else "")
            for key, value in msgspec.structs.asdict(policies.topics.default).items()
        }
        return found | _spoken(policies.topics, destination)
    return defaults(policies, said) | _spoken(policies.queues, destination)


def _spoken(ruled: Ruled[Policy] | Ruled[TopicPolicy], destination: Destination) -> Explained:
    found: Explained = {}
    for rule in ruled.speaking(destination.name):
        where = section(destination.kind.value, rule.pattern)
        found |= {key: Value(key, value, where) for key, value in rule.says.items()}
    return found
