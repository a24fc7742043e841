"""Units: what a publish or a transaction stores, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.reader import Lane, Reader
from broker.core.store import Failure
from broker.errors import BrokerError


@attrs.define(eq=False)
class Append:
    """One message for one lane; `queues` are to get it, `skipped` ones are not to see it."""

    lane: Lane
    message: Message
    #: Bytes of memory that it is counted with.
    size: int
    queues: tuple[Queue, ...] = ()
    skipped: tuple[Queue, ...] = ()
    #: What its publisher called it, and until when that is remembered (us; 0: it is not).
    key: str = ""
    until: int = 0


class Together(Protocol):
    """Messages for one lane that its one reader gets; nothing else is to be done for them."""

    lane: Lane
    messages: list[Message]
    #: Bytes of memory that they are counted with.
    size: int
    #: That of the first one, once it has one; -1: its queue was deleted meanwhile.
    number: int

    def ended(self, committed: bool) -> None:
        """They have an outcome, and nobody was told yet."""


@attrs.define(eq=False)
class Unit:
    """What is stored whole or not at all."""

    appends: list[Append]
    size: int
    #: Settled with it, at once when it is committed.
    settles: list[tuple[Reader, int]] = attrs.field(factory=list)
    #: The same for whole ranges.
    ranges: list[tuple[Reader, int, int]] = attrs.field(factory=list)
    #: Settled and given back by a transaction, once it is committed.
    acks: list[Delivery] = attrs.field(factory=list)
    nacks: list[tuple[Delivery, Failure | None]] = attrs.field(factory=list)
    #: Stored as well.
    parts: Sequence[Together] = ()
    #: Called when the outcome is known, before anybody is told: True if it is committed.
    ended: Callable[[bool], None] | None = None
    #: Called then instead of `done`: with nothing once it is on disk, or with why it is not. It takes 0.2 us for 1.5.
    told: Callable[[BrokerError | None], None] | None = None
    #: Fires with the number of each append (-1: its queue was deleted meanwhile).
    done: Deferred[list[int]] | None = None
    numbers: list[int] = attrs.field(factory=list)

    def tell(self, error: BrokerError | None) -> None:
        """Tell the outcome to who waits for it; `error`: nothing of it is kept."""
        if self.told is not None:
            self.told(error)
        elif self.done is not None and error is None:
            self.done.callback(self.numbers)
        elif self.done is not None:
            self.done.errback(error)
