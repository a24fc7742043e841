"""ACK, NACK, and the transactions of a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.stomp.consumer import AckMode, Consumer
from broker.stomp.delivering import Delivering
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.frames import Acks
from broker.stomp.headers import needed, number
from broker.stomp.subscriptions import Subscriptions
from broker.stomp.transaction import OpenTransaction, loaned
from broker.stomp.wishes import Terms

#: Open transactions of one session; RabbitMQ's number.
MAX_TRANSACTIONS = 16
#: What an ACK carries in 1.1, and in 1.2 if that is allowed.
LENIENT = ("message-id", "subscription")
#: The longest time a NACK hides a message for (ms): 10 years. And characters of its reason that are kept.
_MAX_DELAY = 10 * 366 * 86_400_000
_MAX_REASON = 200


class Settling:
    """What one session settles, at once or in transactions."""

    def __init__(
        self, broker: Broker, dialect: Dialect, terms: Terms, subscriptions: Subscriptions, delivering: Delivering
    ) -> None:
        self._broker = broker
        self._dialect = dialect
        self._terms = terms
        self._flavour = terms.flavour
        self._subscriptions = subscriptions
        self._delivering = delivering
        subscriptions.concerned = lambda consumer: any(one.concerns(consumer) for one in self._transactions.values())
        self._transactions: dict[str, OpenTransaction] = {}
        self._acked: list[Delivery] = []
        self._ended = False

    # -- ACK, NACK

    def ack(self, headers: dict[str, str]) -> Deferred[Any] | None:
        """An ACK."""
        return self._settle(headers, "ack")

    def gather(self, headers: dict[str, str]) -> None:
        """An ACK outside of transactions, to be settled together with others by `acked`.

        Each by itself looks for what may be delivered now: 10 us.
        """
        self._acked += self._concerned(headers, "ack")

    def gather_all(self, acks: Acks) -> bool:
        """The same for ACKs that came together: 0.5 us each, 4 us as frames; False: nothing is done, obey each."""
        consumer = self._subscriptions.subscribed(acks.id)
        if consumer is None or not (taken := consumer.take_each(acks.numbers)):
            return False
        consumer.forget(taken)
        self._delivering.settled(consumer)
        self._acked += taken.values()
        return True

    def acked(self) -> Deferred[Any] | None:
        """Settle what was gathered; None: nothing was."""
        acked, self._acked = self._acked, []
        return self._broker.ack(acked) if acked else None

    def nack(self, headers: dict[str, str]) -> Deferred[Any] | None:
        """A NACK."""
        if not self._dialect.has_nack:
            raise Refused(f"NACK not supported in {self._dialect.version}")
        default = "true" if self._flavour.nack == "requeue" else "false"
        return self._settle(headers, "reject" if headers.get("requeue", default) == "false" else "nack")

    def _settle(self, headers: dict[str, str], kind: str) -> Deferred[Any] | None:
        delay = number(headers, "delay", _MAX_DELAY) if kind == "nack" else None
        reason = headers.get("reason", "nack")[:_MAX_REASON]
        transaction = self.transaction(headers)
        if transaction is not None:
            for consumer, named in self._named(headers):
                if transaction.knows(consumer, named):
                    transaction.settle(consumer, named, kind, self._take(consumer, named, kind), reason, delay)
                    return None
            raise _unknown(headers)
        held = self._concerned(headers, kind)
        if kind == "nack":
            self._broker.nack(held, reason=reason, delay=delay)
            return None
        return (self._broker.ack if kind == "ack" else self._broker.reject)(held)

    def _concerned(self, headers: dict[str, str], kind: str) -> list[Delivery]:
        """The deliveries that a frame outside of transactions settles, taken out."""
        for consumer, named in self._named(headers):
            if taken := self._take(consumer, named, kind):
                for one, deliveries in taken.items():
                    one.forget(deliveries)
                return loaned(taken, consumer, named)
        raise _unknown(headers)

    def _take(self, consumer: Consumer, named: int, kind: str) -> dict[Consumer, dict[int, Delivery]]:
        """What an ACK or NACK of this delivery concerns, taken out."""
        taken = consumer.take(named, alone=kind != "ack" and not self._flavour.nack_covers)
        found = {consumer: taken} if taken else {}
        if taken and consumer.mode is AckMode.CLIENT and kind == "ack" and self._flavour.ack_reach == "connection":
            for other in self._subscriptions.called(None):
                if other is not consumer and (earlier := other.take_until(named)):
                    found[other] = earlier
        for one in found:
            self._delivering.settled(one)
        return found

    def _named(self, headers: dict[str, str]) -> Iterator[tuple[Consumer, int]]:
        """The deliveries a frame may mean, as subscription and number: by ack id, or by message and subscription."""
        lenient = self._terms.lenient_ack and "id" not in headers
        for name in LENIENT if lenient else self._dialect.ack_headers:
            needed(headers, name)
        if self._dialect.names_acks and not lenient:
            id, _, digits = headers["id"].rpartition(".")
            if digits.isascii() and digits.isdigit() and len(digits) < 20:
                for consumer in self._subscriptions.called(id):
                    yield consumer, int(digits)
            return
        for consumer in self._subscriptions.called(headers.get("subscription")):
            found = consumer.number_of(headers["message-id"])
            if found is not None:
                yield consumer, found

    # -- transactions

    def transaction(self, headers: dict[str, str]) -> OpenTransaction | None:
        """The transaction that a frame is part of; None: of none."""
        id = headers.get("transaction")
        if id is None:
            return None
        if id not in self._transactions:
            raise Refused("Bad transaction", f"there is no open transaction {id}", named=id)
        return self._transactions[id]

    def begin(self, headers: dict[str, str]) -> None:
        """A BEGIN."""
        id = needed(headers, "transaction")
        if id in self._transactions:
            raise Refused("Transaction already started", f"transaction {id} is open", named=id)
        if len(self._transactions) >= MAX_TRANSACTIONS:
            raise Refused("Too many transactions", f"at most {MAX_TRANSACTIONS} may be open in a session")
        self._transactions[id] = OpenTransaction(self._broker.begin())

    def commit(self, headers: dict[str, str]) -> tuple[Deferred[Any], list[str]]:
        """A COMMIT; with it, the ids of receipts that waited for it."""
        transaction = self._ending(headers)
        committed = transaction.core.commit()
        del self._transactions[headers["transaction"]]

        def done(_result: object) -> None:
            transaction.forget()

        def failed(failure: Failure) -> Failure:
            if self._ended:
                self._broker.lost(transaction.deliveries())
            else:
                transaction.put_back()
            return failure

        return committed.addCallbacks(done, failed), transaction.receipts

    def abort(self, headers: dict[str, str]) -> None:
        """An ABORT."""
        self._aborted(self._ending(headers))
        del self._transactions[headers["transaction"]]

    def _ending(self, headers: dict[str, str]) -> OpenTransaction:
        needed(headers, "transaction")
        transaction = self.transaction(headers)
        assert transaction is not None
        return transaction

    def _aborted(self, transaction: OpenTransaction) -> None:
        transaction.core.abort()
        transaction.put_back()

    def end(self) -> None:
        """Abort what is not committed."""
        self._ended = True
        for transaction in self._transactions.values():
            self._aborted(transaction)
        self._transactions.clear()


def _unknown(headers: dict[str, str]) -> Refused:
    said = headers.get("id") or headers.get("message-id", "")
    return Refused("Message not found", "the frame names no unsettled delivery of this session", named=said)
