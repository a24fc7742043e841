"""A connected client's state: its subscriptions, what they have on loan, its transactions. No transport here.

`Session.obey` does what one frame says. It gives None if that is done, or a Deferred that fires when it is on disk;
what is refused is raised or fails the Deferred. Whoever calls writes the RECEIPT or the ERROR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from broker.auth.door import ANYBODY, Access
from broker.auth.rights import Action
from broker.core.broker import Broker
from broker.core.burst import Burst, Told
from broker.core.destination import Destination, Kind
from broker.errors import BrokerError
from broker.outbox import Outbox
from broker.stomp.consumer import SENDER
from broker.stomp.delivering import Delivering
from broker.stomp.destinations import TEMPORARY, Form, Names, Target
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.frames import Acks, Frame, Repeated
from broker.stomp.headers import needed
from broker.stomp.messages import USER, Tails, to_message
from broker.stomp.repeated import Plan, Plans
from broker.stomp.settling import Settling
from broker.stomp.subscriptions import Subscriptions
from broker.stomp.temporary import Temporaries, start_of
from broker.stomp.wishes import Terms

_TEMPORARY = tuple(TEMPORARY)


class Session:
    """One client, from CONNECTED to the end of its connection.

    `cancelled` is called when the broker ends a subscription by itself. `client` is what it calls itself, the owner of
    its durable subscriptions.
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
        client: str = "",
    ) -> None:
        self._broker = broker
        self._access = access
        self._terms = terms
        self._name = name
        self._names = Names(terms.flavour.bare, f"{start_of(broker)}.{name}")
        self._temporaries = Temporaries(broker, self._names)
        self._delivering = Delivering(broker, outbox, tails, dialect, self._names, name, self.pause)
        self._subscriptions = Subscriptions(
            broker,
            access,
            dialect,
            terms,
            self._names,
            client or access.user.name,
            self._temporaries,
            self._delivering,
            cancelled,
        )
        self._plans = Plans(self._names, lambda: access.user.name if terms.user_id else "")
        self._settling = Settling(broker, dialect, terms, self._subscriptions, self._delivering)
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
                outcome = self._subscriptions.subscribe(headers)
            case "UNSUBSCRIBE":
                outcome = self._subscriptions.unsubscribe(headers)
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

    # -- what comes together

    def gather_ack(self, frame: Frame) -> None:
        """An ACK without a receipt and outside of transactions; `settle` is called soon. Raises what `obey` raises."""
        self._settling.gather(frame.headers)

    def gather_acks(self, acks: Acks) -> bool:
        """The same for ACKs that came together; False: nothing is done, each is to be obeyed by itself."""
        return self._settling.gather_all(acks)

    def settle(self) -> Deferred[Any] | None:
        """Settle the ACKs that were gathered; None: there are none."""
        return self._settling.acked()

    def plan(self, repeated: Repeated) -> Plan | None:
        """What a SEND says whose header block was here before; None: it is to be obeyed as any other frame."""
        return None if self._subscriptions.no_local else self._plans.of(repeated)

    def burst(self, destination: Destination) -> Burst | None:
        """What puts plain messages into a queue together; None if each is to be published by itself."""
        try:
            self._access.publish(destination)
        except BrokerError:
            return None  # to be said of each by itself
        return self._broker.burst(destination)

    def add(self, burst: Burst, plan: Plan, body: bytes) -> bool:
        """Put it in with the others of `burst`; False if it must be published by itself. Raises `OverLimit`."""
        message = plan.message(body)
        if not burst.takes(message):
            return False
        self._access.put_in(1, len(body))
        burst.add(message)
        return True

    def put(self, bursts: Sequence[Burst], told: Told) -> None:
        """Put them in; `told` is called once all of them are on disk, or with why none is."""
        self._broker.put(bursts, told)

    def _send(self, frame: Frame, receipts: list[str]) -> tuple[Deferred[Any] | None, list[str]]:
        headers = frame.headers
        targets = self._names.parse(needed(headers, "destination"))
        for target in targets:
            self._check(target)
        transaction = self._settling.transaction(headers)
        message = to_message(headers, frame.body, self._own(headers, targets), self._broker.now())
        self._access.put_in(1, len(frame.body))
        if transaction is None and len(targets) == 1 and targets[0].form is not Form.EXPORTED:
            return self._broker.publish(targets[0].destination, message), receipts  # the way of nearly every SEND
        there = [target.destination for target in targets if not self._is_gone(target)]
        if transaction is not None:
            for destination in there:
                transaction.publish(destination, message)
            if self._terms.flavour.tx_send_receipt == "commit":
                transaction.receipts += receipts
                return None, []
            return None, receipts
        return self._broker.publish_to(there, message) if there else None, receipts

    def _check(self, target: Target) -> None:
        """That the user may send there, and that there is where to."""
        if target.form is Form.TEMPORARY:
            self._temporaries.make(target)
        elif target.form is not Form.EXPORTED:  # whoever has the name was told it, in a reply-to
            if target.form is Form.EXISTING:  # who may not send there does not learn whether it exists
                self._access.check(Action.PUBLISH, target.destination)
            if target.form is Form.EXISTING and not self._broker.exists(target.destination.name):
                detail = f"{target.text}: there is no queue {target.destination.name}"
                raise Refused("Destination not found", detail)
            self._access.publish(target.destination)

    def _is_gone(self, target: Target) -> bool:
        """True for the temporary queue of a session that is over: what comes late is confirmed and dropped."""
        name = target.destination.name
        return target.form is Form.EXPORTED and target.destination.kind is Kind.QUEUE and not self._broker.exists(name)

    def _own(self, headers: dict[str, str], targets: tuple[Target, ...]) -> dict[str, str]:
        """The headers of a message that are written by us."""
        own = {}
        if len(targets) == 1 and not targets[0].is_plain:
            own["destination"] = targets[0].text
        if "reply-to" in headers and headers["reply-to"].startswith(_TEMPORARY):
            for target in self._names.parse(headers["reply-to"]):
                self._temporaries.make(target)
                self._subscriptions.imply(target)
            own["reply-to"] = self._names.exported(headers["reply-to"])
        if self._subscriptions.no_local:
            own[SENDER] = self._name
        user = self._access.user
        if user is not ANYBODY and headers.get("user-id", user.name) != user.name:
            raise Refused("Access refused", f"user-id must be {user.name}, or absent")
        if self._terms.user_id:
            own[USER] = user.name
        return own

    @property
    def unsent(self) -> bool:
        """True if deliveries would go back to their queues only because their bytes are still in our send buffer."""
        return self._delivering.unsent

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
            self._broker.lost(left)
        else:
            self._broker.release(left)
        self._temporaries.end()
