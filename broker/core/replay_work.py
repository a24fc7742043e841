"""The work of a replay, a step at a time: a page of its source, put in again where it belongs, in one commit.

A step is a unit of a group: the messages, what is settled for them where they are moved, and the record that says how
far the replay has come. So a replay that is killed goes on exactly where it was.

One step of all replays together is on its way at a time. Whoever publishes meanwhile is in the commit after it, so that
a busy store has none in every second commit; and while others commit, a step is followed by a rest as long as itself,
so that replays have no more than half of the time either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.core.binding import Binding
from broker.core.browsing import Accepts, Browsing, Page, Seen
from broker.core.browsing import State as Standing
from broker.core.conditions import Subject
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.filter import compile_filter
from broker.core.journal import Journal
from broker.core.message import Message
from broker.core.publishing import Publishing
from broker.core.queue import Queue
from broker.core.reader import Reader
from broker.core.replay import Job, Plan, State, copy, home, redriven, returned
from broker.core.replay_records import Records
from broker.core.replay_turn import Turn
from broker.core.route import Route
from broker.core.stats import BrokerStats
from broker.core.unit import Unit
from broker.errors import QueueFull

#: Messages of a step, and those of them that a reactor turn makes ready, at about 30 us each.
MAX_MESSAGES = 250
_SLICE = 100
#: Bytes of their bodies (one message, if it is larger).
MAX_BYTES = 128 * 1024
#: Seconds that a rest takes at most.
_REST = 1.0
#: Steps a second of a replay with a rate, where that is more than one message each.
_STEPS = 10


@attrs.define(eq=False)
class _Target:
    """Where messages of a step go, and what holds there in this reactor turn."""

    destination: Destination
    #: Nothing can be put in there.
    alias: bool
    #: Bytes of a body; 0: no limit.
    largest: int
    #: How often a message is sent home there; 0: no limit.
    redrives: int
    #: The queues that read it because somebody asked for that.
    bound: Mapping[Queue, Binding]


@attrs.define(eq=False)
class Step:
    """What a step does, until its commit has an outcome."""

    unit: Unit = attrs.field(factory=lambda: Unit([], 0))
    routes: list[Route] = attrs.field(factory=list)
    targets: dict[Destination, _Target] = attrs.field(factory=dict)
    #: What is moved: on loan to nobody until it is settled.
    moved: list[Delivery] = attrs.field(factory=list)
    matched: int = 0
    parked: int = 0
    bytes: int = 0
    #: The stamp of the last message that was dealt with.
    reached: int = 0
    #: Why the next one has to wait; empty: it has not.
    blocked: str = ""


@attrs.define(eq=False)
class Work:
    """Does steps."""

    _clock: IReactorTime
    _directory: Directory
    _journal: Journal
    _publishing: Publishing
    _browsing: Browsing
    _records: Records
    _stats: BrokerStats
    _changed: Callable[[Queue], None]
    #: Held for a step, and the rest behind it.
    _turn: Turn = attrs.field(factory=Turn, init=False)

    # -- looking

    async def look(self, plan: Plan, after: int, limit: int, accepts: Accepts) -> Page:
        """A page of the source, from behind `after`."""
        return await self._browsing.browse(
            plan.source,
            states=(Standing.READY, Standing.ON_LOAN),
            after=max(after, plan.since - 1),
            until=plan.until,
            limit=limit,
            accepts=accepts,
            history=not plan.waiting,
        )

    def gone(self, plan: Plan) -> str:
        """Why there is nothing to read any more; empty: there may be."""
        name = plan.source.name
        if plan.waiting:
            return "" if self._directory.exists(name) else f"there is no queue {name} any more"
        log = self._directory.find_log(plan.source)
        return "" if log is not None and log.lanes else f"nothing of {plan.source} is kept any more"

    # -- a step

    async def step(self, job: Job) -> tuple[Job, str]:
        """The job after one more step, and what it has to wait for; empty: nothing."""
        async with self._turn:
            begun, before = self._clock.seconds(), self._journal.commits
            after, blocked = await self._step(job)
            if not after.state.over:
                await self._rest(begun, before)
            return after, blocked

    async def _rest(self, begun: float, commits: int) -> None:
        """Rest as long as the step took that began then, if others have committed meanwhile."""
        if self._journal.commits > commits + 1:  # one was ours
            await deferLater(self._clock, min(self._clock.seconds() - begun, _REST))

    async def _step(self, job: Job) -> tuple[Job, str]:
        plan = job.plan
        if reason := self.gone(plan):
            return await self.write(over(job, State.FAILED, self._publishing.stamp, reason)), ""
        looked: list[int] = []
        matches = compile_filter(plan.match).matches if plan.match else None

        def accepts(message: Message, source: Destination) -> bool:
            looked.append(message.stamp)
            return matches is None or matches(Subject(message, source))

        page = await self.look(plan, job.position, _limit(job), accepts)
        return await self._put_in(job, page, looked)

    async def _put_in(self, job: Job, page: Page, looked: list[int]) -> tuple[Job, str]:
        step = Step(reached=job.position)
        try:
            for number, seen in enumerate(page.seen, 1):
                if step.bytes + len(seen.message.body) > MAX_BYTES and step.matched:
                    break
                step.blocked = self._deal(job, seen, step)
                if step.blocked:
                    break
                step.reached = seen.message.stamp
                if number % _SLICE == 0:
                    await deferLater(self._clock, 0)
                    step.targets.clear()
        except BaseException:
            self._end(step, False)
            raise
        whole = not step.blocked and step.matched == len(page.seen)
        ends = whole and page.after is None
        if whole:
            step.reached = job.plan.until - 1 if page.after is None else page.after
        after = msgspec.structs.replace(
            job,
            position=max(step.reached, job.position),
            examined=job.examined + sum(stamp <= step.reached for stamp in looked),
            matched=job.matched + step.matched,
            copied=job.copied + len(step.routes),
            parked=job.parked + step.parked,
        )
        if ends or (job.plan.most and after.copied >= job.plan.most):
            after = over(after, State.DONE, self._publishing.stamp)
        if step.routes or after.state.over:
            await self._commit(after, step)
        return after, step.blocked

    async def back(self, job: Job, waiting: Iterable[tuple[Reader, int, Message]]) -> Job:
        """The job after those of these that still wait have gone back to where it moved them from."""
        async with self._turn:
            begun, before = self._clock.seconds(), self._journal.commits
            step, source = Step(), job.plan.source
            try:
                for reader, seq, message in waiting:
                    if seq in reader.bits or seq in reader.on_loan:
                        continue
                    step.moved.append(_lend(reader, seq, message))
                    again = self._publishing.accept(source, returned(message))
                    step.routes.append(self._publishing.routing.route(source, again, taken=message.stamp, run=job.run))
                    step.unit.size += again.size
            except BaseException:
                self._end(step, False)
                raise
            after = msgspec.structs.replace(job, undone=job.undone + len(step.routes))
            if step.routes:
                await self._commit(after, step)
                await self._rest(begun, before)
            return after

    async def write(self, job: Job) -> Job:
        """The job, once its record is on disk."""
        await self._commit(job, Step())
        return job

    async def _commit(self, job: Job, step: Step) -> None:
        unit = step.unit
        unit.appends += [route.append for route in step.routes if route.append is not None]
        unit.settles += [settled for route in step.routes for settled in route.settles]
        unit.settles += [(one.reader, one.seq) for one in step.moved if one.reader.lane.durable]
        reader = self._records.write(job, unit)

        def ended(committed: bool) -> None:
            if committed:
                reader.settle_range(reader.bits.cursor, reader.lane.next - 1)
            self._end(step, committed)

        unit.ended = ended
        following = iter(await self._journal.append(unit))
        self._stats.replayed += len(step.routes)
        for route in step.routes:
            self._publishing.told(route, next(following) if route.append is not None else -1)
        for queue in dict.fromkeys(delivery.reader.queue for delivery in step.moved):
            self._changed(queue)
        await deferLater(self._clock, 0)  # what was told has taken this turn's share

    def _end(self, step: Step, committed: bool) -> None:
        for route in step.routes:
            self._publishing.ended(route, committed)
        for delivery in step.moved:
            if not delivery.on_loan:
                continue  # purged meanwhile
            reader = delivery.reader
            if committed:
                reader.settle(delivery.seq, delivery.message)
                reader.queue.counts.moved += 1
                self._stats.moved += 1
            else:
                delivery.claimed = False
                reader.give_back(delivery, delivery.attempts)

    # -- one message

    def _deal(self, job: Job, seen: Seen, step: Step) -> str:
        """Put a message in, or leave it; why that has to wait, empty: it is dealt with."""
        plan, message = job.plan, seen.message
        destination = plan.target if plan.target is not None else home(message)
        target = self._target(step, destination) if destination is not None else None
        if target is not None and plan.target is None and 0 < target.redrives <= redriven(message):
            step.matched += 1
            step.parked += 1
            return ""
        held = plan.waiting and seen.state is not Standing.READY
        if target is None or held or target.alias or 0 < target.largest < len(message.body):
            step.matched += 1
            return ""
        again = copy(seen, job)
        if (full := self._full(target, again)) is not None:
            return f"{full} is full"
        delivery = None
        if plan.move and (delivery := self._lent(seen)) is None:
            step.matched += 1
            return ""
        again = self._publishing.accept(target.destination, again)
        try:
            route = self._publishing.routing.route(target.destination, again, run=job.run)
        except QueueFull as error:
            if delivery is not None:
                delivery.claimed = False
                delivery.reader.give_back(delivery, delivery.attempts)
            return error.reason
        if delivery is not None:
            step.moved.append(delivery)
        step.routes.append(route)
        step.unit.size += again.size
        step.bytes += len(again.body)
        step.matched += 1
        return ""

    def _lent(self, seen: Seen) -> Delivery | None:
        """Have nobody take what is to be moved; None: somebody has, or it is settled."""
        located = self._directory.locate(seen.id)
        if located is None:
            return None
        reader, seq = located
        return None if seq in reader.on_loan else _lend(reader, seq, seen.message)

    def _target(self, step: Step, destination: Destination) -> _Target:
        found = step.targets.get(destination)
        if found is None:
            directory, name = self._directory, destination.name
            log = directory.find_log(destination)
            bound: Mapping[Queue, Binding] = log.bound if log is not None else {}
            if destination.kind is Kind.TOPIC and (log is None or not log.id):
                bound = directory.bindings.of_patterns(destination)
            alias = destination in directory.aliases
            if destination.kind is Kind.QUEUE:
                policy = directory.policies.of(name)
                found = _Target(destination, alias, policy.max_message_size, policy.redrive_max, bound)
            else:
                found = _Target(destination, alias, directory.policies.of_topic(name).max_message_size, 0, bound)
            step.targets[destination] = found
        return found

    def _full(self, target: _Target, message: Message) -> str | None:
        """The queue that would get the message and has no room to spare; None: all have."""
        destination = target.destination
        own = self._directory.find(destination.name) if destination.kind is Kind.QUEUE else None
        if own is not None and not own.policy.fanout_only and own.room.crowded_for(message):
            return own.name
        if target.bound:
            subject = Subject(message, destination)
            for queue, binding in target.bound.items():
                wants = binding.filter is None or binding.filter.matches(subject)
                if wants and queue.room.crowded_for(message):
                    return queue.name
        return None


def _lend(reader: Reader, seq: int, message: Message) -> Delivery:
    """Put a message on loan to nobody."""
    delivery = reader.lend(seq, message, None, 0, 0)
    delivery.claimed = True
    return delivery


def over(job: Job, state: State, stamp: int, reason: str = "") -> Job:
    """The job as it ends."""
    return msgspec.structs.replace(job, state=state, ended=stamp, reason=reason)


def _limit(job: Job) -> int:
    """Messages of the next step."""
    most = MAX_MESSAGES
    if job.plan.rate:
        most = min(most, max(job.plan.rate // _STEPS, 1))
    if job.plan.most:
        most = min(most, job.plan.most - job.copied)
    return max(most, 1)
