"""Publishes that wait for room in a full queue (``overflow = "wait"``), in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.route import Published
from broker.errors import BrokerError, QueueFull, Stopping

#: Seconds a publish waits at most: clients give up after a minute at the latest, and should hear why before.
PATIENCE = 30.0
#: Bytes of all that wait. Beyond it a further publish is refused at once.
MAX_BYTES = 32 * 1024 * 1024


@attrs.define(eq=False)
class _Waiting:
    message: Message
    done: Deferred[Published]
    timer: IDelayedCall


class Waiting:
    """The publishes that wait, by queue."""

    def __init__(self, clock: IReactorTime, publish: Callable[[Queue, Message], Deferred[Published]]) -> None:
        self._clock = clock
        self._publish = publish
        self._queues: dict[Queue, deque[_Waiting]] = {}
        self._bytes = 0

    def __contains__(self, queue: Queue) -> bool:
        return queue in self._queues

    def wait(self, queue: Queue, message: Message) -> Deferred[Published]:
        """Publish when there is room; fails with `QueueFull` if there is none in time."""
        if self._bytes + message.size > MAX_BYTES:
            raise QueueFull(f"{queue.name} is full, and too many publishes wait for room already")
        done: Deferred[Published] = Deferred()
        waiting = self._queues.setdefault(queue, deque())
        timer = self._clock.callLater(PATIENCE, self._too_late, queue)
        waiting.append(_Waiting(message, done, timer))
        self._bytes += message.size
        return done

    def room(self) -> None:
        """There may be room somewhere."""
        for queue in list(self._queues):
            waiting = self._queues.get(queue, deque())
            while waiting and not queue.room.full_for(waiting[0].message):
                first = self._take(queue)
                try:
                    published = self._publish(queue, first.message)
                except BrokerError as error:
                    first.done.errback(error)
                else:
                    _ = published.chainDeferred(first.done)

    def stop(self) -> None:
        """Nobody waits any longer."""
        for queue in list(self._queues):
            while queue in self._queues:
                self._take(queue).done.errback(Stopping("the broker is stopping"))

    def _too_late(self, queue: Queue) -> None:
        # The oldest of a queue is always the first whose time is over.
        self._take(queue).done.errback(QueueFull(f"{queue.name} was full for {PATIENCE:.0f} s"))

    def withdraw(self, done: Deferred[Published]) -> None:
        """Whoever was given `done` waits no longer: it fails, unless what he published is on its way to the disk."""
        for queue, waiting in list(self._queues.items()):
            for one in [one for one in waiting if one.done is done]:
                waiting.remove(one)
                one.timer.cancel()
                self._bytes -= one.message.size
                if not waiting:
                    del self._queues[queue]
                done.errback(Stopping(f"{queue.name} was full for as long as anybody waited"))

    def _take(self, queue: Queue) -> _Waiting:
        waiting = self._queues[queue]
        first = waiting.popleft()
        if first.timer.active():
            first.timer.cancel()
        self._bytes -= first.message.size
        if not waiting:
            del self._queues[queue]
        return first
