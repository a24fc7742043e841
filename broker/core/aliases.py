"""Aliases: names of queues that stand for others, and hold nothing themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from broker.core.destination import Destination, Kind


class Aliases:
    """What each alias stands for. ``in``: what is published there goes elsewhere, and nothing can be read."""

    def __init__(self, said: Mapping[str, tuple[Destination, ...]]) -> None:
        self._targets = {name: tuple(_targets(name, said)) for name in said}

    def __contains__(self, destination: Destination) -> bool:
        return destination.kind is Kind.QUEUE and destination.name in self._targets

    @property
    def names(self) -> Collection[str]:
        """Of all of them."""
        return self._targets.keys()

    def targets(self, destination: Destination) -> tuple[Destination, ...]:
        """Where a publish to `destination` goes: there, unless it is an alias."""
        return self._targets[destination.name] if destination in self else (destination,)


def _targets(alias: str, aliases: Mapping[str, tuple[Destination, ...]]) -> dict[Destination, None]:
    """What an alias stands for in the end, each once; one that leads back to itself stands for nothing by that."""
    found: dict[Destination, None] = {}
    seen, ahead = {alias}, list(reversed(aliases[alias]))
    while ahead:
        target = ahead.pop()
        if target.kind is not Kind.QUEUE or target.name not in aliases:
            found[target] = None
        elif target.name not in seen:
            seen.add(target.name)
            ahead += reversed(aliases[target.name])
    return found
