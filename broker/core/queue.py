"""Queues: named readers of one or more lanes, shared by competing consumers. Nothing here waits or does I/O.

`Queue.pair` takes the next message and the next consumer with credit and puts the one on loan to the other. Where it
cannot because a message is not in memory, or its number is not reserved yet, it says so in `Queue.lacks`; the broker
fetches that and asks again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs

from broker.core.binding import Binding
from broker.core.consumers import Consumers, Line, Subscription
from broker.core.counts import Counts
from broker.core.delivery import Delivery, Move
from broker.core.destination import Destination
from broker.core.groups import Groups
from broker.core.message import OVERHEAD, Message
from broker.core.policy import Policy
from broker.core.rate import Rate
from broker.core.ration import Ration
from broker.core.reader import Reader
from broker.core.room import Room
from broker.core.scan import Scan
from broker.errors import BrokerError

#: Expired messages on their way to another queue, in memory. While that takes none, what lies behind so many waits.
MAX_LEAVING = 1_000


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
    consumers: Consumers = attrs.field(factory=Consumers)
    #: What it has room for.
    room: Room = attrs.field(init=False)
    counts: Counts = attrs.field(factory=Counts)
    #: How long the last message delivered had waited (ms).
    last_age: int = 0
    #: When it was last used (us): it keeps its messages in memory for a while.
    used: int = 0
    #: After two crashes in a row, messages that may have caused them go out one at a time.
    cautious: bool = False
    #: Scans whose next message must be loaded, or reserved, before anything more can be delivered.
    lacks: list[Scan] = attrs.field(factory=list)
    #: What may be looked at in vain in this reactor turn, and whether there is more to look at in a later one.
    ration: Ration = attrs.field(factory=Ration)
    unfinished: bool = False
    #: How ``rate`` is kept.
    rate: Rate = attrs.field(factory=Rate)
    #: The busy message groups; None: the queue has no groups.
    groups: Groups | None = None
    #: Settled by the queue itself and not yet told to the store, with the reason (expired, unwanted, rejected,
    #: max_attempts).
    settled: list[tuple[Reader, int, str]] = attrs.field(factory=list)
    #: To be moved elsewhere, not yet begun.
    moves: list[Move] = attrs.field(factory=list)
    #: Messages on their way out of it, begun or not.
    leaving: int = 0
    #: Why a message that should leave it stays; empty while nothing holds it.
    blocked: str = ""
    #: Why what waits is not looked at; empty while it is.
    stuck: str = ""

    def __attrs_post_init__(self) -> None:
        self.room = Room(self)
        self.follow(self.policy)

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
    def bytes(self) -> int:
        """About how many bytes of memory what waits takes, or would take."""
        return sum(reader.bytes for reader in self.readers)

    @property
    def wanted(self) -> bool:
        """True while somebody waits for its messages."""
        return bool(self.consumers)

    @property
    def subscriptions(self) -> dict[Subscription, None]:
        """Its consumers, the oldest first."""
        return self.consumers.all

    @property
    def idle(self) -> bool:
        """True if nobody consumes it and nothing of it is on loan."""
        return not self.subscriptions and not any(reader.on_loan for reader in self.readers)

    @property
    def crowded(self) -> bool:
        """True if no more messages may be on their way out of it for now."""
        return self.leaving >= MAX_LEAVING

    @property
    def at_rest(self) -> bool:
        """True if its one reader says all there is to know of it, but for what happened in it."""
        busy = self.subscriptions or self.room.busy or self.leaving or self.settled or self.moves
        return len(self.readers) == 1 and not (busy or self.bindings or self.used or self.blocked)

    def expires(self, reader: Reader, seq: int, message: Message) -> int:
        """When message `seq` must not be delivered any more (us); 0 = never."""
        expires, longest = message.expires, self.policy.max_ttl
        if expires and longest:
            expires = min(expires, message.stamp + longest * 1000)
        for ttl in (reader.terms.at(seq).ttl, self.policy.ttl):
            if ttl and (not expires or message.stamp + ttl * 1000 < expires):
                expires = message.stamp + ttl * 1000
        return expires

    def follow(self, policy: Policy) -> None:
        """From now on this policy holds."""
        self.policy = policy
        if policy.groups and self.groups is None:
            self.groups = Groups()
            for delivery in self.loans():
                self.group_taken(delivery)
        elif not policy.groups and self.groups is not None:
            self.groups = None
            for delivery in self.loans():
                delivery.group = ""
            for reader in self.readers:
                reader.evict()  # what was passed over is to be found again

    # -- consumers

    def attach(self, subscription: Subscription) -> None:
        """Deliver to `subscription` from now on, after those who wait already."""
        self.consumers.attach(subscription)

    def detach(self, subscription: Subscription) -> None:
        """Deliver nothing more to it. What it has on loan it keeps."""
        subscription.closed = True
        self.consumers.detach(subscription)
        if subscription.line is not None:
            subscription.line.close()

    def credited(self, subscription: Subscription) -> None:
        """It may have credit again."""
        self.consumers.credited(subscription)
        if self.groups is not None:
            for group in self.groups.credited(subscription):
                self._stir(group)

    def miss(self, error: BrokerError | None) -> None:
        """Nothing is here for those who do not wait; `error`: it cannot be fetched now."""
        for subscription in self.consumers.in_no_hurry():
            self.detach(subscription)
            if error is None and subscription.missed is not None:
                subscription.missed()
            elif error is not None and subscription.refused is not None:
                subscription.refused(error)

    # -- delivering

    def rest(self) -> None:
        """A reactor turn begins: more may be looked at."""
        self.unfinished = False

    def examine(self, message: Message) -> bool:
        """One more message is looked at in vain; False: not in this reactor turn."""
        if not self.ration.take(message.size - OVERHEAD):
            self.unfinished = True
        return not self.unfinished

    def head(self, now: int, line: Line | None = None) -> tuple[Reader, int, Message] | None:
        """The next message to deliver: lowest priority number first, then the oldest.

        Expired ones are settled on the way, those of busy groups passed over. None: there is none, or it must be
        loaded first (`lacks`), or there is more to look at in a later reactor turn (`unfinished`).
        """
        self.lacks.clear()
        self.stuck = ""
        best: tuple[int, int, Reader, int, Message] | None = None
        unloaded: list[tuple[int, Scan]] = []
        for reader in self.readers:
            scan = reader.scan if line is None else line.scan(reader)
            while not self.unfinished and (found := scan.head()):
                seq, message = found
                expires = self.expires(reader, seq, message)
                if expires and now >= expires:
                    if (self.policy.expire_to and self.crowded) or not self.examine(message):
                        break
                    self.expire(reader, seq, message)
                elif (reader.past is not None or reader.leader is not None) and reader.unwanted(seq, message):
                    if not self.examine(message):
                        break
                    reader.settle(seq, message)
                    self.settled.append((reader, seq, "unwanted"))
                elif reader.failed and self._exhausted(reader, seq, message):
                    if not self.examine(message):
                        break
                    self._retire(reader.lend(seq, message, None, 0, 0), "max_attempts")
                elif self.groups is not None and message.group and not self.groups.allows(message.group, line):
                    if scan.passed_over >= self.policy.max_scan:
                        self.stuck = f"max_scan: {scan.passed_over} messages of busy groups lie before what follows"
                        break
                    if not self.examine(message):
                        break
                    scan.set_aside(seq, message.group, message)
                else:
                    place = (reader.priority_of(seq), message.stamp, reader, seq, message)
                    if best is None or place[:2] < best[:2]:
                        best = place
                    break
            else:
                if scan.lacks:
                    unloaded.append((reader.priority_of(scan.pointer), scan))
        if self.unfinished:
            return None
        self.lacks += [scan for priority, scan in unloaded if best is None or priority <= best[0]]
        if best is None or self.lacks:
            return None
        return best[2:]

    def pair(self, now: int) -> Delivery | None:
        """Put the next message on loan to the next consumer with credit; None: no pair, or something `lacks`."""
        if self.policy.exclusive or self.consumers.exclusive:
            oldest = self.consumers.first()
            return self._served(now, oldest) if oldest is not None else None
        lacking: list[Scan] = []
        in_vain = False
        highest: int | None = None
        for subscription in self.consumers.in_turn(self.policy.scheduler):
            if highest is not None and subscription.priority < highest:
                break  # what is being loaded may be for one of a higher priority
            if subscription.credit <= 0:
                self.consumers.exhausted(subscription)
            elif subscription.line is not None or not in_vain:
                delivery = self._served(now, subscription)
                if delivery is not None:
                    return delivery
                if self.lacks:
                    lacking += self.lacks
                    highest = subscription.priority
                in_vain = in_vain or subscription.line is None  # for all others in that line too
                if in_vain and not self.consumers.selective:
                    break
        self.lacks = lacking
        return None

    def _served(self, now: int, subscription: Subscription) -> Delivery | None:
        delivery = self.lend(now, subscription, subscription.leased, subscription.lease)
        if delivery is not None and delivery.subscription is not None:
            delivery.subscription.unsettled[delivery] = None
            self.consumers.served(delivery.subscription)
        return delivery

    def lend(self, now: int, subscription: Subscription | None, leased: bool, lease: int) -> Delivery | None:
        """Put the next message on loan, with a deadline if `leased`; None: none, or something `lacks`.

        A message whose group somebody holds goes to him, whoever's turn it is.
        """
        line = subscription.line if subscription is not None else None
        found = self.head(now, line)
        if found is None:
            return None
        reader, seq, message = found
        if seq >= reader.reserved:
            self.lacks.append(reader.scan if line is None else line.scan(reader))
            return None
        if self.policy.paused or (self.policy.max_on_loan and self.on_loan >= self.policy.max_on_loan):
            return None
        if self.cautious and seq < reader.crashed_below and any(r.on_loan for r in self.readers):
            return None
        if self.policy.rate and not self.rate.allows(self.policy.rate, now):
            return None
        if self.groups is not None and message.group and subscription is not None:
            subscription = self.groups.holder(message.group) or subscription
            leased, lease = subscription.leased, subscription.lease
        length = self.lease_of(reader, seq, message, lease) if leased else 0
        delivery = reader.lend(seq, message, subscription, now + length * 1000 if leased else 0, length)
        if self.groups is not None:
            self.group_taken(delivery)
        self.counts.delivered += 1
        self.last_age = max(now - message.stamp, 0) // 1000
        return delivery

    def expire(self, reader: Reader, seq: int, message: Message) -> None:
        """A message that is free has waited too long."""
        self.counts.expired += 1
        self._retire(reader.lend(seq, message, None, 0, 0), "expired")

    # -- message groups

    def group_taken(self, delivery: Delivery) -> None:
        """A message is on loan, or held back: it keeps its group busy."""
        delivery.group = delivery.message.group or delivery.group
        if delivery.group and self.groups is not None:
            self.groups.take(delivery.group, delivery.subscription)

    def _group_given(self, delivery: Delivery) -> None:
        if delivery.group and self.groups is not None:
            self.groups.give(delivery.group)
            self._stir(delivery.group)
            delivery.group = ""

    def _stir(self, group: str) -> None:
        for reader in self.readers:
            for scan in reader.scans:
                scan.stir(group)

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
        group = delivery.group
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
            hidden = delivery.reader.hide(delivery, hidden_until)
            hidden.group = group
            if self.groups is not None:
                self.group_taken(hidden)
        else:
            delivery.reader.give_back(delivery, delivery.attempts)
        return True

    def backoff(self, attempts: int) -> int:
        """How long a message is hidden after its failure number `attempts` (ms)."""
        steps, jitter = self.policy.backoff, self.policy.jitter / 100
        wait = steps[min(attempts, len(steps)) - 1] if steps else 0
        return round(wait * random.uniform(1 - jitter, 1 + jitter)) if jitter else wait

    def shown(self, delivery: Delivery) -> None:
        """A message was held back long enough."""
        self._group_given(delivery)
        delivery.reader.give_back(delivery, delivery.attempts)

    def touched(self, reader: Reader, seq: int, message: Message) -> Delivery:
        """A message that waits is on loan, to whoever asked for it by its id."""
        delivery = reader.lend(seq, message, None, 0, 0)
        if self.groups is not None:
            self.group_taken(delivery)
        return delivery

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
        delivery.reader.settle(delivery.seq, delivery.message)
        self.settled.append((delivery.reader, delivery.seq, reason))
        self.counts.discarded += reason != "expired"

    def acked(self, delivery: Delivery) -> None:
        """A loan ended well."""
        self.unlink(delivery)
        delivery.reader.settle(delivery.seq, delivery.message)
        self.counts.settled += 1

    def unlink(self, delivery: Delivery) -> None:
        """A loan ended: its consumer has credit again."""
        self._group_given(delivery)
        subscription = delivery.subscription
        if subscription is not None:
            subscription.unsettled.pop(delivery, None)
            for one in (subscription, *subscription.siblings):
                if not one.closed:
                    one.queue.credited(one)

    def loans(self) -> Iterator[Delivery]:
        """Everything on loan."""
        for reader in self.readers:
            yield from list(reader.on_loan.values())
