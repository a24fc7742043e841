"""A connected client's state: its subscriptions, what they have on loan, its transactions. No transport here.

`Session.obey` does what one frame says. It returns None if that is done, or a Deferred that fires when it is on disk;
what is refused is raised or fails the Deferred. Whoever calls writes the RECEIPT or the ERROR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.outbox import Outbox
from broker.stomp import destinations
from broker.stomp.consumer import AckMode, Consumer
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.messages import Tails, number, rank, to_message
from broker.stomp.transaction import OpenTransaction, loaned
from broker.stomp.wire import Frame

#: Deliveries a subscription may have unsettled when it does not say.
PREFETCH = 1000
#: Subscriptions of one session, ended ones with unsettled deliveries included.
MAX_SUBSCRIPTIONS = 1000
#: Open transactions of one session; RabbitMQ's number.
MAX_TRANSACTIONS = 16

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


class Session:
    """One client, from CONNECTED to the end of its connection."""

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
    ) -> None:
        self.name = name
        self._broker = broker
        self._access = access
        self._dialect = dialect
        self._outbox = outbox
        self._tails = tails
        self._terms = terms
        self._consumers: dict[str, Consumer] = {}
        #: Unsubscribed, newest last; what they have unsettled can still be settled.
        self._retired: list[Consumer] = []
        self._transactions: dict[str, OpenTransaction] = {}
        #: Deliveries made so far: the next one's number.
        self._numbered = 0
        #: Of `auto` subscriptions: written, but not known to have left our send buffer.
        self._unsent: list[Delivery] = []
        self._paused = False
        self._ended = False

    def obey(self, frame: Frame) -> Deferred[Any] | None:
        """Do what a frame of a connected client says; raises `Refused` or a `BrokerError`."""
        headers = frame.headers
        match frame.command:
            case "SEND":
                return self._send(frame)
            case "ACK":
                return self._settle(headers, "ack")
            case "NACK":
                if not self._dialect.has_nack:
                    raise Refused(f"NACK not supported in {self._dialect.version}")
                return self._settle(headers, "reject" if headers.get("requeue") == "false" else "nack")
            case "SUBSCRIBE":
                self._subscribe(headers)
            case "UNSUBSCRIBE":
                self._unsubscribe(headers)
            case "BEGIN":
                self._begin(_needed(headers, "transaction"))
            case "COMMIT":
                return self._commit(_needed(headers, "transaction"))
            case "ABORT":
                self._abort(_needed(headers, "transaction"))
            case _:
                raise Refused("Bad command", "the command is none that a client may send here")
        return None

    # -- SEND

    def _send(self, frame: Frame) -> Deferred[Any] | None:
        destination = destinations.parse(_needed(frame.headers, "destination"))
        self._access.publish(destination)
        transaction = self._transaction(frame.headers)
        message = to_message(frame.headers, frame.body)
        if transaction is None:
            return self._broker.publish(destination, message)
        transaction.publish(destination, message)
        return None

    # -- SUBSCRIBE, UNSUBSCRIBE

    def _subscribe(self, headers: dict[str, str]) -> None:
        text = _needed(headers, "destination")
        id = _needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        consumer, priority = self._consumer(text, id, headers), rank(headers)
        self._access.subscribe(consumer.destination, waits=True)
        key = _key(text, id)
        if key in self._consumers:
            if self._dialect.needs_id:
                raise Refused("Duplicated subscription identifier", f"there is a subscription {id}")
            self._retire(key)
        self._retired = [one for one in self._retired if self._matters(one)]
        if len(self._consumers) + len(self._retired) >= MAX_SUBSCRIPTIONS:
            raise Refused("Too many subscriptions", f"at most {MAX_SUBSCRIPTIONS} in a session")
        consumer.subscription = self._broker.subscribe(
            consumer.destination,
            self._deliver_to(consumer),
            prefetch=consumer.prefetch,
            priority=priority,
            reliable=consumer.mode is not AckMode.AUTO,
        )
        self._consumers[key] = consumer
        if self._paused:
            self._broker.pause(consumer.subscription)

    def _consumer(self, text: str, id: str | None, headers: dict[str, str]) -> Consumer:
        destination = destinations.parse(text)
        try:
            mode = AckMode(headers.get("ack", "auto"))
        except ValueError:
            raise Refused("Invalid ack mode", "ack must be auto, client or client-individual") from None
        is_topic = text.startswith("/topic/")
        for name in (*_REFUSED, *(_REFUSED_ON_TOPICS if is_topic else ())):
            if headers.get(name, "false") not in ("false", ""):
                raise Refused("Not supported", f"{name} is not supported on SUBSCRIBE")
        return Consumer(id, mode, destination, self._prefetch(headers), self._dialect)

    def _prefetch(self, headers: dict[str, str]) -> int:
        limit = self._terms.max_prefetch
        count = number(headers, "prefetch-count", 2**63)
        if count is not None:
            return min(count or limit, limit)
        count = number(headers, "activemq.prefetchSize", 2**63)
        return min(PREFETCH if count is None else max(count, 1), limit)

    def _unsubscribe(self, headers: dict[str, str]) -> None:
        id = _needed(headers, "id") if self._dialect.needs_id else headers.get("id")
        if id is not None:
            key = _key("", id)
        else:
            if "destination" not in headers:
                raise Refused("Missing id", "UNSUBSCRIBE needs an id or a destination")
            destination = destinations.parse(headers["destination"])
            found = [key for key, one in self._consumers.items() if one.destination == destination]
            key = next(iter(found), "")
        if key not in self._consumers:
            raise Refused("No subscription found", "this session has no such subscription")
        self._retire(key)

    def _retire(self, key: str) -> None:
        consumer = self._consumers.pop(key)
        self._broker.unsubscribe(consumer.subscription)
        if self._matters(consumer):
            self._retired.append(consumer)

    def _matters(self, consumer: Consumer) -> bool:
        return bool(consumer.unsettled) or any(one.concerns(consumer) for one in self._transactions.values())

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
                self._broker.pause(consumer.subscription)

    def resume(self) -> None:
        """Let deliveries come again."""
        if self._paused and not self._ended:
            self._paused = False
            for consumer in list(self._consumers.values()):
                if self._paused:
                    break
                self._broker.resume(consumer.subscription)

    # -- ACK, NACK

    def _settle(self, headers: dict[str, str], kind: str) -> Deferred[Any] | None:
        for name in self._dialect.ack_headers:
            _needed(headers, name)
        transaction = self._transaction(headers)
        for consumer, delivery_number in self._named(headers):
            if transaction is not None and transaction.knows(consumer, delivery_number):
                transaction.settle(consumer, delivery_number, kind)
                return None
            if transaction is None and (taken := consumer.take(delivery_number)):
                consumer.forget(taken)
                deliveries = loaned(taken, delivery_number)
                if kind == "nack":
                    self._broker.nack(deliveries, reason="nack")
                    return None
                return (self._broker.ack if kind == "ack" else self._broker.reject)(deliveries)
        raise Refused("Message not found", "the frame names no unsettled delivery of this session")

    def _named(self, headers: dict[str, str]) -> Iterator[tuple[Consumer, int]]:
        """The deliveries a frame may mean, as subscription and number: by ack id, or by message and subscription."""
        if self._dialect.names_acks:
            id, _, digits = headers["id"].rpartition(".")
            if digits.isascii() and digits.isdigit() and len(digits) < 20:
                for consumer in self._called(id):
                    yield consumer, int(digits)
            return
        for consumer in self._called(headers.get("subscription")):
            found = consumer.number_of(headers["message-id"])
            if found is not None:
                yield consumer, found

    def _called(self, id: str | None) -> Iterator[Consumer]:
        """Subscriptions with this id, or all of them; those in force first, then the newest."""
        if id in self._consumers:
            yield self._consumers[id]
        elif id is None:
            yield from self._consumers.values()
        for consumer in reversed(self._retired):
            if id is None or consumer.id == id:
                yield consumer

    # -- transactions

    def _transaction(self, headers: dict[str, str]) -> OpenTransaction | None:
        id = headers.get("transaction")
        if id is None:
            return None
        if id not in self._transactions:
            raise Refused("Bad transaction", f"there is no open transaction {id}")
        return self._transactions[id]

    def _begin(self, id: str) -> None:
        if id in self._transactions:
            raise Refused("Transaction already started", f"transaction {id} is open")
        if len(self._transactions) >= MAX_TRANSACTIONS:
            raise Refused("Too many transactions", f"at most {MAX_TRANSACTIONS} may be open in a session")
        self._transactions[id] = OpenTransaction(self._broker.begin())

    def _commit(self, id: str) -> Deferred[Any]:
        transaction = self._transaction({"transaction": id})
        assert transaction is not None
        committed = transaction.core.commit()
        del self._transactions[id]

        def done(_result: object) -> None:
            transaction.forget()

        def failed(failure: Failure) -> Failure:
            if self._ended:
                self._broker.nack(transaction.deliveries(), reason="connection lost")
            else:
                transaction.put_back()
            return failure

        return committed.addCallbacks(done, failed)

    def _abort(self, id: str) -> None:
        transaction = self._transaction({"transaction": id})
        assert transaction is not None
        del self._transactions[id]
        transaction.core.abort()
        transaction.put_back()

    # -- the end

    def end(self, *, counted: bool = True) -> None:
        """Give back everything unsettled, as failed deliveries if `counted`, and abort what is not committed."""
        if self._ended:
            return
        self._ended = True
        for transaction in self._transactions.values():
            transaction.core.abort()
            transaction.put_back()
        self._transactions.clear()
        left = [*self._unsent]
        for consumer in self._consumers.values():
            self._broker.unsubscribe(consumer.subscription)
        for consumer in (*self._retired, *self._consumers.values()):
            left += consumer.unsettled.values()
        self._unsent.clear()
        self._consumers.clear()
        self._retired.clear()
        if counted:
            self._broker.nack(left, reason="connection lost")
        else:
            self._broker.release(left)


def _needed(headers: dict[str, str], name: str) -> str:
    value = headers.get(name)
    if value is None:
        raise Refused(f"Missing {name}", f"the frame needs a header {name}")
    return value


def _key(destination: str, id: str | None) -> str:
    """Under which a subscription is known: by its id, or (1.0) by its destination. No header holds a NUL."""
    return f"\0{destination}" if id is None else id
