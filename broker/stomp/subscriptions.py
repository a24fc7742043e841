"""The subscriptions of a session: what SUBSCRIBE and UNSUBSCRIBE say, and what is delivered because of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.outbox import Outbox
from broker.stomp import destinations
from broker.stomp.consumer import AckMode, Consumer
from broker.stomp.destinations import Target
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.flavour import DEFAULT, Flavour
from broker.stomp.headers import needed, number, rank
from broker.stomp.messages import Tails

#: Deliveries an ``auto`` subscription may have unsettled when it does not say.
PREFETCH = 1000
#: Subscriptions of one session, ended ones with unsettled deliveries and each item of a list included.
MAX_SUBSCRIPTIONS = 1000

#: SUBSCRIBE headers that change which messages come, or whether they are consumed, and are not there yet. To ignore
#: them would take messages from a queue that their reader did not ask for. The second list matters for topics only.
_REFUSED = ("selector", "browser", "from-seq", "from-time")
_REFUSED_ON_TOPICS = (
    "durable",
    "persistent",
    "activemq.subscriptionName",
    "durable-subscription-name",
    "durable-subscriber-name",
)


class Terms(msgspec.Struct, frozen=True):
    """What a listener allows its sessions."""

    #: What `prefetch-count:0` means, and the most that can be asked for.
    max_prefetch: int = 65_536
    #: Whose ways it has.
    flavour: Flavour = DEFAULT
    #: In 1.2 an ACK may name its message as in 1.1 does.
    lenient_ack: bool = False


class Subscriptions:
    """One session's."""

    _log = Logger()

    def __init__(
        self,
        broker: Broker,
        access: Access,
        dialect: Dialect,
        outbox: Outbox,
        tails: Tails,
        terms: Terms,
        name: str,
        cancelled: Callable[[Refused], None],
    ) -> None:
        self.name = name
        #: Whether a transaction holds deliveries of a consumer.
        self.concerned: Callable[[Consumer], bool] = lambda consumer: False
        self._broker = broker
        self._access = access
        self._dialect = dialect
        self._outbox = outbox
        self._tails = tails
        self._terms = terms
        self._cancelled = cancelled
        self._consumers: dict[str, Consumer] = {}
        #: Unsubscribed, newest last; what they have unsettled can still be settled.
        self._retired: list[Consumer] = []
        #: Deliveries made so far: the next one's number.
        self._numbered = 0
        #: Of `auto` subscriptions: written, but not known to have left our send buffer.
        self._unsent: list[Delivery] = []
        self._paused = False
        self._ended = False

    # -- SUBSCRIBE, UNSUBSCRIBE

    def subscribe(self, headers: dict[str, str]) -> None:
        """A SUBSCRIBE."""
        text = needed(headers, "destination")
        id = needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        targets = self._parsed(text)
        consumer, priority = self._consumer(id, targets, headers), rank(headers)
        for target in targets:
            destinations.must_be_there(target, self._broker)
            self._access.subscribe(target.destination, waits=True)
        key = _key(text, id)
        if key in self._consumers:
            if self._dialect.needs_id:
                raise Refused("Duplicated subscription identifier", f"there is a subscription {id}")
            self._retire(key)
        self._retired = [one for one in self._retired if self._matters(one)]
        there = sum(len(one.subscriptions) or 1 for one in (*self._consumers.values(), *self._retired))
        if there + len(targets) > MAX_SUBSCRIPTIONS:
            raise Refused("Too many subscriptions", f"at most {MAX_SUBSCRIPTIONS} in a session")
        deliver = self._deliver_to(consumer)
        try:
            for target in targets:
                consumer.subscriptions.append(
                    self._broker.subscribe(
                        target.destination,
                        deliver,
                        prefetch=consumer.prefetch,
                        priority=priority,
                        reliable=consumer.mode is not AckMode.AUTO,
                        dropped=lambda: self._dropped(consumer),
                    )
                )
        except BaseException:
            self._unsubscribe(consumer)
            raise
        self._consumers[key] = consumer
        if self._paused:
            self._pause(consumer)

    def _consumer(self, id: str | None, targets: tuple[Target, ...], headers: dict[str, str]) -> Consumer:
        try:
            mode = AckMode(headers.get("ack", "auto"))
        except ValueError:
            raise Refused("Invalid ack mode", "ack must be auto, client or client-individual") from None
        is_topic = any(target.destination.kind is Kind.TOPIC for target in targets)
        for name in (*_REFUSED, *(_REFUSED_ON_TOPICS if is_topic else ())):
            if headers.get(name, "false") not in ("false", ""):
                raise Refused("Not supported", f"{name} is not supported on SUBSCRIBE")
        prefetch, terms = self._prefetch(mode, headers), self._terms
        return Consumer(id, mode, targets, prefetch, self._dialect, terms.flavour, by_message=terms.lenient_ack)

    def _prefetch(self, mode: AckMode, headers: dict[str, str]) -> int:
        limit = self._terms.max_prefetch
        count = number(headers, "prefetch-count", 2**63)
        if count is not None:
            return min(count or limit, limit)
        count = number(headers, "activemq.prefetchSize", 2**63)
        if count is None:
            return min(PREFETCH if mode is AckMode.AUTO else self._terms.flavour.prefetch, limit)
        return min(max(count, 1), limit)

    def unsubscribe(self, headers: dict[str, str]) -> None:
        """An UNSUBSCRIBE."""
        id = needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        if id is not None:
            key = _key("", id)
        else:
            if "destination" not in headers:
                raise Refused("Missing id", "UNSUBSCRIBE needs an id or a destination")
            meant = _read(self._parsed(headers["destination"]))
            key = next((key for key, one in self._consumers.items() if _read(one.targets) == meant), "")
        if key not in self._consumers:
            raise Refused("No subscription found", "this session has no such subscription")
        self._retire(key)

    def _parsed(self, text: str) -> tuple[Target, ...]:
        return destinations.parse(text, reading=True, default=self._terms.flavour.bare)

    def _retire(self, key: str) -> None:
        consumer = self._consumers.pop(key)
        self._unsubscribe(consumer)
        if self._matters(consumer):
            self._retired.append(consumer)

    def _unsubscribe(self, consumer: Consumer) -> None:
        for subscription in consumer.subscriptions:
            self._broker.unsubscribe(subscription)

    def _matters(self, consumer: Consumer) -> bool:
        return bool(consumer.unsettled) or self.concerned(consumer)

    def _dropped(self, consumer: Consumer) -> None:
        id = {} if consumer.id is None else {"subscription": consumer.id}
        self._cancelled(Refused("Subscription cancelled", "messages came faster than they were taken", headers=id))

    # -- finding

    def called(self, id: str | None) -> Iterator[Consumer]:
        """Those with this id, or all of them; those in force first, then the newest."""
        if id in self._consumers:
            yield self._consumers[id]
        elif id is None:
            yield from self._consumers.values()
        for consumer in reversed(self._retired):
            if id is None or consumer.id == id:
                yield consumer

    # -- delivering

    def _deliver_to(self, consumer: Consumer) -> Callable[[Delivery], None]:
        is_auto = consumer.mode is AckMode.AUTO
        outbox, tails, dialect = self._outbox, self._tails, self._dialect

        def deliver(delivery: Delivery) -> None:
            self._numbered += 1
            outbox.write(consumer.lend(self._numbered, delivery) + tails.of(delivery, dialect))
            if is_auto:
                if not self._unsent:
                    outbox.when_sent(self._sent)
                self._unsent.append(delivery)
            if outbox.full:
                self.pause()

        return deliver

    def _sent(self) -> None:
        """What was delivered to `auto` subscriptions has left our send buffer."""
        sent, self._unsent = self._unsent, []
        settled = self._broker.ack([delivery for delivery in sent if delivery.on_loan])
        _ = settled.addErrback(self._not_settled)

    def _not_settled(self, failure: Failure) -> None:
        self._log.warn(
            "{session}: automatic settlement is not on disk: {error}",
            session=self.name,
            error=failure.getErrorMessage(),
        )

    @property
    def unsent(self) -> bool:
        """True if deliveries would go back to their queues only because their bytes are still in our send buffer."""
        return bool(self._unsent)

    def pause(self) -> None:
        """Let no further deliveries come."""
        if not self._paused:
            self._paused = True
            for consumer in self._consumers.values():
                self._pause(consumer)

    def _pause(self, consumer: Consumer) -> None:
        for subscription in consumer.subscriptions:
            self._broker.pause(subscription)

    def resume(self) -> None:
        """Let deliveries come again."""
        if self._paused and not self._ended:
            self._paused = False
            for consumer in list(self._consumers.values()):
                for subscription in consumer.subscriptions:
                    if self._paused:
                        return
                    self._broker.resume(subscription)

    # -- the end

    def end(self) -> list[Delivery]:
        """No more of them; what is unsettled, to be given back."""
        self._ended = True
        left = [*self._unsent]
        for consumer in self._consumers.values():
            self._unsubscribe(consumer)
        for consumer in (*self._retired, *self._consumers.values()):
            left += consumer.unsettled.values()
        self._unsent.clear()
        self._consumers.clear()
        self._retired.clear()
        return left


def _read(targets: Iterable[Target]) -> list[Destination]:
    return [target.destination for target in targets]


def _key(destination: str, id: str | None) -> str:
    """Under which a subscription is known: by its id, or (1.0) by its destination. No header holds a NUL."""
    return f"\0{destination}" if id is None else id
