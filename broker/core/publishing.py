"""Publishing: what is taken in, and what its producer is told. Every message that enters a log comes here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from broker.core.destination import Destination, Kind, named
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.keys import Keys
from broker.core.message import Message
from broker.core.patterns import is_pattern
from broker.core.policy import Policy, TopicPolicy
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.route import Published, Route, Transacted, together
from broker.core.routing import Routing, no_room
from broker.core.stats import BrokerStats
from broker.core.store import Inventory, PublishKey
from broker.core.topic import Listener, Listeners, Live
from broker.core.unit import Append, Unit
from broker.core.waiting import Waiting
from broker.errors import BadName, BrokerError, MessageTooLarge, QueueFull, Stopping

#: What one publish to several destinations may take in all (bytes); as much as a STOMP transaction.
MAX_COPIES_BYTES = 64 * 1024 * 1024


class Publishing:
    """The way in, for all destinations."""

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        stats: BrokerStats,
        clock: IReactorTime,
        now: Callable[[], int],
        changed: Callable[[Queue], None],
    ) -> None:
        self.directory = self._directory = directory
        self._journal = journal
        self.routing = Routing(directory, stats)
        #: Commits a unit.
        self.put = journal.put
        self._stats = stats
        self._now = now
        self._changed = changed
        #: Live subscribers of topics.
        self.live = Listeners()
        self._live_count = 0
        self.keys = Keys()
        self.waiting = Waiting(clock, lambda queue, message: self._publish(queue.destination, message, queue.policy))
        #: The last stamp given.
        self.stamp = 0
        #: True: nothing is put in; `refusal` says why.
        self.stopping = False
        self.refusal: Callable[[], BrokerError] = lambda: Stopping("the broker is stopping")
        #: Called with what was stored in a slot's log: where, its number, and the message.
        self.delayed: Callable[[Reader, int, Message], None] = lambda reader, seq, message: None

    def restore(self, inventory: Inventory) -> None:
        """Remember what was published before the restart."""
        self.stamp = inventory.last_stamp
        lanes = {lane.id: lane.destination for log in self._directory.logs.values() for lane in log.lanes.values()}
        for key in inventory.keys:
            at = lanes.get(key.lane)
            if at is not None:
                destination, said = at, key.key
                if at.kind is Kind.SLOT:
                    target, _, said = said.partition("\n")
                    destination = named(target)
                self.keys.remember(destination, said, key.until, partial(self._again, destination, at, key))

    # -- one message

    def publish(self, destination: Destination, message: Message) -> Deferred[Published]:
        """`Broker.publish`."""
        if destination in self._directory.aliases:
            return self.publish_to([destination], message)
        policy = self._check(destination, message)
        if message.key and (seen := self._seen(destination, message)) is not None:
            return seen
        if isinstance(policy, Policy) and policy.overflow == "wait" and not message.delay:
            queue = self._directory.find(destination.name)
            if queue is not None and (queue in self.waiting or queue.room.full_for(message)):
                return self.waiting.wait(queue, message)
        return self._publish(destination, message, policy)

    def _publish(self, destination: Destination, message: Message, policy: Policy | TopicPolicy) -> Deferred[Published]:
        route = self.routing.route(destination, self._accept(message, policy, _delay(message, policy)), policy)
        if route.stored:
            return self._stored(route)
        self.ended(route, True)
        return succeed(self.told(route))

    def _stored(self, route: Route) -> Deferred[Published]:
        appends = [route.append] if route.append is not None else []
        unit = Unit(appends, route.size, settles=route.settles, ended=partial(self.ended, route))
        if route.until:
            self.keys.begin(route.destination, route.message.key, route.until)
        published = self._journal.append(unit).addCallback(lambda numbers: self.told(route, *numbers[:1]))
        return published.addErrback(self._not_stored, route) if route.until else published

    def _not_stored(self, failure: Failure, route: Route) -> Failure:
        self.keys.failed(route.destination, route.message.key, failure)
        return failure

    def check(self, destination: Destination, message: Message) -> None:
        """Raise what a publish raises at once."""
        for target in self._directory.aliases.targets(destination):
            self._check(target, message)

    def _check(self, destination: Destination, message: Message) -> Policy | TopicPolicy:
        """The same for what is no alias; what holds there."""
        if self.stopping:
            raise self.refusal()
        queue = None
        if destination.kind is Kind.QUEUE:
            queue = self._directory.find(destination.name)
        elif is_pattern(destination.name):
            raise BadName(f"topic {destination.name} is a pattern: it can be subscribed to, and not published to")
        policy = queue.policy if queue is not None else self.routing.policy(destination)
        limit = policy.max_message_size
        if limit and len(message.body) > limit:
            raise MessageTooLarge(f"the body is {len(message.body)} bytes long, at most {limit} are allowed")
        if queue is not None and policy.overflow == "reject" and queue.room.full_for(message):
            raise no_room(queue)
        return policy

    def accept(self, destination: Destination, message: Message) -> Message:
        """The message as it is kept, if it is not delayed: with a stamp, and its time to live as a moment."""
        return self._accept(message, self.routing.policy(destination), 0)

    def _accept(self, message: Message, policy: Policy | TopicPolicy, delay: int) -> Message:
        """The same; the life of one that is delayed begins when it is due."""
        self.stamps(1)
        expires = message.expires
        if message.ttl and not delay:
            end = self.stamp + message.ttl * 1000
            expires = min(expires, end) if expires else end
        priority = message.priority
        if isinstance(policy, Policy):
            if policy.max_ttl and expires:
                expires = min(expires, self.stamp + policy.max_ttl * 1000)
            if policy.priority == "off":
                priority = 0
        return msgspec.structs.replace(message, stamp=self.stamp, expires=expires, delay=delay, priority=priority)

    def stamps(self, count: int) -> int:
        """The first of so many stamps that follow one another."""
        first = max(self._now(), self.stamp + 1)
        self.stamp = self._journal.last_stamp = first + count - 1
        return first

    # -- what becomes of it

    def ended(self, route: Route, committed: bool) -> None:
        """A publish has an outcome."""
        route.ended(committed, self._changed)
        for queue in route.append.queues if route.append is not None else ():
            if queue.policy.overflow == "drop_oldest" and queue.room.overfull:
                self._drop_oldest(queue)

    def _drop_oldest(self, queue: Queue) -> None:
        """Drop what was to go for messages that were on their way together with it."""
        while queue.room.overfull and (victim := queue.room.choose()) is not None:
            queue.room.dropped(victim)
            self._journal.settle(victim.reader, victim.seq, victim.seq + 1)
        self._changed(queue)

    def told(self, route: Route, seq: int = -1) -> Published:
        """A publish is on disk, as far as it is stored."""
        append, destination, message = route.append, route.destination, route.message
        if append is not None and append.lane.destination.kind is Kind.SLOT:
            return self._remembered(route, self._waits(append, seq))
        if append is not None and seq < 0:
            return self._remembered(route, Published(""))  # its queue was deleted meanwhile
        self.count(destination, 1, len(message.body))
        got: dict[str, int] = {}
        message_id = ""
        if append is not None:
            lane = append.lane
            message_id = lane.message_id(seq)
            for reader in lane.readers:
                if reader.queue not in append.skipped and reader.terms.reads(seq):
                    got[reader.queue.name] = reader.delivery_id(seq)
        for queue in route.volatile:
            reader, number = self._directory.keep(queue, message)
            got[queue.name] = reader.delivery_id(number)
            message_id = message_id or reader.message_id(number)
        if not message_id:
            message_id = self.live_id()
        if destination.kind is Kind.TOPIC:
            self.offer(destination, [Live(message, message_id, destination)])
        for queue in route.volatile:
            self._changed(queue)
        return self._remembered(
            route, Published(message_id, got, [queue.name for queue in route.skipped], stamp=message.stamp)
        )

    def _waits(self, append: Append, seq: int) -> Published:
        if seq < 0:
            return Published("")
        (reader,) = append.lane.readers
        self.delayed(reader, seq, append.message)
        name = named(append.message.target).name
        return Published(append.lane.message_id(seq), {name: reader.delivery_id(seq)})

    def live_id(self) -> str:
        """The id of a message that is appended to no log."""
        self._live_count += 1
        return f"live.{int(self._stats.started * 1000)}.{self._live_count}"

    def offer(self, topic: Destination, lives: list[Live]) -> None:
        """Give messages of a topic to its live subscribers."""
        listeners = self.live.of(topic)
        if not listeners:
            return
        told = 0
        for listener in listeners:
            if listener.told(lives):
                told += 1
            else:
                self._buffer(topic, listener, lives)
        self._stats.delivered += told * len(lives)
        self._stats.settled += told * len(lives)
        self._stats.delivered_bytes += told * sum(len(live.message.body) for live in lives)

    def _buffer(self, topic: Destination, listener: Listener, lives: list[Live]) -> None:
        policy = self._directory.topic_policy(topic.name)
        queue = listener.subscription.queue
        for live in lives:
            if listener.offer(live.message, (live.message_id, topic), policy) is not None:
                self._changed(queue)
            elif listener.dropped is not None:
                self.live.discard(listener.subscription)
                queue.detach(listener.subscription)
                listener.dropped()
                return

    def count(self, destination: Destination, messages: int, size: int) -> None:
        """Messages with so many bytes of bodies were published there."""
        self._stats.published += messages
        self._stats.published_bytes += size
        if destination.kind is Kind.TOPIC:
            self._stats.published_to_topics += messages

    # -- publishers' keys

    def _seen(self, destination: Destination, message: Message) -> Deferred[Published] | None:
        if not self.routing.policy(destination).dedup_window:
            return None
        now = self._now()
        self.keys.expire(now)
        return self.keys.seen(destination, message.key, now)

    def _again(self, destination: Destination, at: Destination, key: PublishKey) -> Published:
        """What the publisher of a message in the log of `at` was told, before the restart."""
        log = self._directory.find_log(at)
        lane = next((lane for lane in log.lanes.values() if lane.id == key.lane), None) if log is not None else None
        if lane is None:
            return Published("")
        message_id = lane.message_id(key.seq)
        if at.kind is Kind.SLOT:
            return Published(message_id, {destination.name: lane.readers[0].delivery_id(key.seq)})
        readers = [reader for reader in lane.readers if reader.terms.reads(key.seq)]
        return Published(message_id, {reader.queue.name: reader.delivery_id(key.seq) for reader in readers})

    def _remembered(self, route: Route, published: Published) -> Published:
        if route.until:
            self.keys.remember(route.destination, route.message.key, route.until, lambda: published)
        return published

    # -- several at once

    def publish_to(self, destinations: Iterable[Destination], message: Message) -> Deferred[Published]:
        """`Broker.publish_to`."""
        targets = dict.fromkeys(target for one in destinations for target in self._directory.aliases.targets(one))
        if len(targets) > 1 and len(targets) * message.size > MAX_COPIES_BYTES:
            most = MAX_COPIES_BYTES // len(targets)
            raise MessageTooLarge(f"for {len(targets)} destinations a message may have {most} bytes")
        published = self.transacted([(target, message) for target in targets])
        appends = published.appends
        if not appends and not published.settles:
            published.ended(True)
            return succeed(together(published.told([])))
        unit = Unit(appends, message.size * len(appends), settles=published.settles, ended=published.ended)
        return self._journal.append(unit).addCallback(lambda numbers: together(published.told(numbers)))

    def transacted(self, publishes: list[tuple[Destination, Message]]) -> Transacted:
        """The publishes of a transaction, ready for its unit; raises what a publish raises, and nothing is changed."""
        routes: list[Route] = []
        try:
            for destination, message in self._aimed(publishes):
                policy = self._check(destination, message)
                accepted = self._accept(message, policy, _delay(message, policy))
                routes.append(self._repeated(destination, message) or self.routing.route(destination, accepted, policy))
        except Exception:
            for route in routes:
                self.ended(route, False)
            raise
        return Transacted(routes, self.ended, self.told)

    def _aimed(self, publishes: list[tuple[Destination, Message]]) -> list[tuple[Destination, Message]]:
        """The same, with what aliases stand for in their place."""
        return [(target, message) for one, message in publishes for target in self._directory.aliases.targets(one)]

    def _repeated(self, destination: Destination, message: Message) -> Route | None:
        """The route of a publish that was made before: nowhere."""
        seen = self._seen(destination, message) if message.key else None
        if seen is None:
            return None
        if not seen.called:
            _ = seen.addErrback(lambda _: None)
            raise QueueFull(f"a publish with the key {message.key!r} is on its way; try again when it has an answer")
        answers: list[Published] = []
        _ = seen.addCallback(answers.append)
        return Route(destination, message, 0, first=answers[0])


def _delay(message: Message, policy: Policy | TopicPolicy) -> int:
    return message.delay or (policy.delay if isinstance(policy, Policy) else 0)
