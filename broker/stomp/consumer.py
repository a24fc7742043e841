"""One SUBSCRIBE: what it has on loan, and what an ACK of it names.

Every delivery of a connection gets a number, never used twice there. Only numbers are settled, so a late ACK cannot
settle a new loan of the same message.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.stomp.destinations import Target
from broker.stomp.dialect import Dialect
from broker.stomp.frames import encode_headers, message_head

if TYPE_CHECKING:
    from broker.stomp.wishes import Terms, Wish


#: A header that names the session that sent a message, where that session must not get it back.
SENDER = "no-local"


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

    def __init__(self, id: str | None, wish: Wish, targets: tuple[Target, ...], dialect: Dialect, terms: Terms) -> None:
        self.id = id
        self.wish = wish
        self.mode = wish.mode
        #: What it reads, and the core's subscriptions to that.
        self.targets = targets
        self.subscriptions: list[Subscription] = []
        #: A queue that is there for it alone, and goes with it.
        self.private: Destination | None = None
        #: Why nothing is delivered to it; empty: it is.
        self.holds: set[str] = set()
        #: Whether it is looked at each message before it is delivered: a queue's other consumers do not miss what a
        #: topic's subscriber does not want.
        self.filters = False
        #: Of a browser: fires when nobody holds it any more, or it is closed.
        self.freed: Deferred[None] | None = None
        self.closed = False
        #: What of its user's limit it has.
        self.reserved = 0
        #: What the client must settle, in order of delivery, and the bytes of that, if they are limited.
        self.unsettled: dict[int, Delivery] = {}
        self._bytes = 0
        #: Where the client may name messages, not deliveries (1.0, 1.1, lenient): message id -> number.
        self._numbers: dict[str, int] | None = {} if terms.lenient_ack or not dialect.names_acks else None
        start = {} if id is None else {"subscription": id}
        self._head = message_head(start, dialect)
        self._first = b"redelivered:false\n" if terms.flavour.says_false else b""
        self._ack: bytes | None = None
        if dialect.names_acks and self.mode is not AckMode.AUTO:
            self._ack = encode_headers({"ack": id or ""}, dialect)[:-1]

    def wake(self) -> None:
        """A browser may go on."""
        if self.freed is not None:
            freed, self.freed = self.freed, None
            freed.callback(None)

    def wants(self, message: Message, session: str) -> bool:
        """True unless its selector is not true of the message, or its own session has sent it."""
        wish = self.wish
        if wish.no_local and message.headers.get(SENDER) == session:
            return False
        return wish.selector is None or wish.selector.accepts(message)

    @property
    def choked(self) -> bool:
        """True if as many bytes are unsettled as it takes."""
        return bool(self.wish.window) and self._bytes >= self.wish.window

    def lend(self, number: int, delivery: Delivery) -> bytes:
        """Put `delivery` on loan as `number`; the head of its MESSAGE."""
        if self.mode is not AckMode.AUTO:
            if len(self.unsettled) >= 2 * self.wish.prefetch * len(self.targets):
                self._drop_stale()
            self.unsettled[number] = delivery
            if self.wish.window:
                self._bytes += delivery.message.size
            if self._numbers is not None:
                self._numbers[delivery.message_id] = number
        ack = b"" if self._ack is None else b"%b.%d\n" % (self._ack, number)
        return self.head(ack, redelivered=delivery.redelivered, attempts=delivery.attempts)

    def head(self, ack: bytes = b"", *, redelivered: bool = False, attempts: int = 0) -> bytes:
        """The part of a MESSAGE that is for this consumer alone."""
        again = b"redelivered:true\n" if redelivered else self._first
        count = b"delivery-count:%d\n" % (attempts + 1) if attempts else b""
        return b"%b%b%b%b" % (self._head, ack, again, count)

    def number_of(self, message_id: str) -> int | None:
        """The number under which this message is on loan; where messages may be named."""
        return self._numbers.get(message_id) if self._numbers is not None else None

    def take(self, number: int, *, alone: bool = False) -> dict[int, Delivery]:
        """Take out what an ACK or NACK of `number` concerns: it, and in mode ``client`` all before it."""
        if number not in self.unsettled:
            return {}
        if alone or self.mode is AckMode.INDIVIDUAL:
            return self._out({number: self.unsettled.pop(number)})
        return self.take_until(number)

    def take_each(self, numbers: list[int]) -> dict[int, Delivery]:
        """Take out these, which are settled one by one; empty: one of them is not as it should be, none is taken."""
        unsettled = self.unsettled
        taken = {number: unsettled[number] for number in numbers if number in unsettled}
        if self.mode is not AckMode.INDIVIDUAL or len(taken) < len(numbers):
            return {}
        if not all(delivery.on_loan for delivery in taken.values()):
            return {}
        for number in numbers:
            del unsettled[number]
        return self._out(taken)

    def take_until(self, number: int) -> dict[int, Delivery]:
        """Take out all up to `number`, which need not be one of them."""
        taken = {}
        for one, delivery in self.unsettled.items():
            if one > number:
                break
            taken[one] = delivery
        for one in taken:
            del self.unsettled[one]
        return self._out(taken)

    def _out(self, taken: dict[int, Delivery]) -> dict[int, Delivery]:
        if self.wish.window:
            self._bytes -= sum(delivery.message.size for delivery in taken.values())
        return taken

    def put_back(self, taken: dict[int, Delivery]) -> None:
        """Have them unsettled again, in order of delivery."""
        self.unsettled = dict(sorted({**self.unsettled, **taken}.items()))
        if self.wish.window:
            self._bytes += sum(delivery.message.size for delivery in taken.values())

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
        self.forget(self._out(stale))
