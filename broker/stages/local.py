"""A broker's queues in memory, for `Pipeline.drain`: what a flow does, without a server and without waiting.

Outputs and acks become true together, as by ``/commit``. Time is not waited for: what is delayed comes when nothing
else is there, the soonest first.
"""

from __future__ import annotations

import base64
import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec

from broker.stages.event import Event, attributes_of, event_of
from broker.stages.run import in_this_thread, units
from broker.stages.settle import Unit, Who
from broker.stages.stage import Stage
from broker.stages.wire import Loan

#: Times an input may be given back before a flow that never ends is given up.
MOST_RETURNS = 1_000

Matches = Callable[[Event], bool]


def matching(match: str) -> Matches:
    """What a filter says of events, as the broker reads it."""
    if not match:
        return lambda event: True
    from broker.core.conditions import Subject
    from broker.core.destination import queue, topic
    from broker.core.filter import compile_filter
    from broker.core.message import Message

    matches = compile_filter(match).matches

    def asked(event: Event) -> bool:
        headers = {**event.headers, **{f"ce-{name}": value for name, value in attributes_of(event).items()}}
        name = event.channel.removeprefix("topic:")
        source = queue(name) if name == event.channel else topic(name)
        return matches(Subject(Message(body=event.raw, headers=headers, content_type=event.content_type), source))

    return asked


@attrs.define(eq=False)
class _Message:
    id: int
    event: Event
    #: When it may be delivered, in seconds that nobody waits.
    due: float = 0
    attempts: int = 0
    returns: int = 0

    @property
    def place(self) -> tuple[float, int, int]:
        return self.due, self.event.priority, self.id


class Local:
    """All channels."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._channels: dict[str, list[tuple[tuple[float, int, int], _Message]]] = {}
        #: Channels of their own that stages read, with what they are bound to: (source, filter).
        self._bound: dict[str, list[tuple[str, Matches]]] = {}
        self._on_loan: dict[int, _Message] = {}
        self._now = 0.0

    def bind(self, channel: str, source: str, matches: Matches) -> None:
        """What comes to `source` comes to `channel` too, if it matches."""
        self._bound.setdefault(source, []).append((channel, matches))

    def publish(self, event: Event) -> None:
        """Put an event into its channel, and into those that are bound to it."""
        for channel, matches in self._bound.get(event.channel, []):
            if matches(event):
                self._put(channel, event)
        if not event.channel.startswith("topic:"):
            self._put(event.channel, event)

    def waiting(self, channel: str) -> list[Event]:
        """What is in a channel, in order."""
        return [message.event for _, message in sorted(self._channels.get(channel, []), key=lambda one: one[0])]

    def take(self, stage: Stage) -> list[Loan]:
        """The next inputs of a stage."""
        for channel in stage.channels:
            queue = self._channels.get(channel, [])
            taken: list[Loan] = []
            while queue and queue[0][1].due <= self._now and len(taken) < stage.batch:
                message = heapq.heappop(queue)[1]
                self._on_loan[message.id] = message
                event = attrs.evolve(message.event, channel=channel, attempt=message.attempts + 1, delay=0)
                taken.append(Loan(message.id, str(message.id), event, stage.lease))
            if taken:
                return taken
        return []

    def hurry(self) -> bool:
        """Let time go on to when the next delayed message is due; False if there is none."""
        later = [queue[0][1].due for queue in self._channels.values() if queue and queue[0][1].due > self._now]
        self._now = min(later, default=self._now)
        return bool(later)

    def commit(self, unit: Unit) -> None:
        """Make a unit true."""
        for op in unit.ops:
            for kind, said in op.items():
                if kind == "publish":
                    self.publish(_published(msgspec.json.decode(msgspec.json.encode(said))))
                    continue
                message = self._on_loan.pop(said["id"])
                if kind == "nack" and not said.get("dead"):
                    self._back(message, said)

    def _back(self, message: _Message, said: Mapping[str, Any]) -> None:
        message.returns += 1
        if message.returns > MOST_RETURNS:
            raise RuntimeError(f"{message.event.channel}: {message.event.id} was given back {MOST_RETURNS} times")
        message.attempts += not said.get("free")
        message.due = self._now + said.get("delay", 0)
        heapq.heappush(self._channels[message.event.channel], (message.place, message))

    def _put(self, channel: str, event: Event) -> None:
        event = attrs.evolve(event, channel=channel)
        message = _Message(next(self._ids), event, self._now + event.delay)
        heapq.heappush(self._channels.setdefault(channel, []), (message.place, message))


def drain(local: Local, stages: list[Stage], who: Who) -> None:
    """Run stages until nothing is left for them."""
    working = True
    while working or local.hurry():
        working = False
        for stage in stages:
            while loans := local.take(stage):
                working = True
                for unit in units(stage, loans, who, in_this_thread):
                    local.commit(unit)


def _published(said: dict[str, Any]) -> Event:
    """What the broker would make of an operation."""
    event = dict(said["event"])
    kind = event.pop("datacontenttype", "")
    data, coded = event.pop("data", None), event.pop("data_base64", None)
    if coded is not None:
        raw = base64.b64decode(coded)
    else:
        raw = data.encode() if isinstance(data, str) and "json" not in kind else msgspec.json.encode(data)
    return event_of(
        {name: str(value) for name, value in event.items()},
        raw,
        kind,
        headers=said.get("headers", {}),
        channel=said.get("channel") or f"topic:{said['topic']}",
        priority=said.get("priority", 0),
        group=said.get("group", ""),
        delay=said.get("delay", 0),
    )
