"""Keeping leases: what is worked on is touched at half of its lease, and whoever works on it hears if it is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.stages.link import Link, Refused, Unreachable
from broker.stages.settle import back
from broker.stages.wire import Loan

log = logging.getLogger("broker.stages")

#: Touches of one request.
_MOST = 500
#: Seconds until leases are touched again after the broker did not answer.
_AGAIN = 1.0


class Keeper:
    """All loans of one process. `run` is a thread of its own."""

    def __init__(self, link: Callable[[], Link]) -> None:
        self._link = link()
        #: By delivery id: the loan, and when it is to be touched. Two channels have no id in common.
        self._kept: dict[int, tuple[Loan, float]] = {}
        #: Held while a touch is on its way: a commit must not meet it.
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def keep(self, loans: list[Loan]) -> None:
        """Touch these from now on."""
        with self._lock:
            self._kept.update({loan.id: (loan, time.monotonic() + loan.lease / 2) for loan in loans})

    def drop(self, loans: list[Loan]) -> None:
        """Touch these no more."""
        with self._lock:
            for loan in loans:
                self._kept.pop(loan.id, None)

    @contextmanager
    def away(self, loans: list[Loan]) -> Iterator[None]:
        """Do not touch these meanwhile: a commit claims them. Nor afterwards, unless it failed."""
        with self._lock:
            kept = [self._kept.pop(loan.id) for loan in loans if loan.id in self._kept]
        try:
            yield
        except BaseException:
            with self._lock:
                self._kept.update({loan.id: (loan, due) for loan, due in kept})
            raise

    def run(self) -> None:
        """Touch what is due until `end`."""
        while not self._ended.wait(self._pause()):
            self._touch()

    def end(self) -> None:
        """Touch nothing more."""
        self._ended.set()

    def give_back(self) -> int:
        """Give back everything that is kept, as not tried; how many that were."""
        with self._lock:
            loans = [loan for loan, _ in self._kept.values()]
            self._kept.clear()
        for some in (loans[place : place + _MOST] for place in range(0, len(loans), _MOST)):
            try:
                self._link.request("POST", "/commit?atomic=0", {"ops": [back(loan).ops[0] for loan in some]})
            except (Unreachable, Refused) as error:
                log.warning("%d inputs could not be given back, their leases will end: %s", len(some), error)
        return len(loans)

    def _pause(self) -> float:
        # shorter than half of the shortest lease, so that one that is kept meanwhile is in time
        due = min((due for _, due in list(self._kept.values())), default=float("inf"))
        return min(max(due - time.monotonic(), 0.02), 0.25)

    def _touch(self) -> None:
        with self._lock:
            now = time.monotonic()
            due = [loan for loan, when in self._kept.values() if when <= now][:_MOST]
            if not due:
                return
            ops = [{"touch": {**loan.said, "timeout": loan.lease}} for loan in due]
            try:
                results = self._link.request("POST", "/commit?atomic=0", {"ops": ops}).json()["results"]
            except (Unreachable, Refused, KeyError, TypeError) as error:
                log.warning("%d leases could not be touched: %s", len(due), error)
                self._kept.update({loan.id: (loan, now + min(_AGAIN, loan.lease / 4)) for loan in due})
                return
            lost = []
            for loan, result in zip(due, results, strict=True):
                if result["status"] in (404, 409):
                    del self._kept[loan.id]
                    lost.append(loan)
                else:
                    self._kept[loan.id] = loan, now + loan.lease / 2
        for loan in lost:
            log.warning("%s: the lease of %s is lost", loan.event.channel, loan.event.id)
            if loan.event.place is not None:
                loan.event.place.lost = True
