"""The subscriptions of a session: what SUBSCRIBE and UNSUBSCRIBE say, and what comes to be because of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.auth.door import Access
from broker.auth.rights import Action
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind, queue
from broker.errors import BadName, BrokerError
from broker.stomp.browser import browse
from broker.stomp.consumer import AckMode, Consumer
from broker.stomp.delivering import Delivering
from broker.stomp.destinations import Form, Names, Target
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.headers import needed
from broker.stomp.temporary import Temporaries
from broker.stomp.wishes import Durable, Terms, Wish, is_shared, named_queue, shared_queue, wish

#: Subscriptions of one session, ended ones with unsettled deliveries and each item of a list included.
MAX_SUBSCRIPTIONS = 1000


class Subscriptions:
    """One session's.

    `owner` is whose durable subscriptions it means. `cancelled` is called when the broker ends one by itself.
    """

    def __init__(
        self,
        broker: Broker,
        access: Access,
        dialect: Dialect,
        terms: Terms,
        names: Names,
        owner: str,
        temporaries: Temporaries,
        delivering: Delivering,
        cancelled: Callable[[Refused], None],
    ) -> None:
        #: Whether a transaction holds deliveries of a consumer.
        self.concerned: Callable[[Consumer], bool] = lambda consumer: False
        #: True while one of them wants nothing that its own session has sent.
        self.no_local = False
        self._broker = broker
        self._access = access
        self._dialect = dialect
        self._terms = terms
        self._names = names
        self._owner = owner
        self._temporaries = temporaries
        self._delivering = delivering
        self._cancelled = cancelled
        self._consumers: dict[str, Consumer] = {}
        #: Unsubscribed, newest last; what they have unsettled can still be settled.
        self._retired: list[Consumer] = []
        self._paused = False
        self._ended = False

    # -- SUBSCRIBE

    def subscribe(self, headers: dict[str, str]) -> Deferred[None] | None:
        """A SUBSCRIBE; fires when all that it needs is on disk, None: it needs nothing."""
        text = needed(headers, "destination")
        id = needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        targets = self._names.parse(text, reading=True)
        asked = wish(headers, targets, self._owner, self._dialect, self._terms)
        for target in targets:
            self._check(target, asked)
        key = _key(text, id)
        if key in self._consumers and self._dialect.needs_id:
            raise Refused("Duplicated subscription identifier", f"there is a subscription {id}")
        for target in targets:
            self._replace(target)
        if key in self._consumers:
            self._retire(key)
        self._retired = [one for one in self._retired if self._matters(one)]
        there = sum(len(one.targets) for one in (*self._consumers.values(), *self._retired))
        if there + len(targets) > MAX_SUBSCRIPTIONS:
            raise Refused("Too many subscriptions", f"at most {MAX_SUBSCRIPTIONS} in a session")
        consumer = Consumer(id, asked, targets, self._dialect, self._terms)
        preparing = self._attach(consumer)
        self._consumers[key] = consumer
        self.no_local = self.no_local or asked.no_local
        return preparing

    def imply(self, target: Target) -> None:
        """Replies to a temporary queue of this session come to it, also if it never says that it wants them."""
        if any(target.destination == one.destination for each in self._consumers.values() for one in each.targets):
            return
        consumer = Consumer(
            target.text, Wish(AckMode.AUTO, self._terms.flavour.prefetch), (target,), self._dialect, self._terms
        )
        self._attach(consumer)
        self._consumers[_implied(target)] = consumer

    def _check(self, target: Target, asked: Wish) -> None:
        destination, form = target.destination, target.form
        if form is Form.EXPORTED:
            raise Refused("Invalid destination", f"{target.text} is somebody else's: it can only be sent to")
        if form is Form.TEMPORARY:
            self._temporaries.make(target)
            return
        if form is Form.EXISTING:  # who may not read there does not learn whether it exists
            self._access.check(Action.BROWSE if asked.browser else Action.SUBSCRIBE, destination)
        if form is Form.EXISTING and not self._broker.exists(destination.name):
            raise Refused("Destination not found", f"{target.text}: there is no queue {destination.name}")
        if asked.browser:
            self._access.check(Action.BROWSE, destination)
            return
        self._access.subscribe(destination, waits=True)
        if asked.durable is not None:
            self._check_durable(asked.durable)

    def _check_durable(self, asked: Durable) -> None:
        try:
            own = queue(asked.queue)
        except BadName as error:
            raise Refused("Invalid destination", error.reason) from None
        self._access.subscribe(own, waits=True)
        if not asked.shared and self._broker.queue_stats(own.name).consumers:
            raise Refused("Durable subscription in use", f"somebody consumes {own.name} already", named=own.name)

    def _replace(self, target: Target) -> None:
        """Who subscribes to a temporary queue of his gets its messages so, and no longer without having asked."""
        if target.form is Form.TEMPORARY and _implied(target) in self._consumers:
            self._retire(_implied(target))

    def _attach(self, consumer: Consumer) -> Deferred[None] | None:
        """Have the consumer get what it asks for."""
        asked, targets = consumer.wish, [target.destination for target in consumer.targets]
        if self._paused:
            consumer.holds.add("session")
        if asked.browser:
            browsing = Deferred.fromCoroutine(browse(self._broker, self._delivering, consumer, targets[0]))
            _ = browsing.addErrback(self._browser_failed, consumer)
            return None
        if asked.durable is not None:
            sources, targets = targets, [queue(asked.durable.queue)]
        elif asked.since is not None:
            sources, targets = targets, [self._temporaries.private()]
            consumer.private = targets[0]
        else:
            sources = []
        if sources:
            consumer.holds.add("preparing")
        selector = asked.selector
        live = any(target.kind is Kind.TOPIC for target in targets)
        consumer.filters = asked.no_local or (selector is not None and (live or bool(sources)))
        accepts = selector.accepts if selector is not None and not sources else None
        deliver = self._delivering.to(consumer)
        consumer.reserved = self._access.reserve(asked.prefetch * len(targets))
        prefetch = max(consumer.reserved // len(targets), 1)
        try:
            for target in targets:
                consumer.subscriptions.append(
                    self._broker.subscribe(
                        target,
                        deliver,
                        prefetch=prefetch,
                        priority=asked.priority,
                        reliable=asked.mode is not AckMode.AUTO,
                        exclusive=asked.exclusive,
                        accepts=accepts,
                        dropped=lambda: self._dropped(consumer, "messages came faster than they were taken"),
                        deleted=lambda: self._deleted(consumer),
                        tell=self._delivering.tell(consumer),
                    )
                )
        except BaseException:
            self._unsubscribe(consumer)
            raise
        for reason in consumer.holds:
            self._delivering.hold(consumer, reason)
        return self._prepare(consumer, targets[0].name, sources) if sources else None

    def _prepare(self, consumer: Consumer, name: str, sources: list[Destination]) -> Deferred[None]:
        """Bind the queue that a consumer reads; its first message comes after the reply that it was done."""
        prepared: Deferred[None] = Deferred()

        async def prepare() -> None:
            try:
                before = self._broker.sources(name)
                if consumer.wish.durable is not None and before and before != sources:
                    await self._broker.delete(name)  # it was another subscription of that name
                for source in sources:
                    await self._broker.bind(name, source, since=consumer.wish.since)
            except Exception as error:
                self._forget(consumer)
                prepared.errback(error)
                return
            prepared.callback(None)
            self._broker.clock.callLater(0, self._prepared, consumer)

        _ = Deferred.fromCoroutine(prepare())
        return prepared

    def _prepared(self, consumer: Consumer) -> None:
        if not consumer.closed:
            self._delivering.free(consumer, "preparing")

    def _forget(self, consumer: Consumer) -> None:
        for key, one in list(self._consumers.items()):
            if one is consumer:
                del self._consumers[key]
                self._unsubscribe(consumer)

    def _browser_failed(self, failure: Failure, consumer: Consumer) -> None:
        if not consumer.closed:
            self._forget(consumer)
            detail = failure.value.reason if isinstance(failure.value, BrokerError) else ""
            self._cancelled(Refused("Browsing failed", detail, headers=_subscription(consumer)))

    def _dropped(self, consumer: Consumer, why: str) -> None:
        self._cancelled(Refused("Subscription cancelled", why, headers=_subscription(consumer)))

    def _deleted(self, consumer: Consumer) -> None:
        if "preparing" not in consumer.holds:  # else it has the queue made anew for itself
            self._dropped(consumer, "its queue was deleted")

    # -- UNSUBSCRIBE

    def unsubscribe(self, headers: dict[str, str]) -> Deferred[None] | None:
        """An UNSUBSCRIBE; fires when a durable subscription is gone, None: nothing is to be waited for."""
        named = named_queue(headers, self._owner)
        if named:
            # ActiveMQ's way takes two steps: who consumes it must say first that he does so no more.
            key = None if "activemq.subscriptionName" in headers else self._reading(named)
            return self._end_durable(named, key)
        key = self._key_of(headers)
        consumer = self._consumers.get(key or "")
        if is_shared(headers):
            if consumer is not None and consumer.wish.durable is not None:
                return self._end_durable(consumer.wish.durable.queue, key)
            if consumer is None and "destination" in headers:
                (target, *_) = self._names.parse(headers["destination"], reading=True)
                return self._end_durable(shared_queue(headers, target), None)
        if key is None or consumer is None:
            raise Refused("No subscription found", "this session has no such subscription")
        self._retire(key)
        return None

    def _reading(self, name: str) -> str | None:
        found = (key for key, one in self._consumers.items() if one.wish.durable and one.wish.durable.queue == name)
        return next(found, None)

    def _key_of(self, headers: dict[str, str]) -> str | None:
        id = needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        if id is not None:
            return _key("", id)
        if "destination" not in headers:
            raise Refused("Missing id", "UNSUBSCRIBE needs an id or a destination")
        meant = _read(self._names.parse(headers["destination"], reading=True))
        return next((key for key, one in self._consumers.items() if _read(one.targets) == meant), None)

    def _end_durable(self, name: str, key: str | None) -> Deferred[None]:
        """End a durable subscription for good, which this session consumes under `key`, if it does."""
        destination = Destination(Kind.QUEUE, name)
        self._access.check(Action.SUBSCRIBE, destination)
        self._access.check(Action.CREATE, destination)
        if key is not None:
            self._retire(key)
        if self._broker.queue_stats(name).consumers:
            raise Refused("Durable subscription in use", f"somebody consumes {name}", named=name)

        async def delete() -> None:
            if not await self._broker.delete(name):
                raise Refused("No subscription found", f"there is no durable subscription {name}", named=name)

        return Deferred.fromCoroutine(delete())

    def _retire(self, key: str) -> None:
        consumer = self._consumers.pop(key)
        self._unsubscribe(consumer)
        if self._matters(consumer):
            self._retired.append(consumer)

    def _unsubscribe(self, consumer: Consumer) -> None:
        consumer.closed = True
        consumer.wake()
        for subscription in consumer.subscriptions:
            self._broker.unsubscribe(subscription)
        reserved, consumer.reserved = consumer.reserved, 0
        self._access.free(reserved, consumer.unsettled.values())
        if consumer.private is not None and not consumer.unsettled:
            self._temporaries.drop(consumer.private)
            consumer.private = None

    def _matters(self, consumer: Consumer) -> bool:
        return bool(consumer.unsettled) or self.concerned(consumer)

    # -- finding

    def subscribed(self, id: str) -> Consumer | None:
        """The one in force with this id."""
        return self._consumers.get(id)

    def called(self, id: str | None) -> Iterator[Consumer]:
        """Those with this id, or all of them; those in force first, then the newest."""
        if id in self._consumers:
            yield self._consumers[id]
        elif id is None:
            yield from self._consumers.values()
        for consumer in reversed(self._retired):
            if id is None or consumer.id == id:
                yield consumer

    # -- all of them

    def pause(self) -> None:
        """Let no further deliveries come."""
        if not self._paused:
            self._paused = True
            for consumer in self._consumers.values():
                self._delivering.hold(consumer, "session")

    def resume(self) -> None:
        """Let deliveries come again."""
        if self._paused and not self._ended:
            self._paused = False
            for consumer in list(self._consumers.values()):
                if self._paused:
                    return
                self._delivering.free(consumer, "session")

    def end(self) -> list[Delivery]:
        """No more of them; what is unsettled, to be given back."""
        self._ended = True
        left = self._delivering.end()
        for consumer in self._consumers.values():
            self._unsubscribe(consumer)
        for consumer in (*self._retired, *self._consumers.values()):
            left += consumer.unsettled.values()
        self._consumers.clear()
        self._retired.clear()
        return left


def _subscription(consumer: Consumer) -> dict[str, str]:
    return {} if consumer.id is None else {"subscription": consumer.id}


def _read(targets: Iterable[Target]) -> list[Destination]:
    return [target.destination for target in targets]


def _key(destination: str, id: str | None) -> str:
    """Under which a subscription is known: by its id, or (1.0) by its destination. No header holds a NUL."""
    return f"\0{destination}" if id is None else id


def _implied(target: Target) -> str:
    return f"\0\0{target.destination.name}"
