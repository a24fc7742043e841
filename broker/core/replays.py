"""Replays: jobs that put messages of the past, or what waits or died somewhere, in again; at a rate, and with an undo.

A job is its record on disk (`replay_records`) and a coroutine that does one step after the other (`replay_work`). It
fills lanes of its own number in its targets, so that what it put in can be settled as a whole: `cancel` with `undo`.
It waits where a target is full, and where the store is busy no more than every second commit has a step in it: what is
put in again never displaces what is published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.browsing import Browsing, Seen
from broker.core.conditions import Subject
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.filter import compile_filter
from broker.core.journal import Journal
from broker.core.message import Message
from broker.core.patterns import is_pattern
from broker.core.publishing import Publishing
from broker.core.queue import Queue
from broker.core.replay import Job, Plan, State
from broker.core.replay_extent import between
from broker.core.replay_records import Records
from broker.core.replay_turn import Turn
from broker.core.replay_undo import Undoing
from broker.core.replay_work import Work, over
from broker.core.retention import Retention
from broker.core.stats import BrokerStats
from broker.core.store import IStore
from broker.errors import BadValue, BrokerError, NotFound

#: Replays that are not over, at most: each has lanes in its targets.
MAX_JOBS = 100
#: Replays that are over and are still shown, the newest.
MAX_OVER = 100
#: Seconds until a full target, and a store that does not commit, is tried again.
_FULL, _RETRY = 0.1, 1.0
#: Messages looked at on a page of a dry run, and shown of it.
_PAGE, SAMPLES = 1_000, 5


@attrs.frozen
class Progress:
    """How a replay stands at this moment."""

    job: Job
    #: What it waits for; empty: nothing.
    waits_for: str = ""
    #: Messages looked at a second since it began, or began again.
    speed: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds until it is done, about; None: nobody knows."""
        missing = max(self.job.total - self.job.examined, 0)
        if self.job.state is not State.RUNNING or not self.speed:
            return None
        return missing / self.speed


@attrs.frozen
class Preview:
    """What a replay would put in."""

    examined: int
    matched: int
    samples: list[Seen]


@attrs.define(eq=False)
class _Running:
    """A job in memory."""

    job: Job
    #: Held while a step, or a change, is on its way.
    turn: Turn = attrs.field(factory=Turn)
    waits_for: str = ""
    #: When it began to run in this process (s), and how many messages it had looked at then.
    since: float = 0.0
    before: int = 0
    ended: Deferred[None] | None = None
    nap: Deferred[None] | None = None
    alarm: IDelayedCall | None = None


class Replays:
    """All replays of a broker."""

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        directory: Directory,
        journal: Journal,
        publishing: Publishing,
        browsing: Browsing,
        retention: Retention,
        stats: BrokerStats,
        changed: Callable[[Queue], None],
        settle: Callable[[int], Awaitable[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._directory = directory
        self._publishing = publishing
        self._retention = retention
        self._records = Records(store, directory, publishing)
        self._work = Work(clock, directory, journal, publishing, browsing, self._records, stats, changed)
        self._undoing = Undoing(store, clock, directory, journal, changed, self._work, settle)
        self._jobs: dict[int, _Running] = {}
        #: Held while a replay comes to be: the next has the next number.
        self._birth = Turn()
        self._stopped = False
        retention.needed = self._needed

    # -- life

    async def restore(self) -> None:
        """Take up the records."""
        for job in await self._records.load():
            self._jobs[job.id] = _Running(job)
            self._hold(job)

    def start(self) -> None:
        """Go on with what a stop, or a crash, has interrupted."""
        for one in self._jobs.values():
            self._begin(one)

    async def stop(self) -> None:
        """Begin no further step; wait for those on their way."""
        self._stopped = True
        for one in self._jobs.values():
            _wake(one)
        for one in list(self._jobs.values()):
            if one.ended is not None:
                await one.ended

    # -- asked for

    def all(self) -> list[Progress]:
        """Those that are not over and the newest that are, by number."""
        return [self._progress(one) for one in self._jobs.values()]

    def find(self, id: int) -> Progress:
        """How this one stands; `NotFound`."""
        return self._progress(self._known(id))

    async def create(self, plan: Plan) -> Job:
        """Begin a replay; its record is on disk when this returns. One with the same key is not begun again.

        `NotFound`: there is no such source. `BadValue`, `BadFilter`: it cannot be.
        """
        async with self._birth:
            for one in self._jobs.values():
                if plan.key and one.job.plan.key == plan.key:
                    return one.job
            plan = self._checked(plan)
            if sum(not one.job.state.over for one in self._jobs.values()) >= MAX_JOBS:
                raise BadValue(f"{MAX_JOBS} replays are not over, the most there may be: cancel some, or wait")
            taken = {one.job.run for one in self._jobs.values() if not one.job.state.over or one.job.undoing}
            run = next(number for number in range(1, len(taken) + 2) if number not in taken)
            id = max(self._jobs, default=0) + 1
            total = await between(self._store, self._directory, plan)
            job = Job(id, plan, run, begun=self._publishing.stamp + 1, total=total)
            try:
                await self._work.write(job)
            except BaseException:
                self._records.drop(job)
                raise
            one = self._jobs[id] = _Running(job)
        self._hold(job)
        self._forget_oldest()
        self._begin(one)
        return job

    async def preview(self, plan: Plan) -> Preview:
        """What `create` would put in, as of now; nothing changes."""
        plan = self._checked(plan)
        matches = compile_filter(plan.match).matches if plan.match else None
        examined = matched = 0
        samples: list[Seen] = []

        def accepts(message: Message, source: Destination) -> bool:
            nonlocal examined, matched
            examined += 1
            fits = matches is None or matches(Subject(message, source))
            matched += fits
            return fits and matched <= SAMPLES

        after: int | None = 0
        while after is not None:
            page = await self._work.look(plan, after, _PAGE, accepts)
            samples += page.seen
            after = page.after
        return Preview(examined, matched, samples)

    async def change(
        self, id: int, *, paused: bool | None = None, rate: int | None = None, most: int | None = None
    ) -> Job:
        """Pause it or go on, at another rate, up to another number; None: as before. `BadValue` if it is over."""
        one = self._known(id)
        async with one.turn:
            job = one.job
            if job.state.over:
                raise BadValue(f"replay {id} is over: it is {job.state.value}")
            said = {name: value for name, value in (("rate", rate), ("most", most)) if value is not None}
            state = job.state if paused is None else State.PAUSED if paused else State.RUNNING
            plan = msgspec.structs.replace(job.plan, **said)
            job = msgspec.structs.replace(job, plan=plan, state=state)
            one.job = await self._work.write(job)
        _wake(one)
        self._begin(one)
        return one.job

    async def cancel(self, id: int, *, undo: bool = False) -> Job:
        """End it if it is not over. With `undo`, settle what it put in and nobody has got; or move it back.

        What is on loan at this moment stays with whoever has it. `BadValue`: what was moved to a topic stays there.
        """
        one = self._known(id)
        plan = one.job.plan
        if undo and plan.move and plan.target is not None and plan.target.kind is Kind.TOPIC:
            raise BadValue(f"replay {id} moved its messages to a topic: there is no moving them back")
        try:
            async with one.turn:
                job = one.job if one.job.state.over else over(one.job, State.CANCELLED, self._publishing.stamp)
                if undo or job is not one.job:
                    one.job = await self._work.write(msgspec.structs.replace(job, undoing=undo))
                if undo:
                    await self._undo(one)
        finally:
            _wake(one)
            self._begin(one)  # it goes on undoing, if the store did not let it
        return one.job

    # -- checking

    def _checked(self, plan: Plan) -> Plan:
        """The plan with an end; raises what `create` raises."""
        if self._publishing.stopping:
            raise self._publishing.refusal()
        if plan.match:
            compile_filter(plan.match)
        for destination in (plan.source, plan.target):
            if destination is None:
                continue
            if destination in self._directory.aliases:
                raise BadValue(f"{destination.name} is an alias: name what it stands for")
            if destination.kind is Kind.TOPIC and is_pattern(destination.name):
                raise BadValue(f"topic {destination.name} is a pattern: name one topic")
        if plan.move and not plan.waiting:
            raise BadValue("only what waits in a queue can be moved; a log stays as it is")
        if plan.target is None and not plan.waiting:
            raise BadValue("only what waits in a queue can go home (target origin)")
        if plan.target is None and not (plan.since or plan.most or plan.all):
            raise BadValue("a redrive has a bound: since, max, or all")
        if plan.move and plan.target == plan.source:
            raise BadValue("source and target are the same queue")
        if reason := self._work.gone(plan):
            raise NotFound(reason.removesuffix(" any more"))
        now = self._publishing.stamp + 1
        return msgspec.structs.replace(plan, until=min(plan.until or now, now))

    # -- running

    def _begin(self, one: _Running) -> None:
        """Run it, or go on undoing it, unless that is so already."""
        if one.ended is not None or self._stopped or not (one.job.state is State.RUNNING or one.job.undoing):
            return
        one.since, one.before = self._clock.seconds(), one.job.examined
        one.ended = Deferred.fromCoroutine(self._run(one)).addErrback(
            lambda failure: self._log.failure("a replay stopped", failure)
        )

    async def _run(self, one: _Running) -> None:
        while not self._stopped and (one.job.state is State.RUNNING or one.job.undoing):
            async with one.turn:
                pause = await self._go_on(one)
            await self._sleep(one, pause)
        one.ended = None
        one.waits_for = ""

    async def _go_on(self, one: _Running) -> float:
        """One more step; the seconds until the next."""
        begun, job = self._clock.seconds(), one.job
        try:
            if job.undoing:
                await self._undo(one)
            elif self._publishing.stopping:
                one.waits_for = "the broker takes nothing in"
                return _RETRY
            elif job.state is State.RUNNING:
                one.job, one.waits_for = await self._work.step(job)
        except BrokerError as error:
            one.waits_for = error.reason
            if not error.retryable:
                await self._fail(one, error.reason)
            return _RETRY
        except Exception:
            self._log.failure("while replay {id} did a step", id=job.id)
            await self._fail(one, "the broker's own failure; it is in its log")
            return _RETRY
        done = one.job.copied - job.copied
        wait = done / job.plan.rate - (self._clock.seconds() - begun) if job.plan.rate else 0.0
        return max(wait, _FULL if one.waits_for else 0.0)

    async def _fail(self, one: _Running, reason: str) -> None:
        """It cannot go on; if not even that can be stored, the next start tries again."""
        one.job = over(one.job, State.FAILED, self._publishing.stamp, reason)
        with contextlib.suppress(BrokerError):
            await self._work.write(one.job)

    async def _sleep(self, one: _Running, seconds: float) -> None:
        if not self._stopped:
            one.nap = Deferred()
            one.alarm = self._clock.callLater(seconds, _wake, one)
            await one.nap

    async def _undo(self, one: _Running) -> None:
        """Settle, or move back, what it put in and nobody has got."""

        def told(job: Job) -> None:
            one.job = job

        await self._undoing.undo(one.job, told)

    # -- parts

    def _known(self, id: int) -> _Running:
        one = self._jobs.get(id)
        if one is None:
            raise NotFound(f"there is no replay {id}")
        return one

    def _progress(self, one: _Running) -> Progress:
        passed = self._clock.seconds() - one.since
        running = one.ended is not None and passed > 0
        return Progress(one.job, one.waits_for, (one.job.examined - one.before) / passed if running else 0.0)

    def _hold(self, job: Job) -> None:
        """Have the log it reads kept as far as it has not read it."""
        if job.state.over or job.plan.waiting:
            return
        log = self._directory.find_log(job.plan.source)
        for lane in log.lanes.values() if log is not None else ():
            self._retention.watch(lane)

    def _needed(self, source: Destination) -> int:
        """From which stamp on a log is still needed; 0: nobody needs it."""
        stamps: Iterable[int] = (
            max(one.job.position + 1, one.job.plan.since)
            for one in self._jobs.values()
            if one.job.plan.source == source and not one.job.plan.waiting and not one.job.state.over
        )
        return min(stamps, default=0)

    def _forget_oldest(self) -> None:
        """Forget those that have been over for longest."""
        gone = [one for one in self._jobs.values() if one.job.state.over and not one.job.undoing]
        for one in gone[: max(len(gone) - MAX_OVER, 0)]:
            del self._jobs[one.job.id]
            self._records.drop(one.job)


def _wake(one: _Running) -> None:
    """It need not wait any longer."""
    nap, one.nap = one.nap, None
    if one.alarm is not None and one.alarm.active():
        one.alarm.cancel()
    one.alarm = None
    if nap is not None:
        nap.callback(None)
