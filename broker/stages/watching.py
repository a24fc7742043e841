"""What a process of workers tells the one that looks after it, over a pipe: what it works on, and what is to run alone.

Whoever is killed cannot say what it worked on; so that is said before.
"""

from __future__ import annotations

import contextlib
import threading
from multiprocessing.connection import Connection

import attrs

from broker.stages.stage import ALONE_AFTER, Stage
from broker.stages.wire import Loan


@attrs.frozen
class Running:
    """A worker works on these now."""

    slot: int
    stage: str
    loans: list[Loan]
    #: Of those that it worked on before: how many are done, and have failed.
    done: int = 0
    failed: int = 0


@attrs.frozen
class Alone:
    """This is to run in a process of its own; whoever asks waits for `Ended` with the same ticket."""

    ticket: int
    stage: str
    loan: Loan


@attrs.frozen
class Ended:
    """What was to run alone did."""

    ticket: int


@attrs.frozen
class Stop:
    """Take nothing more. A signal says the same; one that comes too soon is not heard."""


@attrs.frozen
class Hurry:
    """Give back what is not finished, now."""


class Piped:
    """The end of the pipe at which the workers are."""

    def __init__(self, pipe: Connection, *, shared: bool) -> None:
        """`shared`: several work in this process."""
        self._pipe = pipe
        self._shared = shared
        self._lock = threading.Lock()
        self._tickets: dict[int, threading.Event] = {}

    def running(self, slot: int, stage: Stage, loans: list[Loan]) -> None:
        """Say what a worker works on now."""
        whole = len(loans) == 1 and loans[0].event.attempt > ALONE_AFTER
        said = loans if whole else [attrs.evolve(loan, event=attrs.evolve(loan.event, raw=b"")) for loan in loans]
        self._send(Running(slot, stage.name, said))

    def ran(self, slot: int, stage: Stage, done: int, failed: int) -> None:
        """Say that a worker came to an end, and with what."""
        self._send(Running(slot, stage.name, [], done, failed))

    def alone(self, stage: Stage, loan: Loan) -> bool:
        """Have it run by itself; returns when that has ended. False: nobody else is here, it may run here."""
        if not self._shared:
            return False
        ended = threading.Event()
        with self._lock:
            ticket = loan.id
            self._tickets[ticket] = ended
        self._send(Alone(ticket, stage.name, loan))
        ended.wait()
        return True

    def ended(self, ticket: int) -> None:
        """What was to run alone has ended."""
        with self._lock:
            found = self._tickets.pop(ticket, None)
        if found is not None:
            found.set()

    def _send(self, said: Running | Alone) -> None:
        with self._lock, contextlib.suppress(OSError):  # it is gone, and so are we, soon
            self._pipe.send(said)
