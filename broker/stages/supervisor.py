"""The process that looks after those that work: starts them, says what becomes of what a killed one had, ends them.

It has one thread and works on nothing itself, so that it may fork whenever it likes, and nothing that a stage does can
kill it. Stages of threads and coroutines share a process; a stage of processes has as many as its concurrency; and what
has failed before runs in one of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import FrameType

import attrs

from broker.stages.committing import Committing
from broker.stages.crew import Crew
from broker.stages.keeper import Keeper
from broker.stages.link import Link, Refused, Unreachable
from broker.stages.report import LEASH, Report
from broker.stages.run import in_this_thread, placed, units
from broker.stages.settle import Unit, Who, dead, failed
from broker.stages.stage import ALONE_AFTER, Stage
from broker.stages.verdict import Retry
from broker.stages.watching import Alone, Ended, Hurry, Piped, Running, Stop
from broker.stages.wire import Loan

log = logging.getLogger("broker.stages")

#: Seconds until a process that died is started again: twice as long each time, if it died at once.
_SOON, _LATEST = 0.1, 5.0
#: Times an input may kill a process in which it is alone: somebody else may have done it. How many are remembered.
DEATHS, _REMEMBERED = 3, 10_000
#: Seconds beyond the grace after which who has not ended is killed.
_LATE = 5.0
#: Seconds after which a second signal is not the first one, sent to a whole group of processes.
_TWICE = 0.5


@attrs.define(eq=False)
class _Process:
    pid: int
    pipe: Connection
    started: float
    #: What it runs, and how many workers for each (None: as many as the stage wants).
    stages: list[Stage]
    each: int | None = None
    #: By worker: its stage, what it works on, and since when.
    running: dict[int, tuple[Stage, list[Loan], float]] = attrs.field(factory=dict)
    #: Who asked for it, with which ticket, if it runs something alone.
    asked: tuple[Connection, int] | None = None
    #: Why we killed it.
    reason: str = ""


class Supervisor:
    """One run of a flow's stages on this machine."""

    def __init__(self, stages: list[Stage], connect: Callable[[], Link], who: Who, grace: float) -> None:
        """`grace`: seconds that work may go on for when it is to end."""
        self._stages = {stage.name: stage for stage in stages}
        self._connect = connect
        self._who = who
        self._grace = grace
        self._link = connect()
        self._processes: list[_Process] = []
        #: What is to be said of inputs that killed their process, as soon as the broker listens.
        self._owed: list[Unit] = []
        #: What is to be started again: when, and what.
        self._planned: list[tuple[float, list[Stage], int | None]] = []
        self._failures = 0
        self._stopping = 0.0
        self._wake = _Wake()
        self._report = Report()
        #: A pipe that is open as long as whoever started us lives, if he gave us one.
        self._leash = [int(os.environ[LEASH])] if LEASH in os.environ else []
        #: How often an input has killed a process in which it was alone.
        self._deaths: OrderedDict[str, int] = OrderedDict()

    def run(self) -> None:
        """Until SIGTERM or SIGINT, and then until what was taken is finished or given back."""
        with self._wake:
            self._report.ready()
            shared = [stage for stage in self._stages.values() if stage.mode != "process"]
            if shared:
                self._start(shared, None)
            for stage in self._stages.values():
                if stage.mode == "process":
                    for _ in range(stage.concurrency):
                        self._start([stage], 1)
            while self._processes or self._planned:
                pipes = [process.pipe for process in self._processes]
                for ready in wait([*pipes, self._wake.ear, *self._leash], self._pause()):
                    if ready is self._wake.ear:
                        self._signalled(self._wake.heard())
                    elif isinstance(ready, int):
                        self._leash.clear()  # whoever started this generation is gone
                        self._signalled([signal.SIGTERM])
                    else:
                        self._hear(next(process for process in self._processes if process.pipe is ready))
                self._tend()
        self._settle()
        self._link.close()

    # -- as time goes by

    def _pause(self) -> float | None:
        dues = [due for due, _, _ in self._planned]
        dues += [self._report.due] if self._report.due else []
        dues += [time.monotonic() + 1] if self._owed else []
        dues += [self._stopping + self._grace + _LATE] if self._stopping else []
        for process in self._processes:
            dues += [since + stage.timeout for stage, _, since in process.running.values() if self._limits(stage)]
        return max(min(dues) - time.monotonic(), 0) if dues else None

    def _tend(self) -> None:
        now = time.monotonic()
        self._report.write(now)
        for planned in [planned for planned in self._planned if planned[0] <= now]:
            self._planned.remove(planned)
            if not self._stopping:
                self._start(*planned[1:])
        for process in self._processes:
            for stage, _, since in process.running.values():
                if self._limits(stage) and now >= since + stage.timeout and not process.reason:
                    process.reason = f"took longer than {stage.timeout:g} s"
                    os.kill(process.pid, signal.SIGKILL)
            if self._stopping and now >= self._stopping + self._grace + _LATE:
                os.kill(process.pid, signal.SIGKILL)
        self._settle()

    def _limits(self, stage: Stage) -> bool:
        return bool(stage.timeout) and stage.mode == "process"

    def _settle(self) -> None:
        """Say what became of what a killed process had."""
        while self._owed:
            unit = self._owed[0]
            try:
                self._link.request("POST", "/commit", {"ops": unit.ops})
            except Unreachable:
                return
            except Refused as error:
                if error.temporary:
                    return
                log.info("%s: %s", unit.loan.event.id, error)  # its lease was over: somebody else has it
            else:
                log.warning("%s: %s: %s", unit.loan.event.channel, unit.loan.event.id, unit.failure)
            self._owed.pop(0)

    def _signalled(self, signals: list[int]) -> None:
        if not signals:
            return
        now = time.monotonic()
        if not self._stopping:
            self._stopping = now
            self._planned.clear()
            for process in self._processes:
                self._tell(process.pipe, Stop())
                os.kill(process.pid, signal.SIGTERM)
        elif now > self._stopping + _TWICE:  # whoever says it twice does not want to wait
            self._grace = 0
            for process in self._processes:
                self._tell(process.pipe, Hurry())

    # -- processes

    def _start(self, stages: list[Stage], each: int | None) -> None:
        process = self._fork(lambda pipe: self._crew(pipe, stages, each))
        process.stages, process.each = stages, each

    def _fork(self, child: Callable[[Connection], None]) -> _Process:
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                self._wake.leave()
                for other in [ours, *(process.pipe for process in self._processes)]:
                    other.close()
                child(theirs)
                status = 0
            except BaseException:
                log.exception("a process of workers failed")
            finally:
                os._exit(status)
        theirs.close()
        process = _Process(pid, ours, time.monotonic(), [])
        self._processes.append(process)
        return process

    def _hear(self, process: _Process) -> None:
        try:
            said = process.pipe.recv()
        except (EOFError, OSError):
            self._ended(process)
            return
        if isinstance(said, Running):
            if said.loans:
                process.running[said.slot] = self._stages[said.stage], said.loans, time.monotonic()
            else:
                process.running.pop(said.slot, None)
            self._report.count(said.done, said.failed)
        elif isinstance(said, Alone):
            stage = self._stages[said.stage]
            alone = self._fork(lambda _: self._run_alone(stage, said.loan))
            alone.asked = process.pipe, said.ticket
            alone.running[0] = stage, [said.loan], time.monotonic()

    def _ended(self, process: _Process) -> None:
        self._processes.remove(process)
        process.pipe.close()
        _, status = os.waitpid(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if process.asked is not None:
            self._tell(process.asked[0], Ended(process.asked[1]))
        if code == 0:
            if process.asked is None and not self._stopping:
                self._planned.append((time.monotonic() + _SOON, process.stages, process.each))
            return
        reason = process.reason or (
            f"killed its process (signal {-code})" if code < 0 else f"ended its process (status {code})"
        )
        for stage, loans, _ in process.running.values():
            self._owed += [self._unit(stage, loan, reason) for loan in loans]
            self._report.count(0, len(loans))
        if process.asked is None:
            log.error("a process of workers died: %s; it is started again", reason.replace(" its process", ""))
            # one that its input has killed need not wait: the input does
            died_at_once = not process.running and time.monotonic() - process.started < _LATEST
            self._failures = self._failures + 1 if died_at_once else 0
            after = min(_SOON * 2**self._failures, _LATEST)
            if not self._stopping:
                self._planned.append((time.monotonic() + after, process.stages, process.each))

    def _tell(self, pipe: Connection, said: Ended | Stop | Hurry) -> None:
        if not pipe.closed:
            with contextlib.suppress(OSError):  # it is dead too
                pipe.send(said)

    def _unit(self, stage: Stage, loan: Loan, reason: str) -> Unit:
        """What is said of an input in whose process somebody died: again, or if it was alone there, dead."""
        alone = loan.event.attempt > ALONE_AFTER and bool(loan.event.raw)
        if alone and reason.startswith("took"):
            return failed(stage, loan, Retry(reason), self._who)
        deaths = self._deaths.pop(loan.event.id, 0) + alone
        if alone and (deaths >= DEATHS or loan.event.attempt > stage.retries):
            return dead(stage, loan, f"{reason}, alone in it, {deaths} times", self._who)
        if alone:
            self._deaths[loan.event.id] = deaths
            if len(self._deaths) > _REMEMBERED:
                self._deaths.popitem(last=False)
        nack = {**loan.said, "delay": stage.waits(loan.event.attempt), "reason": reason}
        return Unit(loan, [{"nack": nack}], failure=reason)

    # -- in the processes

    def _crew(self, pipe: Connection, stages: list[Stage], each: int | None) -> None:
        """Work until told to end."""
        watch = Piped(pipe, shared=each is None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; we are told otherwise
        with _Wake(signals=(signal.SIGTERM,)) as wake:
            crew = Crew(self._connect, self._who, watch)
            crew.start(stages, each)
            ends = 0.0
            while not (ends and crew.done):
                for ready in wait([pipe, wake.ear], 0.05 if ends else None):
                    told: object = None
                    if ready is wake.ear:
                        told = wake.heard()
                    else:
                        try:
                            told = pipe.recv()
                        except (EOFError, OSError):
                            told = "whoever looked after us is gone"
                    if isinstance(told, Ended):
                        watch.ended(told.ticket)
                    elif told:
                        ends = ends or time.monotonic() + self._grace
                        crew.stop()
                        if isinstance(told, Hurry):
                            ends = time.monotonic()
                if ends and time.monotonic() >= ends:
                    break
            crew.give_up()
            for stage in stages:
                stage.close()

    def _run_alone(self, stage: Stage, loan: Loan) -> None:
        """Run one input, and commit what comes of it."""
        keeper, given_up = Keeper(self._connect), threading.Event()
        placed(stage, loan, self._who)
        keeper.keep([loan])
        threading.Thread(target=keeper.run, daemon=True).start()

        def end(*_: object) -> None:
            threading.Timer(self._grace, given_up.set).start()

        signal.signal(signal.SIGTERM, end)
        committing = Committing(stage, self._who, self._connect(), keeper, given_up)
        committing.commit(units(stage, [loan], self._who, in_this_thread))
        stage.close()
        keeper.end()
        keeper.give_back()


class _Wake:
    """Signals that ask for an end, as something that can be waited for."""

    def __init__(self, *, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self._signals = signals
        self.ear, self._mouth = socket.socketpair()
        for one in (self.ear, self._mouth):
            one.setblocking(False)
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Wake:
        for number in self._signals:
            self._before[number] = signal.signal(number, self._nothing)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        self.ear.close()
        self._mouth.close()

    def leave(self) -> None:
        """Hear nothing more."""
        signal.set_wakeup_fd(-1)

    def heard(self) -> list[int]:
        """The signals that came."""
        try:
            return list(self.ear.recv(64))
        except BlockingIOError:
            return []

    @staticmethod
    def _nothing(number: int, frame: FrameType | None) -> None:
        """Only wake."""
