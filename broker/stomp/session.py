"""A connected client's state: its subscriptions, what they have on loan, its transactions. No transport here.

`Session.obey` does what one frame says. It gives None if that is done, or a Deferred that fires when it is on disk;
what is refused is raised or fails the Deferred. Whoever calls writes the RECEIPT or the ERROR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.outbox import Outbox
from broker.stomp import destinations
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.headers import needed
from broker.stomp.messages import Tails, to_message
from broker.stomp.settling import Settling
from broker.stomp.subscriptions import Subscriptions, Terms
from broker.stomp.wire import Frame


class Session:
    """One client, from CONNECTED to the end of its connection.

    `cancelled` is called when the broker ends a subscription by itself.
    """

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
        self._broker = broker
        self._access = access
        self._flavour = terms.flavour
        self._subscriptions = Subscriptions(broker, access, dialect, outbox, tails, terms, name, cancelled)
        self._settling = Settling(broker, dialect, terms, self._subscriptions)
        self._ended = False

    def obey(self, frame: Frame) -> tuple[Deferred[Any] | None, list[str]]:
        """Do what a frame of a connected client says; raises `Refused` or a `BrokerError`.

        What it waits for, and the ids of the receipts that are due then.
        """
        headers = frame.headers
        receipts = [headers["receipt"]] if "receipt" in headers else []
        outcome: Deferred[Any] | None = None
        match frame.command:
            case "SEND":
                outcome, receipts = self._send(frame, receipts)
            case "ACK":
                outcome = self._settling.ack(headers)
            case "NACK":
                outcome = self._settling.nack(headers)
            case "SUBSCRIBE":
                self._subscriptions.subscribe(headers)
            case "UNSUBSCRIBE":
                self._subscriptions.unsubscribe(headers)
            case "BEGIN":
                self._settling.begin(headers)
            case "COMMIT":
                outcome, late = self._settling.commit(headers)
                receipts = late + receipts
            case "ABORT":
                self._settling.abort(headers)
            case _:
                raise Refused("Bad command", "the command is none that a client may send here", named=frame.command)
        return outcome, receipts

    def _send(self, frame: Frame, receipts: list[str]) -> tuple[Deferred[Any] | None, list[str]]:
        text = needed(frame.headers, "destination")
        targets = destinations.parse(text, default=self._flavour.bare)
        for target in targets:
            destinations.must_be_there(target, self._broker)
            self._access.publish(target.destination)
        transaction = self._settling.transaction(frame.headers)
        message = to_message(frame.headers, frame.body, targets)
        if transaction is not None:
            for target in targets:
                transaction.publish(target.destination, message)
            if self._flavour.tx_send_receipt == "commit":
                transaction.receipts += receipts
                return None, []
            return None, receipts
        if len(targets) == 1:
            return self._broker.publish(targets[0].destination, message), receipts
        return self._broker.publish_to([target.destination for target in targets], message), receipts

    @property
    def unsent(self) -> bool:
        """True if deliveries would go back to their queues only because their bytes are still in our send buffer."""
        return self._subscriptions.unsent

    def pause(self) -> None:
        """Let no further deliveries come."""
        self._subscriptions.pause()

    def resume(self) -> None:
        """Let deliveries come again."""
        self._subscriptions.resume()

    def end(self, *, counted: bool = True) -> None:
        """Give back everything unsettled, as failed deliveries if `counted`, and abort what is not committed."""
        if self._ended:
            return
        self._ended = True
        self._settling.end()
        left = self._subscriptions.end()
        if counted:
            self._broker.nack(left, reason="connection lost")
        else:
            self._broker.release(left)
