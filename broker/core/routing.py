"""Routing: which queues get a message, and what must go for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from broker.core.binding import Binding
from broker.core.conditions import Subject
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.message import Message
from broker.core.policy import Policy, TopicPolicy
from broker.core.queue import Queue
from broker.core.reader import Lane
from broker.core.route import Route
from broker.core.stats import BrokerStats
from broker.core.unit import Append
from broker.errors import QueueFull

#: Seconds of due times that share a slot's log.
SLOT_SECONDS = 10


class Routing:
    """The ways that messages take."""

    def __init__(self, directory: Directory, stats: BrokerStats) -> None:
        self._directory = directory
        self._stats = stats
        #: Called with a lane that is to be retained from now on.
        self.retained: Callable[[Lane], None] = lambda lane: None

    def route(
        self,
        destination: Destination,
        message: Message,
        policy: Policy | TopicPolicy | None = None,
        *,
        taken: int = 0,
        run: int = 0,
    ) -> Route:
        """Where it goes, and what must go for it; `QueueFull` if its queue has no room and makes none.

        `policy`: what holds there, if that is known. `taken`: it was taken long ago, at this stamp, and comes in now
        whatever its queue holds. `run`: a replay puts it in, into a lane of that number.
        """
        policy = policy or self.policy(destination)
        route = Route(destination, message, message.size)
        if message.key and policy.dedup_window:
            until = (taken or message.stamp) + policy.dedup_window * 1000
            route.until = until if until > message.stamp else 0
        if message.delay:
            return self._delayed(route)
        log = self._directory.log(destination)
        takers: list[Queue] = []
        hidden: list[Queue] = []
        if destination.kind is Kind.QUEUE:
            own = self._own(destination.name)
            if own.policy.fanout_only:
                hidden.append(own)
            elif taken or self._room(own, route):
                takers.append(own)
            elif own.policy.overflow == "drop_new":
                own.counts.discarded += 1
                hidden.append(own)
                route.skipped = (own,)
            else:
                raise no_room(own)
        bound: Mapping[Queue, Binding] = log.bound
        if destination.kind is Kind.TOPIC and not log.id:
            bound = self._directory.bindings.of_patterns(destination)
        if bound:
            skipped = self._skipped(bound, route)
            takers += [queue for queue in bound if queue not in skipped]
            hidden += skipped
            route.skipped += tuple(skipped)
        kept = [queue for queue in takers if queue.policy.durable]
        route.volatile = [queue for queue in takers if not queue.policy.durable]
        retained = bool(policy.retain or policy.retain_bytes)
        if kept or retained:
            for queue in kept:
                queue.room.expect(route.size)
            lane = self._directory.lane(log, message.priority, run)
            if retained and lane.keep < 0:
                self.retained(lane)
            if message.expires and (not lane.expiring or message.expires < lane.expiring):
                lane.expiring = message.expires
            skipped_by = (*hidden, *route.volatile)
            route.append = Append(lane, message, route.size, tuple(kept), skipped_by, message.key, route.until)
        elif not log.id and destination.kind is Kind.TOPIC:
            del self._directory.logs[destination]
        return route

    def _own(self, name: str) -> Queue:
        own = self._directory.find(name)
        if own is None:
            self._stats.queues_created += 1
            own = self._directory.queue(name)
        if not own.id:
            self._directory.use(own)
        return own

    def _room(self, queue: Queue, route: Route) -> bool:
        """True if the queue has, or makes, room for the message."""
        return not queue.room.full_for(route.message) or (
            queue.policy.overflow == "drop_oldest" and route.make_room(queue)
        )

    def _skipped(self, bound: Mapping[Queue, Binding], route: Route) -> list[Queue]:
        """The bound queues whose filter does not match, or that are full."""
        subject = Subject(route.message, route.destination)
        skipped = []
        for queue, binding in bound.items():
            if binding.filter is not None and not binding.filter.matches(subject):
                skipped.append(queue)
            elif not self._room(queue, route):
                queue.counts.discarded += queue.policy.overflow == "drop_new"
                skipped.append(queue)
        return skipped

    def full(self, topic: Destination, message: Message) -> list[str]:
        """`Broker.full`."""
        log = self._directory.logs.get(topic)
        bound: Mapping[Queue, Binding] = log.bound if log is not None else {}
        if topic.kind is Kind.TOPIC and (log is None or not log.id):
            bound = self._directory.bindings.of_patterns(topic)
        subject = Subject(message, topic)
        return sorted(
            queue.name
            for queue, binding in bound.items()
            if queue.policy.overflow != "drop_oldest"
            and queue.room.full_for(message)
            and (binding.filter is None or binding.filter.matches(subject))
        )

    def _delayed(self, route: Route) -> Route:
        destination, message = route.destination, route.message
        slot = Destination(Kind.SLOT, str((message.stamp // 1000 + message.delay) // (SLOT_SECONDS * 1000)))
        message = msgspec.structs.replace(message, target=str(destination))
        lane = self._directory.lane(self._directory.log(slot), 0)
        waits_in = lane.readers[0].queue
        waits_in.room.expect(route.size)
        # Its lane does not tell where it goes to.
        key = f"{destination}\n{message.key}"
        route.append = Append(lane, message, route.size, (waits_in,), (), key, route.until)
        return route

    def policy(self, destination: Destination) -> Policy | TopicPolicy:
        """What holds there."""
        if destination.kind is not Kind.QUEUE:
            return self._directory.topic_policy(destination.name)
        queue = self._directory.queues.get(destination.name)
        return queue.policy if queue is not None else self._directory.policies.of(destination.name)


def no_room(queue: Queue) -> QueueFull:
    """What is said of a publish to a queue that is full."""
    policy = queue.policy
    limit = f"{policy.max_messages} messages" if policy.max_messages else f"{policy.most_bytes} bytes"
    return QueueFull(f"queue {queue.name} holds {limit}, its limit")
