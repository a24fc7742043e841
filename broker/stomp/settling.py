"""ACK, NACK, and the transactions of a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.stomp.consumer import Consumer
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.headers import needed
from broker.stomp.subscriptions import Subscriptions
from broker.stomp.transaction import OpenTransaction, loaned

#: Open transactions of one session; RabbitMQ's number.
MAX_TRANSACTIONS = 16


class Settling:
    """What one session settles, at once or in transactions."""

    def __init__(self, broker: Broker, dialect: Dialect, subscriptions: Subscriptions) -> None:
        self._broker = broker
        self._dialect = dialect
        self._subscriptions = subscriptions
        subscriptions.concerned = lambda consumer: any(one.concerns(consumer) for one in self._transactions.values())
        self._transactions: dict[str, OpenTransaction] = {}
        self._ended = False

    # -- ACK, NACK

    def nack(self, headers: dict[str, str]) -> Deferred[Any] | None:
        """A NACK."""
        if not self._dialect.has_nack:
            raise Refused(f"NACK not supported in {self._dialect.version}")
        return self._settle(headers, "reject" if headers.get("requeue") == "false" else "nack")

    def ack(self, headers: dict[str, str]) -> Deferred[Any] | None:
        """An ACK."""
        return self._settle(headers, "ack")

    def _settle(self, headers: dict[str, str], kind: str) -> Deferred[Any] | None:
        for name in self._dialect.ack_headers:
            needed(headers, name)
        transaction = self.transaction(headers)
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
            raise Refused("Bad transaction", f"there is no open transaction {id}")
        return self._transactions[id]

    def begin(self, headers: dict[str, str]) -> None:
        """A BEGIN."""
        id = needed(headers, "transaction")
        if id in self._transactions:
            raise Refused("Transaction already started", f"transaction {id} is open")
        if len(self._transactions) >= MAX_TRANSACTIONS:
            raise Refused("Too many transactions", f"at most {MAX_TRANSACTIONS} may be open in a session")
        self._transactions[id] = OpenTransaction(self._broker.begin())

    def commit(self, headers: dict[str, str]) -> Deferred[Any]:
        """A COMMIT."""
        transaction = self._ending(headers)
        committed = transaction.core.commit()
        del self._transactions[headers["transaction"]]

        def done(_result: object) -> None:
            transaction.forget()

        def failed(failure: Failure) -> Failure:
            if self._ended:
                self._broker.nack(transaction.deliveries(), reason="connection lost")
            else:
                transaction.put_back()
            return failure

        return committed.addCallbacks(done, failed)

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
