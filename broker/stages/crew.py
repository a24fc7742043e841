"""The workers of one process: threads that take inputs, run their stage, and commit what came of it.

A worker that finds nothing waits at the broker; told to stop, it finishes what it has. What has failed before runs
alone: not in a batch, and, where others share the process, in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from broker.stages.committing import LONGEST, Committing
from broker.stages.keeper import Keeper
from broker.stages.link import Link, Refused, Unreachable, channel_path
from broker.stages.run import in_this_thread, limited, placed, units
from broker.stages.settle import Unit, Who
from broker.stages.stage import ALONE_AFTER, Stage
from broker.stages.verdict import LeaseLost
from broker.stages.wire import Loan, loans_of

log = logging.getLogger("broker.stages")

#: Seconds a worker waits at the broker for an input; where it reads several channels, at each in turn.
LONG_POLL, SHORT_POLL = 20, 1
#: Seconds for which a worker that gave something back takes nothing.
REST = 1.0
#: Seconds until somebody who waits for a coroutine looks whether it still counts.
_GLANCE = 0.25

Connect = Callable[[], Link]


class Watch(Protocol):
    """Who looks after the process that a worker is in."""

    def running(self, slot: int, stage: Stage, loans: list[Loan]) -> None:
        """A worker runs its stage on these now."""

    def ran(self, slot: int, stage: Stage, done: int, failed: int) -> None:
        """It came to an end: so many are done, so many have failed."""

    def alone(self, stage: Stage, loan: Loan) -> bool:
        """Have this run in a process of its own, and wait for its end; False: that is to be done here."""


class Crew:
    """All workers of a process."""

    def __init__(self, connect: Connect, who: Who, watch: Watch) -> None:
        self.connect = connect
        self.who = who
        self.watch = watch
        self.keeper = Keeper(connect)
        #: Set: take nothing more. Set: wait for nothing more.
        self.stopping, self.given_up = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        #: Links at which workers wait for inputs.
        self.waiting: set[Link] = set()
        self.lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, stages: list[Stage], each: int | None = None) -> None:
        """Begin: as many workers for each stage as its concurrency, or `each`, says."""
        threading.Thread(target=self.keeper.run, daemon=True, name="leases").start()
        if any(stage.mode == "async" for stage in stages):
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()
        for stage in stages:
            for number in range(each or stage.concurrency):
                worker = Worker(self, stage, len(self._threads))
                thread = threading.Thread(target=worker.run, daemon=True, name=f"{stage.name}-{number}")
                self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take nothing more; finish what was taken."""
        self.stopping.set()
        with self.lock:
            for link in self.waiting:
                link.cut()

    @property
    def done(self) -> bool:
        """True once nobody works any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        """Give back what is not finished."""
        self.given_up.set()
        self.keeper.end()
        if returned := self.keeper.give_back():
            log.warning("gave back %d inputs that were not finished in time", returned)

    def wait_for(self, loans: list[Loan], coroutine: Coroutine[Any, Any, Any], timeout: float) -> Any:
        """Run a coroutine in the loop that all share; it is cancelled when the leases of these are lost."""
        if self._loop is None:
            return in_this_thread(coroutine, timeout)
        future = asyncio.run_coroutine_threadsafe(limited(coroutine, timeout), self._loop)
        while True:
            try:
                return future.result(_GLANCE)
            except TimeoutError:
                if future.done():
                    raise
            if all(loan.event.lost for loan in loans):
                future.cancel()
                raise LeaseLost


class Worker:
    """One of them: one input, or batch, at a time."""

    def __init__(self, crew: Crew, stage: Stage, slot: int) -> None:
        self._crew = crew
        self._stage = stage
        self._slot = slot
        self._turn = slot
        self._link, self._polling = crew.connect(), crew.connect()
        self._committing = Committing(stage, crew.who, self._link, crew.keeper, crew.given_up)

    def run(self) -> None:
        """Take and work until told to stop."""
        stopping, tries = self._crew.stopping, 0
        while not stopping.is_set():
            try:
                loans = self._take()
                tries = 0
            except (Unreachable, Refused) as error:
                if stopping.is_set():
                    break
                if tries in (0, 10, 100):
                    log.warning("%s: nothing can be taken: %s", self._stage.full_name, error)
                tries += 1
                stopping.wait(min(0.05 * 2 ** min(tries, 10), LONGEST))
                continue
            try:
                if loans:
                    self._work(loans)
            except Exception:  # a mistake of ours must not end the worker; the leases end
                log.exception("%s: %d inputs could not be worked on", self._stage.full_name, len(loans))
                stopping.wait(LONGEST)
        self._link.close()
        self._polling.close()

    def _take(self) -> list[Loan]:
        """The next inputs; none if none came."""
        channels = self._stage.channels
        if len(channels) == 1:
            return self._lease(channels[0], LONG_POLL)
        for _ in channels:
            self._turn += 1
            if loans := self._lease(channels[self._turn % len(channels)], 0):
                return loans
        self._turn += 1
        return self._lease(channels[self._turn % len(channels)], SHORT_POLL)

    def _lease(self, channel: str, wait: int) -> list[Loan]:
        crew, stage, link = self._crew, self._stage, self._polling
        asked = {
            "max": stage.batch,
            "wait": wait,
            "timeout": stage.lease,
            "worker": crew.who.worker,
            "code": crew.who.version,
        }
        with crew.lock:
            crew.waiting.add(link)
        try:
            if crew.stopping.is_set():
                return []
            answer = link.request("POST", channel_path(channel, "/lease"), asked, accept="multipart/mixed", wait=wait)
        finally:
            with crew.lock:
                crew.waiting.discard(link)
        try:
            return loans_of(answer.body, answer.content_type, channel) if answer.status == 200 else []
        except (ValueError, KeyError) as error:
            raise Unreachable(f"what answers there is no broker: {error}") from None

    def _work(self, loans: list[Loan]) -> None:
        """Together what is tried for the first or second time, everything else one by one."""
        crew, stage = self._crew, self._stage
        for loan in loans:
            placed(stage, loan, crew.who)
        crew.keeper.keep(loans)
        alone = [loan for loan in loans if loan.event.attempt > ALONE_AFTER and not stage.apart]
        together = [loan for loan in loans if loan not in alone]
        try:
            if together:
                self._run(together)
            for loan in alone:
                if crew.given_up.is_set():
                    return
                crew.keeper.drop([loan])
                if not crew.watch.alone(stage, loan):
                    crew.keeper.keep([loan])
                    self._run([loan])
        finally:
            crew.keeper.drop(loans)

    def _run(self, loans: list[Loan]) -> None:
        crew = self._crew
        crew.watch.running(self._slot, self._stage, loans)
        made: list[Unit] = []
        try:
            made = units(self._stage, loans, crew.who, partial(crew.wait_for, loans))
            self._committing.commit(made)
        finally:
            failed = sum(bool(unit.failure) for unit in made)
            done = sum(not unit.returned for unit in made) - failed
            crew.watch.ran(self._slot, self._stage, done, failed)
        if any(unit.returned for unit in made):
            crew.stopping.wait(REST)
