"""Queues: named readers of one or more lanes, shared by competing consumers. Nothing here waits or does I/O.

`Queue.pair` takes the next message and the next consumer with credit and puts the one on loan to the other. Where it
cannot because a message is not in memory, or its number is not reserved yet, it says so in `Queue.lacks`; the broker
fetches that and asks again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs

from broker.core.binding import Binding
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.policy import Policy
from broker.core.reader import Reader
from broker.errors import BrokerError

#: Expired messages on their way to another queue, in memory. While that takes none, what lies behind so many waits.
MAX_LEAVING = 1_000


@attrs.define(eq=False)
class Subscription:
    """A standing wish for messages, with credit: `prefetch` less what is unsettled."""

    queue: Queue
    #: What the consumer asked for: the queue's destination, or the topic's for a live subscriber.
    destination: Destination
    #: Called with each message put on loan to it.
    deliver: Callable[[Delivery], None]
    prefetch: int
    #: Loans end by themselves (HTTP), after `lease` ms if that is not 0.
    leased: bool = False
    lease: int = 0
    #: Wants one message, and is over then.
    once: bool = False
    #: Of one that does not wait: called when there is nothing for it, or it cannot be fetched now.
    missed: Callable[[], None] | None = None
    refused: Callable[[BrokerError], None] | None = None
    unsettled: dict[Delivery, None] = attrs.field(factory=dict)
    paused: bool = False
    closed: bool = False

    @property
    def credit(self) -> int:
        """How many more deliveries it takes now."""
        return 0 if self.paused or self.closed else self.prefetch - len(self.unsettled)


@attrs.define(eq=False)
class Move:
    """A message that is to leave its queue for another."""

    delivery: Delivery
    #: The queue it goes to.
    target: str
    #: expired, rejected or max_attempts.
    reason: str


@attrs.define(eq=False)
class Counts:
    """What happened in a queue since the broker started."""

    #: Messages published to the queue or to what it is bound to.
    published: int = 0
    #: Deliveries made, repeated ones included.
    delivered: int = 0
    #: Messages acked.
    settled: int = 0
    #: Deliveries that failed: nack, lease over, connection lost.
    failed: int = 0
    #: Deliveries given back without counting as failed.
    released: int = 0
    #: Messages dropped because their time was over.
    expired: int = 0
    #: Messages dropped because they had failed `max_attempts` times, or a live subscriber's buffer was full.
    discarded: int = 0
    #: Messages moved to another queue because they expired, failed too often or were rejected.
    moved: int = 0


@attrs.define(eq=False)
class Queue:
    """A queue, with everything in it that is in memory."""

    name: str
    destination: Destination
    policy: Policy
    #: The id of its own log; 0 until there is something to store of it.
    id: int = 0
    readers: list[Reader] = attrs.field(factory=list)
    bindings: dict[Destination, Binding] = attrs.field(factory=dict)
    subscriptions: dict[Subscription, None] = attrs.field(factory=dict)
    #: Messages accepted and not yet committed.
    incoming: int = 0
    counts: Counts = attrs.field(factory=Counts)
    #: How long the last message delivered had waited (ms).
    last_age: int = 0
    #: When it was last used (us): it keeps its messages in memory for a while.
    used: int = 0
    #: After two crashes in a row, messages that may have caused them go out one at a time.
    cautious: bool = False
    #: Readers whose next message must be loaded, or reserved, before anything more can be delivered.
    lacks: list[Reader] = attrs.field(factory=list)
    #: Settled by the queue itself and not yet told to the store, with the reason (expired, rejected, max_attempts).
    settled: list[tuple[Reader, int, str]] = attrs.field(factory=list)
    #: To be moved elsewhere, not yet begun.
    moves: list[Move] = attrs.field(factory=list)
    #: Messages on their way out of it, begun or not.
    leaving: int = 0
    #: Why a message that should leave it stays; empty while nothing holds it.
    blocked: str = ""
    _willing: OrderedDict[Subscription, None] = attrs.field(factory=OrderedDict)

    # -- what there is

    @property
    def waiting(self) -> int:
        """Messages not settled, on loan or not."""
        return sum(reader.waiting for reader in self.readers)

    @property
    def on_loan(self) -> int:
        """Messages on loan."""
        return sum(len(reader.on_loan) for reader in self.readers)

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer."""
        return self.waiting - self.on_loan

    @property
    def full(self) -> bool:
        """True while it takes no further message (``max_messages``)."""
        limit = self.policy.max_messages
        return bool(limit) and self.waiting + self.incoming >= limit

    @property
    def wanted(self) -> bool:
        """True while somebody waits for its messages."""
        return bool(self._willing)

    @property
    def idle(self) -> bool:
        """True if nobody consumes it and nothing of it is on loan."""
        return not self.subscriptions and not any(reader.on_loan for reader in self.readers)

    def expires(self, reader: Reader, seq: int, message: Message) -> int:
        """When message `seq` must not be delivered any more (us); 0 = never."""
        expires, longest = message.expires, self.policy.max_ttl
        if expires and longest:
            expires = min(expires, message.stamp + longest * 1000)
        for ttl in (reader.terms.at(seq).ttl, self.policy.ttl):
            if ttl and (not expires or message.stamp + ttl * 1000 < expires):
                expires = message.stamp + ttl * 1000
        return expires

    # -- consumers

    def attach(self, subscription: Subscription) -> None:
        """Deliver to `subscription` from now on, after those who wait already."""
        self.subscriptions[subscription] = None
        self.credited(subscription)

    def detach(self, subscription: Subscription) -> None:
        """Deliver nothing more to it. What it has on loan it keeps."""
        subscription.closed = True
        self.subscriptions.pop(subscription, None)
        self._willing.pop(subscription, None)

    def credited(self, subscription: Subscription) -> None:
        """It may have credit again."""
        if subscription.credit > 0:
            self._willing.setdefault(subscription)

    def miss(self, error: BrokerError | None) -> None:
        """Nothing is here for those who do not wait; `error`: it cannot be fetched now."""
        for subscription in [s for s in self._willing if s.missed is not None]:
            self.detach(subscription)
            if error is None and subscription.missed is not None:
                subscription.missed()
            elif error is not None and subscription.refused is not None:
                subscription.refused(error)

    # -- delivering

    def head(self, now: int) -> tuple[Reader, int, Message] | None:
        """The next message to deliver: lowest priority number first, then the oldest.

        Expired ones are settled on the way. None: there is none, or it must be loaded first (`lacks`).
        """
        self.lacks.clear()
        best: tuple[int, int, Reader, int, Message] | None = None
        unloaded: list[tuple[int, Reader]] = []
        for reader in self.readers:
            while found := reader.head():
                seq, message = found
                expires = self.expires(reader, seq, message)
                if expires and now >= expires:
                    if self.policy.expire_to and self.leaving >= MAX_LEAVING:
                        break
                    self.counts.expired += 1
                    self._retire(reader.lend(seq, message, None, 0, 0), "expired")
                elif reader.failed and self._exhausted(reader, seq, message):
                    self._retire(reader.lend(seq, message, None, 0, 0), "max_attempts")
                else:
                    place = (reader.priority_of(seq), message.stamp, reader, seq, message)
                    if best is None or place[:2] < best[:2]:
                        best = place
                    break
            else:
                if reader.behind:
                    unloaded.append((reader.priority_of(reader.pointer), reader))
        self.lacks += [reader for priority, reader in unloaded if best is None or priority <= best[0]]
        if best is None or self.lacks:
            return None
        return best[2:]

    def pair(self, now: int) -> Delivery | None:
        """Put the next message on loan to the next consumer with credit; None: no pair, or something `lacks`."""
        willing = self._willing
        while willing:
            subscription = next(iter(self.subscriptions if self.policy.exclusive else willing))
            if self.policy.exclusive and subscription not in willing:
                return None
            if subscription.credit <= 0:
                del willing[subscription]
                continue
            delivery = self.lend(now, subscription, subscription.leased, subscription.lease)
            if delivery is None:
                return None
            subscription.unsettled[delivery] = None
            if subscription.credit > 0:
                willing.move_to_end(subscription)
            else:
                del willing[subscription]
            return delivery
        return None

    def lend(self, now: int, subscription: Subscription | None, leased: bool, lease: int) -> Delivery | None:
        """Put the next message on loan, with a deadline if `leased`; None: none, or something `lacks`."""
        found = self.head(now)
        if found is None:
            return None
        reader, seq, message = found
        if seq >= reader.reserved:
            self.lacks.append(reader)
            return None
        if self.policy.paused or (self.policy.max_on_loan and self.on_loan >= self.policy.max_on_loan):
            return None
        if self.cautious and seq < reader.crashed_below and any(r.on_loan for r in self.readers):
            return None
        length = self.lease_of(reader, seq, message, lease) if leased else 0
        delivery = reader.lend(seq, message, subscription, now + length * 1000 if leased else 0, length)
        self.counts.delivered += 1
        self.last_age = max(now - message.stamp, 0) // 1000
        return delivery

    def lease_of(self, reader: Reader, seq: int, message: Message, wish: int = 0) -> int:
        """The length of a loan that ends by itself (ms): the consumer's wish, the message's, the binding's, ours."""
        return wish or message.lease or reader.terms.at(seq).lease or self.policy.lease

    def max_attempts(self, reader: Reader, seq: int, message: Message) -> int:
        """After how many failed deliveries a message is given up; 0 = never."""
        return message.max_attempts or reader.terms.at(seq).max_attempts or self.policy.max_attempts

    def _exhausted(self, reader: Reader, seq: int, message: Message) -> bool:
        """True if its last loan ended across a restart, when nobody knew its own limit."""
        limit = self.max_attempts(reader, seq, message)
        return bool(limit) and reader.failed.get(seq, 0) >= limit

    def failed(self, delivery: Delivery, *, counted: bool, hidden_until: int = 0) -> bool:
        """A loan ended without an ack; False if that was the message's last attempt: it is settled, or leaves.

        `hidden_until`: when it may be delivered again (us).
        """
        self.unlink(delivery)
        delivery.attempts += counted
        if not counted:
            self.counts.released += 1
            delivery.reader.give_back(delivery, delivery.attempts)
            return True
        self.counts.failed += 1
        limit = self.max_attempts(delivery.reader, delivery.seq, delivery.message)
        if limit and delivery.attempts >= limit:
            self._retire(delivery, "max_attempts")
            return False
        if hidden_until:
            delivery.reader.hide(delivery, hidden_until)
        else:
            delivery.reader.give_back(delivery, delivery.attempts)
        return True

    def backoff(self, attempts: int) -> int:
        """How long a message is hidden after its failure number `attempts` (ms)."""
        steps = self.policy.backoff
        return steps[min(attempts, len(steps)) - 1] if steps else 0

    def rejected(self, delivery: Delivery) -> None:
        """Its consumer wants it never to be delivered again."""
        self.unlink(delivery)
        delivery.attempts += 1
        self.counts.failed += 1
        self._retire(delivery, "rejected")

    def _retire(self, delivery: Delivery, reason: str) -> None:
        """A message that is on loan, and done with: to where such messages go, or nowhere."""
        target = self.policy.expire_to if reason == "expired" else self.policy.dead_letter
        if target and target != self.name:
            delivery.claimed = True
            self.leaving += 1
            self.moves.append(Move(delivery, target, reason))
            return
        delivery.reader.settle(delivery.seq)
        self.settled.append((delivery.reader, delivery.seq, reason))
        self.counts.discarded += reason != "expired"

    def acked(self, delivery: Delivery) -> None:
        """A loan ended well."""
        self.unlink(delivery)
        delivery.reader.settle(delivery.seq)
        self.counts.settled += 1

    def unlink(self, delivery: Delivery) -> None:
        """A loan ended: its consumer has credit again."""
        subscription = delivery.subscription
        if subscription is not None:
            subscription.unsettled.pop(delivery, None)
            if not subscription.closed:
                self.credited(subscription)

    def loans(self) -> Iterator[Delivery]:
        """Everything on loan."""
        for reader in self.readers:
            yield from list(reader.on_loan.values())
