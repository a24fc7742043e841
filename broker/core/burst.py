"""Bursts: what one producer says to one queue in one breath, put in together.

Most messages are plain: they go to one queue that has room for everything, and nothing is wished for them. A route, an
answer and a Deferred for each of them takes 16 us; as a burst they take 2, and ride in the same commit as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import msgspec
from twisted.internet.defer import Deferred

from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.core.unit import Together, Unit

if TYPE_CHECKING:
    from broker.core.publishing import Publishing
    from broker.core.reader import Reader

#: What a burst holds at most; a further message begins the next one.
MAX_MESSAGES = 256
MAX_BYTES = 1024 * 1024


@attrs.define(eq=False)
class Burst:
    """Messages for one queue, in order: `add` them and `put` them in, both in one reactor turn."""

    _publishing: Publishing
    _reader: Reader
    _most: int
    messages: list[Message] = attrs.field(factory=list)
    #: Bytes of memory that they are counted with, and of their bodies alone.
    size: int = 0
    _bodies: int = 0

    def takes(self, message: Message) -> bool:
        """True if it may be added; False if it must be published by itself, or the burst is full."""
        if message.key or message.ttl or message.expires or message.delay or message.priority:
            return False
        if self._most and len(message.body) > self._most:
            return False
        return not self.messages or (len(self.messages) < MAX_MESSAGES and self.size + message.size <= MAX_BYTES)

    def add(self, message: Message) -> None:
        """One more; `takes` was asked."""
        self.messages.append(message)
        self.size += message.size
        self._bodies += len(message.body)

    def put(self) -> Deferred[int]:
        """Fires with the delivery id of the first one once they are on disk; the others have those that follow.

        0: the queue was deleted meanwhile. Fails as a publish does.
        """
        publishing, messages = self._publishing, self.messages
        stamp = publishing.stamps(len(messages))
        for place, message in enumerate(messages):
            if message.stamp:  # somebody else's, by now
                messages[place] = msgspec.structs.replace(message, stamp=stamp + place)
            else:
                msgspec.structs.force_setattr(message, "stamp", stamp + place)
        queue = self._reader.queue
        queue.room.expect(self.size, len(messages))
        unit = Unit([], self.size, together=Together(self._reader.lane, messages, self.size), ended=self._ended)
        return publishing.append(unit).addCallback(self._told)

    def _ended(self, committed: bool) -> None:
        queue = self._reader.queue
        queue.room.expected(self.size, len(self.messages))
        if committed:
            queue.counts.published += len(self.messages)

    def _told(self, numbers: list[int]) -> int:
        (seq,) = numbers
        if seq < 0:
            return 0
        self._publishing.count(len(self.messages), self._bodies)
        return self._reader.delivery_id(seq)


def burst(publishing: Publishing, destination: Destination) -> Burst | None:
    """A burst for `destination`; None if what goes there must be published one by one, because more depends on it."""
    if destination.kind is not Kind.QUEUE or publishing.stopping:
        return None
    directory = publishing.directory
    queue, log = directory.queues.get(destination.name), directory.logs.get(destination)
    if queue is None or log is None or log.bound or log.ownerless or not queue.id or directory.is_alias(destination):
        return None
    policy, lane = queue.policy, log.lanes.get((0, 0))
    kept = policy.retain or policy.retain_bytes or not policy.durable or policy.fanout_only
    limited = policy.max_messages or policy.most_bytes or policy.delay
    if kept or limited or lane is None or len(lane.readers) != 1 or lane.readers[0].queue is not queue:
        return None
    return Burst(publishing, lane.readers[0], policy.max_message_size)
