"""Taking: one message for somebody who asks for one, now or when it comes, of one queue or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import check_name
from broker.core.directory import Directory
from broker.core.queue import Queue
from broker.core.supply import Supply


class Taking:
    """The single requests of consumers that are not subscribed."""

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], int],
        directory: Directory,
        supply: Supply,
        forget: Callable[[Queue], None],
    ) -> None:
        self._clock = clock
        self._now = now
        self._directory = directory
        self._supply = supply
        self._usage = supply.usage
        self._forget = forget

    async def take(self, names: Sequence[str], wait: float, leased: bool, lease: int) -> Delivery | None:
        """`Broker.take`, of several queues."""
        queues = [self._directory.queue(check_name(name)) for name in names if wait > 0 or self._directory.exists(name)]
        for queue in queues:
            self._usage.use(queue)
            if not queue.wanted:
                delivery = queue.lend(self._now(), None, leased, lease)
                self._supply.fetch(queue)
                if delivery is not None:
                    self._supply.lent(delivery)
                    return delivery
        if not queues:
            return None
        arrived: Deferred[Delivery | None] = Deferred()
        waiters = _waiters(queues, arrived, wait <= 0, leased, lease)
        timer = None
        try:
            for waiter in waiters:
                waiter.queue.attach(waiter)
            for queue in queues:
                self._supply.pump(queue)
            if not arrived.called and wait > 0:
                timer = self._clock.callLater(wait, arrived.callback, None)
            delivery = await arrived
            if delivery is not None:
                delivery.subscription = None
            return delivery
        finally:
            if timer is not None and timer.active():
                timer.cancel()
            for waiter in waiters:
                waiter.queue.detach(waiter)
                self._forget(waiter.queue)

    def at_hand(self, name: str, leased: bool, lease: int) -> Delivery | None:
        """`Broker.at_hand`."""
        queue = self._directory.queues.get(name)
        if queue is None or not queue.id or queue.wanted or queue.destination in self._directory.aliases:
            return None
        self._usage.use(queue)
        delivery = queue.lend(self._now(), None, leased, lease)
        if delivery is not None:
            self._supply.flush(queue)
            self._supply.lent(delivery)
        return delivery

    def several_at_hand(self, name: str, most: int, size: int, leased: bool, lease: int) -> list[Delivery]:
        """`Broker.several_at_hand`."""
        first = self.at_hand(name, leased, lease)
        return [] if first is None else self._with(first, most, size, leased, lease)

    def with_share(self, first: Delivery, most: int, size: int, leased: bool, lease: int) -> list[Delivery]:
        """`Broker.with_share`."""
        queue = first.reader.queue
        share = (1 + queue.ready) // (1 + len(queue.consumers))
        return self._with(first, min(most, share), size, leased, lease)

    def _with(self, first: Delivery, most: int, size: int, leased: bool, lease: int) -> list[Delivery]:
        queue, now, found = first.reader.queue, self._now(), [first]
        size -= len(first.message.body)
        while len(found) < most and size > 0 and (delivery := queue.lend(now, None, leased, lease)) is not None:
            self._supply.lent(delivery)
            size -= len(delivery.message.body)
            found.append(delivery)
        self._supply.flush(queue)
        return found

    async def peek(self, name: str, wait: float) -> Delivery | None:
        """`Broker.peek`."""
        if wait <= 0 and not self._directory.exists(name):
            return None
        timer = self._clock.callLater(wait, lambda: self._supply.looked(looked)) if wait > 0 else None
        try:
            while True:
                looked = self._directory.queue(check_name(name))
                self._usage.use(looked)
                found = looked.head(self._now())
                if found is not None:
                    self._supply.flush(looked)
                    delivery = found[0].look(found[1], found[2])
                    delivery.lease = looked.lease_of(*found)
                    return delivery
                if not looked.lacks and not looked.unfinished and (timer is None or not timer.active()):
                    return None
                changed = self._supply.look(looked)  # before the fetch, which may be over at once
                self._supply.fetch(looked)
                await changed
        finally:
            if timer is not None and timer.active():
                timer.cancel()


def _waiters(
    queues: list[Queue], arrived: Deferred[Delivery | None], at_once: bool, leased: bool, lease: int
) -> list[Subscription]:
    """One for each queue, with one message's credit together; `at_once`: they do not wait for what is not there."""
    unsettled: dict[Delivery, None] = {}
    waiters = [
        Subscription(
            queue,
            queue.destination,
            arrived.callback,
            prefetch=1,
            leased=leased,
            lease=lease,
            once=True,
            unsettled=unsettled,
        )
        for queue in queues
    ]
    left = len(waiters)

    def missed() -> None:
        nonlocal left
        left -= 1
        if not left and not arrived.called:
            arrived.callback(None)

    for waiter in waiters:
        waiter.siblings = tuple(other for other in waiters if other is not waiter)
        if at_once:
            waiter.missed = missed
            waiter.refused = lambda error: None if arrived.called else arrived.errback(error)
    return waiters
