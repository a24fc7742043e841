"""Publishing: where a message goes, and what its producer is told. Every message that enters a log comes here."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import msgspec
from twisted.internet.defer import Deferred, succeed

from broker.core.conditions import Subject
from broker.core.consumers import Subscription
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory, Log
from broker.core.journal import Append, Journal, Unit
from broker.core.message import Message
from broker.core.policy import Policy
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.stats import BrokerStats
from broker.core.topic import offer
from broker.errors import MessageTooLarge, QueueFull, Stopping

#: Seconds of due times that share a slot's log.
SLOT_SECONDS = 10


@attrs.define(eq=False, frozen=True)
class Published:
    """What became of a publish."""

    #: The message's id, the same for every reader; ``live.<start>.<n>`` when it was not appended to any log.
    message_id: str
    #: The queues that got it, with its delivery id in each. A delayed message has the id it waits under.
    deliveries: dict[str, int]
    #: Bound queues that did not get it: they were full, or their filter did not match.
    skipped: list[str]


class Publishing:
    """The way in, for all destinations."""

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        stats: BrokerStats,
        now: Callable[[], int],
        pump: Callable[[Queue], None],
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._stats = stats
        self._now = now
        self._pump = pump
        #: Live subscribers of topics.
        self.live: dict[Destination, dict[Subscription, None]] = {}
        self._live_count = 0
        #: The last stamp given.
        self.stamp = 0
        self.stopping = False
        #: Called with what was stored in a slot's log: where, its number, and the message.
        self.delayed: Callable[[Reader, int, Message], None] = lambda reader, seq, message: None

    def publish(self, destination: Destination, message: Message) -> Deferred[Published]:
        """`Broker.publish`."""
        self.check(destination, message)
        message = self.accept(message, self._delay(destination, message))
        append = self.route(destination, message)
        if append is None:
            return succeed(self.pass_on(destination, message))
        unit = Unit([append], message.size, ended=lambda committed: self.arrived(append, committed))
        return self._journal.append(unit).addCallback(lambda numbers: self.told(append, numbers[0]))

    def check(self, destination: Destination, message: Message) -> None:
        """Raise what a publish raises at once."""
        if self.stopping:
            raise Stopping("the broker is stopping")
        queue = self._directory.queues.get(destination.name) if destination.kind is Kind.QUEUE else None
        limit = self._policy(destination).max_message_size
        if limit and len(message.body) > limit:
            raise MessageTooLarge(f"the body is {len(message.body)} bytes long, at most {limit} are allowed")
        if queue is not None and queue.full:
            raise QueueFull(f"queue {destination.name} holds {queue.policy.max_messages} messages, its limit")

    def accept(self, message: Message, delay: int = 0) -> Message:
        """The message as it is kept: with a stamp, and its time to live, which begins when it is due, as a moment."""
        self.stamp = self._journal.last_stamp = max(self._now(), self.stamp + 1)
        expires = message.expires
        if message.ttl and not delay:
            end = self.stamp + message.ttl * 1000
            expires = min(expires, end) if expires else end
        return msgspec.structs.replace(message, stamp=self.stamp, expires=expires, delay=delay)

    def route(self, destination: Destination, message: Message) -> Append | None:
        """Where it goes; None for a topic that no queue is bound to: nothing is appended."""
        if message.delay:
            slot = Destination(Kind.SLOT, str((message.stamp // 1000 + message.delay) // (SLOT_SECONDS * 1000)))
            message = msgspec.structs.replace(message, target=str(destination))
            lane = self._directory.lane(self._directory.log(slot), 0)
            waits_in = lane.readers[0].queue
            waits_in.incoming += 1
            return Append(lane, message, (waits_in,))
        log = self._directory.log(destination)
        own = None
        if destination.kind is Kind.QUEUE:
            self._stats.queues_created += destination.name not in self._directory.queues
            own = self._directory.queue(destination.name)
        skipped = self._skipped(log, message) if log.bound else ()
        queues = [queue for queue in log.bound if queue not in skipped]
        if own is not None:
            queues.append(own)
        elif not queues:
            if not log.id:
                del self._directory.logs[destination]
            return None
        for queue in queues:
            queue.incoming += 1
        return Append(self._directory.lane(log, message.priority), message, tuple(queues), skipped)

    def _skipped(self, log: Log, message: Message) -> tuple[Queue, ...]:
        """The bound queues that are full, or whose filter does not match."""
        subject = Subject(message, log.destination)
        return tuple(
            queue
            for queue, binding in log.bound.items()
            if queue.full or not (binding.filter is None or binding.filter.matches(subject))
        )

    def arrived(self, append: Append, committed: bool) -> None:
        """A publish has an outcome."""
        for queue in append.queues:
            queue.incoming -= 1
            queue.counts.published += committed
        if committed and append.lane.destination.kind is not Kind.SLOT:
            self._count(append.lane.destination)

    def told(self, append: Append, seq: int) -> Published:
        """A publish is on disk."""
        lane = append.lane
        if seq < 0:
            return Published("", {}, [])
        message_id = lane.message_id(seq)
        if lane.destination.kind is Kind.SLOT:
            (reader,) = lane.readers
            self.delayed(reader, seq, append.message)
            return Published(message_id, {named(append.message.target).name: reader.delivery_id(seq)}, [])
        if lane.destination.kind is Kind.TOPIC and lane.destination in self.live:
            self._offer(lane.destination, append.message, message_id)
        skipped = append.skipped
        got = {r.queue.name: r.delivery_id(seq) for r in lane.readers if r.queue not in skipped and r.terms.reads(seq)}
        return Published(message_id, got, [queue.name for queue in skipped])

    def pass_on(self, topic: Destination, message: Message) -> Published:
        """A publish that no queue keeps: live subscribers get it, and that is all its receipt means."""
        self._count(topic)
        self._live_count += 1
        message_id = f"live.{int(self._stats.started * 1000)}.{self._live_count}"
        self._offer(topic, message, message_id)
        return Published(message_id, {}, [])

    def transacted(self, publishes: list[tuple[Destination, Message]]) -> Transacted:
        """The publishes of a transaction, ready for its unit."""
        accepted = [(d, self.accept(message, self._delay(d, message))) for d, message in publishes]
        return Transacted(self, [(d, message, self.route(d, message)) for d, message in accepted])

    def _delay(self, destination: Destination, message: Message) -> int:
        return message.delay or (self._policy(destination).delay if destination.kind is Kind.QUEUE else 0)

    def _policy(self, destination: Destination) -> Policy:
        if destination.kind is not Kind.QUEUE:
            return self._directory.policies.default
        queue = self._directory.queues.get(destination.name)
        return queue.policy if queue is not None else self._directory.policies.of(destination.name)

    def _count(self, destination: Destination) -> None:
        self._stats.published += 1
        if destination.kind is Kind.TOPIC:
            self._stats.published_to_topics += 1

    def _offer(self, topic: Destination, message: Message, message_id: str) -> None:
        for subscription in list(self.live.get(topic, ())):
            offer(subscription, message, message_id)
            self._pump(subscription.queue)


@attrs.define(eq=False)
class Transacted:
    """What a transaction publishes: each message with its place, if it has one."""

    of: Publishing
    published: list[tuple[Destination, Message, Append | None]]

    @property
    def appends(self) -> list[Append]:
        """Those that are stored."""
        return [append for _, _, append in self.published if append is not None]

    def ended(self, committed: bool) -> None:
        """The transaction has an outcome."""
        for append in self.appends:
            self.of.arrived(append, committed)

    def told(self, numbers: list[int]) -> None:
        """It is on disk."""
        following = iter(numbers)
        for destination, message, append in self.published:
            if append is not None:
                self.of.told(append, next(following))
            else:
                self.of.pass_on(destination, message)


def named(text: str) -> Destination:
    """The destination that `str` makes of it: ``/queue/orders``."""
    _, kind, name = text.split("/", 2)
    return Destination(Kind(kind), name)
