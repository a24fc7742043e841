"""How much one user, or one address, may have at a time, and do in a second. Pure, and known to ``broker`` commands.

A limit is looked at before anything is taken in, so that nothing which was accepted is ever lost to one; who is over it
is told when to come back. What is kept for it is two buckets and a few numbers for each user, and for each of the last
10,000 addresses.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Annotated, Protocol
from weakref import WeakSet

import msgspec

from broker.auth.memory import MAX_KEYS, network
from broker.errors import OverLimit

#: What is exact in every client's JSON.
_MOST = 2**53 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
#: Seconds until queues are counted again that were found to be too many: it looks at every queue's name.
RECOUNT = 1.0
#: Seconds after which somebody may come back whose limit is not one of time.
LATER = 1.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of one user, over all fronts together; 0: none."""

    #: Connections at a time.
    connections: Count = 0
    #: Messages put in, in a second; a second's worth may come at once.
    messages: Count = 0
    #: Bytes of bodies put in, in a second; a larger body is taken when nothing else was for a while.
    bytes: Count = 0
    #: Queues that he may create and that are in use: no further one comes to be.
    queues: Count = 0
    #: Messages on loan at a time. A subscription counts with its prefetch, which is made smaller to fit.
    unsettled: Count = 0


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[limits]`` of the configuration; 0: no limit."""

    #: The limits of each user, as far as the users file gives him none of his own: a table, ``[limits.user]``.
    user: Limits = Limits()
    #: Connections at a time, of all protocols together.
    connections: Count = 0
    #: Connections at a time from one address (IPv6: a /64).
    address_connections: Count = 0
    #: New connections from one address in a second; a second's worth may come at once.
    address_rate: Count = 0
    #: Logins from one address in a second for which a password must be hashed, whatever becomes of them.
    address_logins: Count = 0


class Loan(Protocol):
    """What is asked of a delivery."""

    @property
    def on_loan(self) -> bool:
        """True until it is settled or given back."""


class Bucket:
    """`rate` a second, and a second's worth at once. What costs more than that is taken from a full bucket, on credit.

    So in any time T no more is taken than ``rate * (T + 1)``, and once what the last one cost above ``rate``.
    """

    __slots__ = ("_at", "_level", "_now", "_rate")

    def __init__(self, rate: int, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._level = float(rate)
        self._at = now()

    def wait(self, cost: int) -> float:
        """Seconds until that much may be taken; 0: now."""
        now = self._now()
        # A clock that was set back gives nothing, and takes nothing.
        self._level = min(self._level + max(now - self._at, 0.0) * self._rate, float(self._rate))
        self._at = now
        # A float's last digits must not make anybody wait for a nanosecond, and then another.
        lacking = min(cost, self._rate) - self._level
        return lacking / self._rate if lacking > 1e-6 * self._rate else 0.0

    def take(self, cost: int) -> None:
        """Take it; the next one waits for as long as it is missing."""
        self._level -= cost


class Buckets:
    """A bucket of the same rate for each of many keys, in bounded memory: what was longest not asked for is full."""

    def __init__(self, rate: int, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; seconds to wait if there is none, and none is taken then."""
        if not self._rate:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._now)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        wait = bucket.wait(1)
        if not wait:
            bucket.take(1)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


class Arrivals:
    """The connections of all listeners: how many there are, and how many of each address."""

    def __init__(self, bounds: Bounds, now: Callable[[], float]) -> None:
        self._bounds = bounds
        self._now = now
        self._rates = Buckets(bounds.address_rate, now)
        #: By network, those that are open.
        self._open: Counter[str] = Counter()
        self._total = 0

    def change(self, bounds: Bounds) -> None:
        """These hold for who comes from now on."""
        if bounds.address_rate != self._bounds.address_rate:
            self._rates = Buckets(bounds.address_rate, self._now)
        self._bounds = bounds

    def enter(self, address: str) -> Callable[[], None]:
        """One more from `address` (empty: a Unix socket, of which there may be any number); what to call at its end.

        `OverLimit`: it may not come in.
        """
        bounds, key = self._bounds, network(address)
        if bounds.connections and self._total >= bounds.connections:
            raise OverLimit("too many open connections", LATER)
        if key:
            if bounds.address_connections and self._open[key] >= bounds.address_connections:
                raise OverLimit("too many open connections from this address", LATER)
            wait = self._rates.take(key)
            if wait:
                raise OverLimit("too many new connections from this address", wait)
            self._open[key] += 1
        self._total += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._total -= 1
                self._open[key] -= 1
                if self._open[key] <= 0:
                    del self._open[key]

        return leave


class Quota:
    """What is left to one user of his limits."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._now = now
        self._loans: WeakSet[Loan] = WeakSet()
        #: Credit of his subscriptions.
        self._reserved = 0
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """These hold from now on; what he has stays his."""
        self.limits = limits
        self._messages = Bucket(limits.messages, self._now) if limits.messages else None
        self._bytes = Bucket(limits.bytes, self._now) if limits.bytes else None
        #: The most queues there can be: those that were counted, and each that he was let create since.
        self._queues = limits.queues
        self._recount = 0.0

    def connect(self, connections: int) -> None:
        """That he may have one connection more than these."""
        most = self.limits.connections
        if most and connections >= most:
            raise OverLimit(f"too many connections: a user may have {most}", LATER)

    def publish(self, messages: int, size: int) -> None:
        """That he may put so many messages in now, with so many bytes; they count then."""
        counts, sizes = self._messages, self._bytes
        if counts is not None and (wait := counts.wait(messages)):
            raise OverLimit(f"too many messages: a user may put in {self.limits.messages} a second", wait)
        if sizes is not None and (wait := sizes.wait(size)):
            raise OverLimit(f"too many bytes: a user may put in {self.limits.bytes} a second", wait)
        if counts is not None:
            counts.take(messages)
        if sizes is not None:
            sizes.take(size)

    def create(self, count: Callable[[], int]) -> None:
        """That he may have one more queue come to be; `count` says how many there are that he may create."""
        most = self.limits.queues
        if not most:
            return
        if self._queues >= most and self._now() >= self._recount:
            self._queues = count()
            if self._queues >= most:
                self._recount = self._now() + RECOUNT
        if self._queues >= most:
            raise OverLimit(f"too many queues: a user may have {most}", RECOUNT)
        self._queues += 1

    # -- on loan

    @property
    def _left(self) -> int:
        """How many messages more may be on loan to him."""
        return self.limits.unsettled - self._reserved - len(self._loans)

    def room(self) -> int:
        """How many messages more may be on loan to him, or be reserved; raises if that is none."""
        most = self.limits.unsettled
        if not most:
            return _MOST
        if self._left <= 0:
            self._loans = WeakSet(loan for loan in self._loans if loan.on_loan)
        if self._left <= 0:
            raise OverLimit(f"too many unsettled messages: a user may have {most}", LATER)
        return self._left

    def lent(self, loans: Iterable[Loan]) -> None:
        """These are on loan to him now, until they are not any more."""
        if self.limits.unsettled:
            self._loans.update(loans)

    def reserve(self, wanted: int) -> int:
        """Credit for a subscription: so much, or what is left."""
        granted = min(wanted, self.room())
        self._reserved += granted
        return granted

    def free(self, granted: int) -> None:
        """The subscription is over."""
        self._reserved -= granted
