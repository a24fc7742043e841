"""Deliveries: messages on loan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from broker.core.destination import Destination
from broker.core.message import Message

if TYPE_CHECKING:
    from broker.core.consumers import Subscription
    from broker.core.reader import Reader


@attrs.define(eq=False)
class Delivery:
    """One message on loan from one queue, or looked at (`Broker.peek`), or held for somebody across a restart."""

    reader: Reader
    seq: int
    message: Message
    #: Deliveries of it that failed before this one.
    attempts: int
    #: True if it may have been delivered before; never falsely False.
    redelivered: bool
    #: Who has it; None when it was taken by a request or is only looked at.
    subscription: Subscription | None = None
    #: When the loan ends by itself (us of the wall clock); 0 = never.
    due: int = 0
    #: The length of the loan, for a touch (ms); 0 where loans do not end.
    lease: int = 0
    #: Part of a transaction that is not committed yet.
    claimed: bool = False
    #: Not on loan to anybody: held back for a while after it failed.
    delayed: bool = False
    #: Its consumer is gone while the transaction is being committed.
    orphaned: bool = False
    #: The message group it keeps busy.
    group: str = ""
    #: What tells this loan from earlier and later ones of the same message; empty where loans do not end.
    token: str = ""

    @property
    def id(self) -> int:
        """The integer that names this message in this queue: Linger's id, memcache's cas unique."""
        return self.reader.delivery_id(self.seq)

    @property
    def message_id(self) -> str:
        """The string that names this message for every reader of its log."""
        return self.reader.message_id(self.seq)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.reader.queue.name

    @property
    def source(self) -> Destination:
        """The destination it was published to: the queue's own, or one it is bound to."""
        return self.reader.lane.destination

    @property
    def priority(self) -> int:
        """The priority it has in this queue: the binding's, else the message's."""
        return self.reader.priority_of(self.seq)

    @property
    def on_loan(self) -> bool:
        """True until it is settled or given back."""
        return self.reader.on_loan.get(self.seq) is self

    @property
    def max_attempts(self) -> int:
        """After how many failed deliveries the message is given up; 0 = never."""
        return self.reader.queue.max_attempts(self.reader, self.seq, self.message)

    @property
    def ttl(self) -> int:
        """The time to live it was given (ms), the message's own or the binding's; 0 = none."""
        return self.message.ttl or self.reader.terms.at(self.seq).ttl or 0


@attrs.define(eq=False)
class Move:
    """A message that is to leave its queue for another."""

    delivery: Delivery
    #: The queue it goes to.
    target: str
    #: expired, rejected or max_attempts.
    reason: str
