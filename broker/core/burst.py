"""Bursts: what one producer says in one breath to one queue, or to a topic's live subscribers, put in together.

Most messages are plain: they go to one queue that has room for everything, and nothing is wished for them. A route, an
answer and a Deferred for each of them takes 16 us; as a burst they take 2, and ride in the same commit as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import attrs
import msgspec

from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.core.patterns import is_pattern
from broker.core.topic import Live
from broker.core.unit import Together, Unit
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.core.publishing import Publishing
    from broker.core.reader import Reader

#: Is told that messages are on disk, or why they are not.
Told = Callable[[BrokerError | None], None]
#: Messages that a burst holds at most; a further one begins the next.
MAX_MESSAGES = 256


@attrs.define(eq=False)
class Burst:
    """Messages for one destination, in order: `add` them and `put` them in, both in one reactor turn."""

    #: Bytes of memory that it holds at most; one message may have more.
    MOST: ClassVar[int] = 1024 * 1024

    _publishing: Publishing
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

    def put(self, told: Told) -> None:
        """Put them in; `told` is called once they are on disk, or with why they are not. It must not raise."""
        raise NotImplementedError

    @property
    def first(self) -> int:
        """The delivery id of the first one, once they are on disk; the others have those that follow.

        0: it has none: the queue was deleted meanwhile, or it was published to a topic.
        """
        raise NotImplementedError

    def _stamped(self) -> list[Message]:
        messages = self.messages
        stamp = self._publishing.stamps(len(messages))
        for place, message in enumerate(messages):
            if message.stamp:  # somebody else's, by now
                messages[place] = msgspec.structs.replace(message, stamp=stamp + place)
            else:
                msgspec.structs.force_setattr(message, "stamp", stamp + place)
        return messages


@attrs.define(eq=False)
class _Stored(Burst):
    """For a queue that nothing else depends on."""

    _reader: Reader
    #: That of the first one, once it has one. The unit itself knows the burst: two that know each other would wait for
    #: the garbage collector.
    _numbers: list[int] = attrs.field(init=False)

    def put(self, told: Told) -> None:
        """See `Burst.put`."""
        messages = self._stamped()
        self._reader.queue.room.expect(self.size, len(messages))
        together = Together(self._reader.lane, messages, self.size)
        unit = Unit([], self.size, together=together, ended=self._ended, told=told)
        self._numbers = unit.numbers
        self._publishing.put(unit)

    def _ended(self, committed: bool) -> None:
        queue = self._reader.queue
        queue.room.expected(self.size, len(self.messages))
        if committed:
            queue.counts.published += len(self.messages)
            if self.first:
                self._publishing.count(queue.destination, len(self.messages), self.bodies)

    @property
    def first(self) -> int:
        """See `Burst.first`."""
        (seq,) = self._numbers
        return 0 if seq < 0 else self._reader.delivery_id(seq)


@attrs.define(eq=False)
class _Told(Burst):
    """For a topic that has no log: its live subscribers are told, and that is all."""

    #: Each of them gets a copy, and may not be reading.
    MOST: ClassVar[int] = 64 * 1024

    _topic: Destination

    def put(self, told: Told) -> None:
        """See `Burst.put`."""
        publishing, topic = self._publishing, self._topic
        publishing.offer(topic, [Live(message, publishing.live_id(), topic) for message in self._stamped()])
        publishing.count(topic, len(self.messages), self.bodies)
        told(None)

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
    queue, log = directory.queues.get(destination.name), directory.logs.get(destination)
    if queue is None or log is None or log.bound or log.ownerless or not queue.id or directory.is_alias(destination):
        return None
    policy, lane = queue.policy, log.lanes.get((0, 0))
    kept = policy.retain or policy.retain_bytes or not policy.durable or policy.fanout_only
    limited = policy.max_messages or policy.most_bytes or policy.delay
    if kept or limited or lane is None or len(lane.readers) != 1 or lane.readers[0].queue is not queue:
        return None
    return _Stored(publishing, policy.max_message_size, lane.readers[0])


def _of_topic(publishing: Publishing, topic: Destination) -> Burst | None:
    directory = publishing.directory
    policy = directory.topic_policy(topic.name)
    if topic in directory.logs or policy.retain or policy.retain_bytes or is_pattern(topic.name):
        return None
    if directory.bindings.of_patterns(topic):
        return None
    return _Told(publishing, policy.max_message_size, topic)
