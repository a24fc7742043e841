"""One open transaction of a session: the core's, and what a STOMP client may still say about its deliveries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.transaction import Transaction
from broker.stomp.consumer import Consumer
from broker.stomp.errors import Refused

#: What one transaction may hold: frames, and bytes of messages. RabbitMQ's numbers, and a bound on memory.
MAX_ACTIONS = 1024
MAX_BYTES = 64 * 1024 * 1024


#: What an ACK or NACK concerns.
Taken = Mapping[Consumer, dict[int, Delivery]]


class OpenTransaction:
    """SENDs, ACKs and NACKs that wait for COMMIT. What they concern is fixed when the frame arrives."""

    def __init__(self, core: Transaction) -> None:
        self.core = core
        self._claimed: dict[Consumer, dict[int, Delivery]] = {}
        #: Deliveries that a cumulative frame took along, and which kind of frame: naming one again is no error, once.
        self._covered: dict[tuple[Consumer, int], str] = {}
        self._actions = 0
        #: Of SENDs, where the flavour has them wait for the COMMIT.
        self.receipts: list[str] = []

    def publish(self, destination: Destination, message: Message) -> None:
        """A SEND."""
        if self.core.size + message.size > MAX_BYTES:
            raise Refused("Transaction too large", f"at most {MAX_BYTES} bytes")
        self._act()
        self.core.publish(destination, message)

    def settle(
        self, consumer: Consumer, number: int, kind: str, taken: Taken, reason: str = "", delay: int | None = None
    ) -> None:
        """An ACK or NACK of delivery `number`, which has `taken` these; `kind` is "ack", "nack" or "reject"."""
        self._act()
        if not taken:
            # Acks may come out of order: the later one has settled this one already.
            if self._covered.pop((consumer, number), None) != kind:
                raise Refused(
                    "Message not found",
                    f"delivery {number} is settled otherwise in this transaction",
                    named=str(number),
                )
            return
        for one, deliveries in taken.items():
            self._claimed.setdefault(one, {}).update(deliveries)
        held = loaned(taken, consumer, number)
        if kind == "nack":
            self.core.nack(held, reason=reason, delay=delay)
        else:
            (self.core.ack if kind == "ack" else self.core.reject)(held)
        for one, deliveries in taken.items():
            for each in deliveries:
                if (one, each) != (consumer, number):
                    self._covered[one, each] = kind

    def knows(self, consumer: Consumer, number: int) -> bool:
        """True if `settle` has a meaning for this delivery."""
        return number in consumer.unsettled or (consumer, number) in self._covered

    def concerns(self, consumer: Consumer) -> bool:
        """True if deliveries of `consumer` are in it."""
        return consumer in self._claimed

    def put_back(self) -> None:
        """It came to nothing: its deliveries are unsettled as before."""
        for consumer, taken in self._claimed.items():
            consumer.put_back(taken)

    def forget(self) -> None:
        """It is true now: its deliveries are settled."""
        for consumer, taken in self._claimed.items():
            consumer.forget(taken)

    def deliveries(self) -> Iterable[Delivery]:
        """Everything it acks or nacks."""
        for taken in self._claimed.values():
            yield from taken.values()

    def _act(self) -> None:
        if self._actions >= MAX_ACTIONS:
            raise Refused("Transaction too large", f"at most {MAX_ACTIONS} actions")
        self._actions += 1


def loaned(taken: Taken, consumer: Consumer, number: int) -> list[Delivery]:
    """Those of `taken` still on loan; raises `Refused` if the one that was named, a consumer's `number`, is not."""
    if not taken[consumer][number].on_loan:
        raise Refused("Message not found", f"delivery {number} is no longer on loan", named=str(number))
    return [delivery for deliveries in taken.values() for delivery in deliveries.values() if delivery.on_loan]
