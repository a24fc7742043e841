"""One SUBSCRIBE: what it has on loan, and what an ACK of it names.

Every delivery of a connection gets a number, never used twice there. Only numbers are settled, so a late ACK cannot
settle a new loan of the same message.
"""

from __future__ import annotations

import enum

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.stomp.destinations import Target
from broker.stomp.dialect import Dialect
from broker.stomp.flavour import DEFAULT, Flavour
from broker.stomp.wire import encode_headers, message_head


class AckMode(enum.Enum):
    """Who settles a delivery, and how many at a time."""

    #: The broker, once the bytes have left our send buffer.
    AUTO = "auto"
    #: The client; it names the last of a run.
    CLIENT = "client"
    #: The client, one by one.
    INDIVIDUAL = "client-individual"


class Consumer:
    """A subscription as STOMP knows it."""

    def __init__(
        self,
        id: str | None,
        mode: AckMode,
        targets: tuple[Target, ...],
        prefetch: int,
        dialect: Dialect,
        flavour: Flavour = DEFAULT,
        *,
        by_message: bool = False,
    ) -> None:
        self.id = id
        self.mode = mode
        #: What it reads, and the core's subscriptions to that.
        self.targets = targets
        self.subscriptions: list[Subscription] = []
        #: Of each of them.
        self.prefetch = prefetch
        #: What the client must settle, in order of delivery.
        self.unsettled: dict[int, Delivery] = {}
        #: Where the client may name messages, not deliveries (1.0, 1.1, `by_message`): message id -> number.
        self._numbers: dict[str, int] | None = {} if by_message or not dialect.names_acks else None
        start = {} if id is None else {"subscription": id}
        self._head = message_head(start, dialect)
        self._first = b"redelivered:false\n" if flavour.says_false else b""
        self._ack: bytes | None = None
        if dialect.names_acks and mode is not AckMode.AUTO:
            self._ack = encode_headers({"ack": id or ""}, dialect)[:-1]

    def lend(self, number: int, delivery: Delivery) -> bytes:
        """Put `delivery` on loan as `number`; the head of its MESSAGE."""
        if self.mode is not AckMode.AUTO:
            if len(self.unsettled) >= 2 * self.prefetch * len(self.targets):
                self._drop_stale()
            self.unsettled[number] = delivery
            if self._numbers is not None:
                self._numbers[delivery.message_id] = number
        again = b"redelivered:true\n" if delivery.redelivered else self._first
        ack = b"" if self._ack is None else b"%b.%d\n" % (self._ack, number)
        count = b"delivery-count:%d\n" % (delivery.attempts + 1) if delivery.attempts else b""
        return b"%b%b%b%b" % (self._head, ack, again, count)

    def number_of(self, message_id: str) -> int | None:
        """The number under which this message is on loan; where messages may be named."""
        return self._numbers.get(message_id) if self._numbers is not None else None

    def take(self, number: int, *, alone: bool = False) -> dict[int, Delivery]:
        """Take out what an ACK or NACK of `number` concerns: it, and in mode ``client`` all before it."""
        if number not in self.unsettled:
            return {}
        if alone or self.mode is AckMode.INDIVIDUAL:
            return {number: self.unsettled.pop(number)}
        return self.take_until(number)

    def take_until(self, number: int) -> dict[int, Delivery]:
        """Take out all up to `number`, which need not be one of them."""
        taken = {}
        for one, delivery in self.unsettled.items():
            if one > number:
                break
            taken[one] = delivery
        for one in taken:
            del self.unsettled[one]
        return taken

    def put_back(self, taken: dict[int, Delivery]) -> None:
        """Have them unsettled again, in order of delivery."""
        self.unsettled = dict(sorted({**self.unsettled, **taken}.items()))

    def forget(self, settled: dict[int, Delivery]) -> None:
        """They are settled: their message ids name nothing any more."""
        if self._numbers is not None:
            for number, delivery in settled.items():
                if self._numbers.get(delivery.message_id) == number:
                    del self._numbers[delivery.message_id]

    def _drop_stale(self) -> None:
        """Let go of what the broker took back (purged, deleted): it would pile up with a client that never acks."""
        stale = {number: delivery for number, delivery in self.unsettled.items() if not delivery.on_loan}
        for number in stale:
            del self.unsettled[number]
        self.forget(stale)
