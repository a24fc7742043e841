"""Loans that end by themselves: what they are known by, and when each is over."""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.core.deadlines import LONGEST, Deadlines
from broker.core.delivery import Delivery
from broker.core.journal import Journal
from broker.core.store import Failure

#: Loans ended in one reactor turn.
_MAX_LAPSES = 500


class Leases:
    """All loans that have an end."""

    def __init__(self, clock: IReactorTime, now: Callable[[], int], journal: Journal) -> None:
        self._clock = clock
        self._now = now
        self._journal = journal
        #: Called with loans that ended by themselves.
        self.lapsed: Callable[[list[Delivery]], None] = lambda deliveries: None
        self._deadlines: Deadlines[Delivery] = Deadlines()
        self._alarm: IDelayedCall | None = None
        self._alarm_at = 0
        self._stopped = False
        #: The last token given to a loan. Two runs of the broker begin 2**40 apart at random: none comes twice.
        self._tokens = random.randrange(1 << 40, 1 << 52)

    def begin(self, delivery: Delivery) -> None:
        """A loan that ends by itself begins, or begins anew: its token stays, and the store knows both."""
        if not delivery.token:
            self._tokens += 1
            delivery.token = f"{self._tokens:x}"
        self._journal.fail(delivery.reader, delivery.seq, Failure(delivery.attempts, delivery.due, delivery.token))
        self.ends(delivery)

    def ends(self, delivery: Delivery) -> None:
        """The loan ends by itself at `delivery.due`."""
        self._deadlines.set(delivery, delivery.due)
        self._set_alarm()

    def ended(self, delivery: Delivery) -> None:
        """The loan is over, one way or the other."""
        if delivery.due:
            self._deadlines.discard(delivery)

    def _set_alarm(self) -> None:
        next_end = self._deadlines.next()
        if next_end is None or self._stopped:
            return
        if self._alarm is not None and self._alarm.active():
            if self._alarm_at <= next_end:
                return
            self._alarm.cancel()
        self._alarm_at = next_end
        self._alarm = self._clock.callLater(min(max(next_end - self._now(), 0) / 1e6, LONGEST), self._ring)

    def _ring(self) -> None:
        lapsed = [d for d in self._deadlines.due(self._now(), _MAX_LAPSES) if d.on_loan]
        self._alarm = None
        self._set_alarm()
        if lapsed:
            self.lapsed(lapsed)

    def stop(self) -> None:
        """No loan ends by itself any more."""
        self._stopped = True
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
