"""Bursts: what one producer says in one breath to one queue, or to a topic's live subscribers, put in together.

Most messages are plain: they go to one queue that has room for everything, and nothing is wished for them. A route, an
answer and a Deferred for each of them takes 16 us; as a burst they take 2, and ride in the same commit as before.
Bursts for several queues that come together share a unit and an answer: another 4 us less for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import attrs
import msgspec

from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.core.patterns import is_pattern
from broker.core.topic import Live
from broker.core.unit import Unit
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.core.publishing import Publishing
    from broker.core.reader import Lane, Reader
    from broker.core.unit import Together

#: Is told that messages are on disk, or why they are not.
Told = Callable[[BrokerError | None], None]
#: Messages that a burst holds at most; a further one begins the next.
MAX_MESSAGES = 256
#: The lane of a log for messages without a priority, that no replay put in.
_ORDINARY = (0, 0)


@attrs.define(eq=False)
class Burst:
    """Messages for one destination, in order: `add` them and `put` them in, both in one reactor turn."""

    #: Bytes of memory that it holds at most; one message may have more.
    MOST: ClassVar[int] = 1024 * 1024
    #: True if it is put in by itself.
    alone: ClassVar[bool] = False

    publishing: Publishing
    #: Bytes that a body may have; 0: any number.
    _most: int
    messages: list[Message] = attrs.field(factory=list, init=False)
    #: Bytes of memory that they are counted with, and of their bodies alone.
    size: int = attrs.field(default=0, init=False)
    bodies: int = attrs.field(default=0, init=False)

    def takes(self, message: Message) -> bool:
        """True if it may be added; False if it must be published by itself, or the burst is full."""
        if message.key or message.ttl or message.expires or message.delay or message.priority:
            return False
        if self._most and len(message.body) > self._most:
            return False
        return not self.messages or (len(self.messages) < MAX_MESSAGES and self.size + message.size <= self.MOST)

    def add(self, message: Message) -> None:
        """One more; `takes` was asked."""
        self.messages.append(message)
        self.size += message.size
        self.bodies += len(message.body)

    def begin(self, stamp: int) -> Together | None:
        """They are put in now, stamped from `stamp` on; what is to be stored for that, if anything is."""
        raise NotImplementedError

    @property
    def first(self) -> int:
        """The delivery id of the first one, once they are on disk; the others have those that follow.

        0: it has none: the queue was deleted meanwhile, or it was published to a topic.
        """
        raise NotImplementedError

    def _stamped(self, stamp: int) -> list[Message]:
        messages = self.messages
        for place, message in enumerate(messages):
            if message.stamp:  # somebody else's, by now
                messages[place] = msgspec.structs.replace(message, stamp=stamp + place)
            else:
                msgspec.structs.force_setattr(message, "stamp", stamp + place)
        return messages


def put(bursts: Sequence[Burst], told: Told) -> None:
    """Put them in, all or nothing: `told` is called once all are on disk, or with why none is. It must not raise.

    One that is `alone` comes alone.
    """
    publishing = bursts[0].publishing
    stamp = publishing.stamps(sum([len(burst.messages) for burst in bursts]))
    parts, size = [], 0
    for burst in bursts:
        part = burst.begin(stamp)
        if part is not None:
            parts.append(part)
        stamp += len(burst.messages)
        size += burst.size
    if parts:
        # The unit knows its parts, and they do not know it: two that know each other wait for the garbage collector.
        publishing.put(Unit([], size, parts=parts, ended=partial(_ended, parts), told=told))
    else:
        told(None)


def _ended(parts: Iterable[Together], committed: bool) -> None:
    for part in parts:
        part.ended(committed)


@attrs.define(eq=False)
class _Stored(Burst):
    """For a queue that nothing else depends on."""

    _reader: Reader
    lane: Lane
    #: The number of the first one, once it has one; -1: its queue was deleted meanwhile.
    number: int = attrs.field(default=-1, init=False)

    def begin(self, stamp: int) -> Together:
        """See `Burst.begin`."""
        self._reader.queue.room.expect(self.size, len(self._stamped(stamp)))
        return self

    def ended(self, committed: bool) -> None:
        """It has an outcome."""
        queue, count = self._reader.queue, len(self.messages)
        queue.room.expected(self.size, count)
        if committed:
            queue.counts.published += count
            if self.number >= 0:
                self.publishing.count(queue.destination, count, self.bodies)

    @property
    def first(self) -> int:
        """See `Burst.first`."""
        return 0 if self.number < 0 else self._reader.delivery_id(self.number)


@attrs.define(eq=False)
class _Told(Burst):
    """For a topic that has no log: its live subscribers are told, and that is all."""

    #: Each of them gets a copy, and may not be reading.
    MOST: ClassVar[int] = 64 * 1024
    #: Nobody takes it back, should another not be stored.
    alone: ClassVar[bool] = True

    _topic: Destination

    def begin(self, stamp: int) -> None:
        """See `Burst.begin`."""
        publishing, topic = self.publishing, self._topic
        publishing.offer(topic, [Live(message, publishing.live_id(), topic) for message in self._stamped(stamp)])
        publishing.count(topic, len(self.messages), self.bodies)

    @property
    def first(self) -> int:
        """See `Burst.first`."""
        return 0


def burst(publishing: Publishing, destination: Destination) -> Burst | None:
    """A burst for `destination`; None if what goes there must be published one by one, because more depends on it."""
    if publishing.stopping:
        return None
    if destination.kind is Kind.TOPIC:
        return _of_topic(publishing, destination)
    directory = publishing.directory
    log = directory.logs.get(destination)
    if log is None or log.bound or log.ownerless or destination in directory.aliases:
        return None
    lane = log.lanes.get(_ORDINARY)
    if lane is None or len(lane.readers) != 1:
        return None
    (reader,) = lane.readers
    policy = reader.queue.policy
    kept = policy.retain or policy.retain_bytes or not policy.durable or policy.fanout_only
    if kept or policy.max_messages or policy.most_bytes or policy.delay or not reader.own or not reader.queue.id:
        return None
    return _Stored(publishing, policy.max_message_size, reader, lane)


def _of_topic(publishing: Publishing, topic: Destination) -> Burst | None:
    directory = publishing.directory
    policy = directory.topic_policy(topic.name)
    if topic in directory.logs or policy.retain or policy.retain_bytes or is_pattern(topic.name):
        return None
    if directory.bindings.of_patterns(topic):
        return None
    return _Told(publishing, policy.max_message_size, topic)
