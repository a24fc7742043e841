"""Routes: where one accepted message goes, what must go to make room for it, and what its producer is told."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.unit import Append


@attrs.define(eq=False, frozen=True)
class Published:
    """What became of a publish."""

    #: The message's id, the same for every reader; ``live.<start>.<n>`` when it was not appended to any log.
    message_id: str
    #: The queues that got it, with its delivery id in each. A delayed message has the id it waits under.
    deliveries: dict[str, int] = attrs.field(factory=dict)
    #: Queues that did not get it: they were full, or their filter did not match.
    skipped: list[str] = attrs.field(factory=list)
    #: It was published before, under the same key, and is not stored again.
    duplicate: bool = False
    #: Its stamp: its position wherever it is; 0: not known any more.
    stamp: int = 0


@attrs.define(eq=False)
class Route:
    """Where a message goes."""

    destination: Destination
    message: Message
    #: Bytes of memory that it is counted with.
    size: int
    #: Until when its key is remembered (us); 0: it has none that matters.
    until: int = 0
    #: What is to be stored of it; None: nothing.
    append: Append | None = None
    #: Queues that keep it in memory only.
    volatile: list[Queue] = attrs.field(factory=list)
    #: Queues that are not to get it.
    skipped: tuple[Queue, ...] = ()
    #: What it drives out of queues that are full.
    victims: list[Delivery] = attrs.field(factory=list)
    #: It is the second one with its key: what the first one is told.
    first: Published | None = None

    @property
    def settles(self) -> list[tuple[Reader, int]]:
        """What is settled on disk in the commit that stores it."""
        return [(victim.reader, victim.seq) for victim in self.victims if victim.reader.lane.durable]

    @property
    def stored(self) -> bool:
        """True if it needs a commit."""
        return self.append is not None or bool(self.settles)

    def make_room(self, queue: Queue) -> bool:
        """Choose what `queue` drops for it; False if there is not enough that is on loan to nobody.

        What is on its way in cannot be dropped yet: more of that follows than there is room for (`Room.overfull`).
        """
        chosen: list[Delivery] = []
        while queue.room.full_for(self.message):
            victim = queue.room.choose()
            if victim is None and queue.room.incoming:
                break
            if victim is None:
                for delivery in chosen:
                    queue.room.spare(delivery)
                return False
            chosen.append(victim)
        self.victims += chosen
        return True

    def ended(self, committed: bool, gone: Callable[[Queue], None]) -> None:
        """Its commit has an outcome."""
        for queue in self.append.queues if self.append is not None else ():
            queue.room.expected(self.size)
            queue.counts.published += committed
        for victim in self.victims:
            queue = victim.reader.queue
            if committed:
                queue.room.dropped(victim)
            else:
                queue.room.spare(victim)
            gone(queue)


@attrs.define(eq=False)
class Transacted:
    """What a transaction publishes: each message with its place, if it has one."""

    routes: list[Route]
    _ended: Callable[[Route, bool], None]
    _told: Callable[[Route, int], Published]

    @property
    def appends(self) -> list[Append]:
        """Those that are stored."""
        return [route.append for route in self.routes if route.append is not None]

    @property
    def settles(self) -> list[tuple[Reader, int]]:
        """What goes to make room for them."""
        return [settled for route in self.routes for settled in route.settles]

    def ended(self, committed: bool) -> None:
        """The transaction has an outcome."""
        for route in self.routes:
            self._ended(route, committed)

    def told(self, numbers: list[int]) -> list[Published]:
        """It is on disk."""
        following = iter(numbers)
        return [
            route.first or self._told(route, next(following) if route.append is not None else -1)
            for route in self.routes
        ]


def together(outcomes: list[Published]) -> Published:
    """What became of one message that was published to several destinations, under the first one's id."""
    return Published(
        outcomes[0].message_id if outcomes else "",
        {queue: id for outcome in outcomes for queue, id in outcome.deliveries.items()},
        [queue for outcome in outcomes for queue in outcome.skipped],
        bool(outcomes) and all(outcome.duplicate for outcome in outcomes),
        outcomes[0].stamp if outcomes else 0,
    )
