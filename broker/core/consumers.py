"""Consumers: who wants a queue's messages, and whose turn it is."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.policy import Scheduler
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.core.queue import Queue
    from broker.core.reader import Reader
    from broker.core.scan import Scan


@attrs.define(eq=False)
class Line:
    """Where a consumer with a selector stands, alone: its own scans."""

    #: Which messages it wants.
    accepts: Callable[[Message], bool]
    scans: dict[Reader, Scan] = attrs.field(factory=dict)

    def scan(self, reader: Reader) -> Scan:
        """Its scan of one of the queue's lanes."""
        scan = self.scans.get(reader)
        if scan is None:
            scan = self.scans[reader] = reader.open_scan(self.accepts)
        return scan

    def close(self) -> None:
        """Its consumer is gone."""
        for reader, scan in self.scans.items():
            reader.close_scan(scan)
        self.scans.clear()


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
    #: Of several that have credit those with the highest number are served first.
    priority: int = 0
    #: It acks what it has worked on; what others get is settled once it is sent.
    reliable: bool = True
    #: While it is there, nobody gets messages but the oldest of its kind.
    exclusive: bool = False
    #: With a selector: its own line. None: it takes what comes, in the line of all others.
    line: Line | None = None
    #: Of one that does not wait: called when there is nothing for it, or it cannot be fetched now.
    missed: Callable[[], None] | None = None
    refused: Callable[[BrokerError], None] | None = None
    #: Called when its queue was deleted, and it is at the new one of that name.
    deleted: Callable[[], None] | None = None
    #: Those that wait at several queues at once share it.
    unsettled: dict[Delivery, None] = attrs.field(factory=dict)
    #: Its fellows at other queues.
    siblings: tuple[Subscription, ...] = ()
    paused: bool = False
    closed: bool = False

    @property
    def credit(self) -> int:
        """How many more deliveries it takes now."""
        return 0 if self.paused or self.closed else self.prefetch - len(self.unsettled)


class Consumers:
    """The subscriptions of a queue, and of these the ones that have credit, as far as is known."""

    __slots__ = ("_exclusive", "_ready", "all", "selective")

    def __init__(self) -> None:
        self.all: dict[Subscription, None] = {}
        #: How many of them have a selector.
        self.selective = 0
        #: Those that are exclusive, the oldest first.
        self._exclusive: dict[Subscription, None] = {}
        #: By rank, the lowest first; in each in the order of their turns.
        self._ready: dict[tuple[int, bool], OrderedDict[Subscription, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._ready)

    def __len__(self) -> int:
        """How many have credit."""
        return sum(map(len, self._ready.values()))

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._ready.get(self._rank(subscription), ())

    def attach(self, subscription: Subscription) -> None:
        """One more, after those who wait already."""
        if subscription not in self.all:
            self.selective += subscription.line is not None
        self.all[subscription] = None
        if subscription.exclusive:
            self._exclusive[subscription] = None
        self.credited(subscription)

    def detach(self, subscription: Subscription) -> None:
        """It wants nothing more."""
        if subscription in self.all:
            self.selective -= subscription.line is not None
            del self.all[subscription]
        self._exclusive.pop(subscription, None)
        self.exhausted(subscription)
        if not self.all:
            self.all.clear()  # an empty dict that once held something takes 160 bytes more than one that never did
            self._ready.clear()

    def credited(self, subscription: Subscription) -> None:
        """It may have credit again."""
        if subscription.credit > 0:
            rank = self._rank(subscription)
            ready = self._ready.get(rank)
            if ready is None:  # an ack in a hundred: to make one each time, to be dropped, took 0.2 us
                ready = self._ready[rank] = OrderedDict()
            ready.setdefault(subscription)

    def exhausted(self, subscription: Subscription) -> None:
        """It has no credit."""
        rank = self._rank(subscription)
        ready = self._ready.get(rank)
        if ready is not None:
            ready.pop(subscription, None)
            if not ready:
                del self._ready[rank]

    def served(self, subscription: Subscription) -> None:
        """It got a message: others are before it now."""
        if subscription.credit > 0:
            self._ready[self._rank(subscription)].move_to_end(subscription)
        else:
            self.exhausted(subscription)

    @property
    def exclusive(self) -> bool:
        """True while one of them wants to be the only one."""
        return bool(self._exclusive)

    def first(self) -> Subscription | None:
        """The one attached first, of those that are exclusive if any is, if it has credit."""
        oldest = next(iter(self._exclusive or self.all), None)
        return oldest if oldest is not None and oldest.credit > 0 else None

    def in_turn(self, scheduler: Scheduler) -> Iterator[Subscription]:
        """Those with credit, whose turn it is first."""
        ranks = list(self._ready)
        if len(ranks) > 1:
            ranks.sort(key=None if scheduler == "favour_reliable" else lambda rank: rank[0])
        for rank in ranks:
            ready = self._ready[rank]
            start = random.randrange(len(ready)) if scheduler == "random" else 0
            first = next(islice(ready, start, None))
            yield first
            if rank in self._ready:  # in most cases nobody asks for a second one, so that 10,000 cost what one does
                yield from [other for other in self._ready[rank] if other is not first]

    def in_no_hurry(self) -> list[Subscription]:
        """Those with credit that do not wait."""
        return [s for ready in self._ready.values() for s in ready if s.missed is not None]

    @staticmethod
    def _rank(subscription: Subscription) -> tuple[int, bool]:
        return -subscription.priority, not subscription.reliable
