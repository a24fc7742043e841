"""``/replays``: messages of the past, or what waits or died in a channel, put in again; watched, changed and undone."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from twisted.internet.task import deferLater

from broker.auth.door import Access
from broker.auth.rights import Action
from broker.core.broker import Broker
from broker.core.destination import Destination, Kind, queue, topic
from broker.core.message import Message
from broker.core.replay import PRIORITY, Plan
from broker.core.replays import Progress
from broker.errors import BadValue, NotFound
from broker.http.call import Answer, Call, Sink, Stream, json
from broker.http.cloudevents import timestamp
from broker.http.parameters import Integer, moment
from broker.http.problem import Problem
from broker.http.rendering import accepts, encode, listed, looked_at
from broker.http.streams import EVENTS, KEEP_ALIVE

T = TypeVar("T")

#: Seconds between two events of a replay's stream.
TICK = 1.0

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
#: A stamp, seconds since 1970, RFC 3339, or some time ago: ``-7d``.
_Moment = Annotated[int, msgspec.Meta(ge=0, le=2**53)] | str


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where messages come from, or go to: one of the two."""

    channel: str | None = None
    topic: str | None = None
    #: Of a channel: its log, settled or not, as far as that is kept; else what waits in it.
    history: bool = False


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay as somebody asks for it."""

    source: Place
    #: ``origin``: each dead letter goes home.
    target: Place | Literal["origin"]
    #: Absent: ``move`` to ``origin``, else ``copy``.
    mode: Literal["copy", "move"] | None = None
    since: _Moment | None = None
    until: _Moment | None = None
    match: str = ""
    rate: _Count = 0
    max: _Count = 0
    priority: Integer = PRIORITY
    all: bool = False


class ReplayChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be different."""

    state: Literal["running", "paused"] | None = None
    rate: _Count | None = None
    max: _Count | None = None


class Replays:
    """The endpoints."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def create(self, call: Call) -> Answer:
        """``POST /replays``: begin one, once for an ``Idempotency-Key``; ``dry_run``: only say what it would put in."""
        plan = self._plan(await _read(call, Replay))
        _check(call.access, plan)
        try:
            if call.parameters.flag("dry_run"):
                seen = await call.wait(self._broker.replays.preview(plan))
                samples = [looked_at(one, body=True) for one in seen.samples]
                return json(200, {"examined": seen.examined, "matched": seen.matched, "samples": samples})
            if call.idempotency_key:
                plan = msgspec.structs.replace(plan, key=call.key(Message()))
            job = await self._broker.replays.create(plan)
        except NotFound as error:
            raise Problem(404, "not-found", error.reason) from None
        if not job.plan.same(plan):
            raise Problem(422, "idempotency-mismatch", "This Idempotency-Key was used for another replay.")
        answer = json(202, shown(self._broker.replays.find(job.id)))
        location = (b"Location", b"/replays/%d" % job.id)
        return msgspec.structs.replace(answer, fields=[*answer.fields, location])

    async def all(self, call: Call) -> Answer:
        """``GET /replays``: those that are not over, and the last hundred that are."""
        found = [one for one in self._broker.replays.all() if _seen(call.access, one)]
        return listed(call, "replays", map(shown, found))

    async def show(self, call: Call) -> Answer | Stream:
        """``GET /replays/R``: how it stands; as an event stream, until it is over."""
        id = self._found(call).job.id
        if not accepts(call, EVENTS):
            return json(200, shown(self._broker.replays.find(id)))
        fields = [(b"Content-Type", EVENTS.encode()), (b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no")]
        if call.method == "HEAD":
            return Answer(200, fields=fields)

        async def run(sink: Sink) -> None:
            full = False

            def flow(goes_on: bool) -> None:
                nonlocal full
                full = not goes_on

            sink.flow = flow
            last, silent = b"", 0.0
            while True:
                one = self._broker.replays.find(id)
                told = encode(shown(one))
                if not full and (told != last or silent >= KEEP_ALIVE):
                    sink.write(b"event: progress\ndata: %b\n\n" % told if told != last else b":\n\n")
                    last, silent = told, 0.0
                if one.job.state.over and not one.job.undoing and not full:
                    return
                await deferLater(self._broker.clock, TICK)
                silent += TICK

        return Stream(run, fields)

    async def change(self, call: Call) -> Answer:
        """``PATCH /replays/R``: pause it or go on, at another rate, up to another number."""
        self._mine(call)  # before a word about the body
        said = await _read(call, ReplayChange)
        job = self._mine(call).job
        if job.state.over:
            raise Problem(409, "replay-over", f"The replay is over: it is {job.state.value}.")
        paused = None if said.state is None else said.state == "paused"
        await self._broker.replays.change(job.id, paused=paused, rate=said.rate, most=said.max)
        return json(200, shown(self._broker.replays.find(job.id)))

    async def cancel(self, call: Call) -> Answer:
        """``DELETE /replays/R``: end it; with ``undo`` settle what it put in and nobody has got, or move it back."""
        job = self._mine(call).job
        undo = call.parameters.flag("undo")
        await self._broker.replays.cancel(job.id, undo=undo)
        return json(200, shown(self._broker.replays.find(job.id))) if undo else Answer(204)

    # -- parts

    def _plan(self, said: Replay) -> Plan:
        now = self._broker.now()
        home = said.target == "origin"
        if home and said.source.history:
            raise BadValue("Invalid source: what goes home waits in a channel; leave out history.")
        return Plan(
            source=_destination(said.source, "source"),
            waiting=said.source.channel is not None and not said.source.history,
            target=None if isinstance(said.target, str) else _destination(said.target, "target"),
            move=said.mode == "move" or (said.mode is None and home),
            since=_stamp(said.since, now, "since"),
            until=_stamp(said.until, now, "until"),
            match=said.match,
            rate=said.rate,
            most=said.max,
            priority=said.priority,
            all=said.all,
        )

    def _found(self, call: Call) -> Progress:
        """The replay in the path, if who asks may look at its source; to others there is none of that number."""
        try:
            one = self._broker.replays.find(call.match.replay)
            call.access.hide(Action.BROWSE, one.job.plan.source, f"there is no replay {call.match.replay}")
        except NotFound as error:
            raise Problem(404, "not-found", error.reason) from None
        return one

    def _mine(self, call: Call) -> Progress:
        """The same, if he might have begun it."""
        one = self._found(call)
        _check(call.access, one.job.plan)
        return one


async def _read(call: Call, type: type[T]) -> T:
    try:
        return msgspec.convert(await call.document(), type)
    except msgspec.ValidationError as error:
        raise Problem(400, "bad-parameter", f"Invalid replay: {error}") from None


def _destination(place: Place, called: str) -> Destination:
    if (place.channel is None) is (place.topic is None) or (place.history and called == "target"):
        raise BadValue(f'Invalid {called}: {{"channel": NAME}} or {{"topic": NAME}}.')
    return queue(place.channel) if place.channel is not None else topic(place.topic or "")


def _stamp(said: int | str | None, now: int, called: str) -> int:
    return 0 if said is None else moment(str(said), now, called)


def _check(access: Access, plan: Plan) -> None:
    """That somebody may look at, or take from, the source, and publish to the target; to send home: to everything."""
    access.check(Action.SUBSCRIBE if plan.move else Action.BROWSE, plan.source)
    if plan.target is None:
        access.check(Action.PUBLISH, None)
    else:
        access.publish(plan.target)


def _seen(access: Access, one: Progress) -> bool:
    return access.may(Action.BROWSE, one.job.plan.source)


def shown(one: Progress) -> dict[str, Any]:
    """A replay as it stands."""
    job, plan = one.job, one.job.plan
    source = _named(plan.source) | ({"history": True} if _of_history(plan) else {})
    found: dict[str, Any] = {
        "id": job.id,
        "state": job.state.value,
        "source": source,
        "target": "origin" if plan.target is None else _named(plan.target),
        "mode": "move" if plan.move else "copy",
        "until": timestamp(plan.until),
        "priority": plan.priority,
        "run": str(job.id),
        "begun": timestamp(job.begun),
    }
    found |= {"since": timestamp(plan.since)} if plan.since else {}
    found |= {"ended": timestamp(job.ended)} if job.ended else {}
    found |= {name: value for name, value in (("match", plan.match), ("rate", plan.rate), ("max", plan.most)) if value}
    found |= {
        "position": job.position,
        "total": job.total,
        "examined": job.examined,
        "matched": job.matched,
        "copied": job.copied,
        "left": job.left,
        "parked": job.parked,
        "undone": job.undone,
    }
    found |= {"reason": job.reason} if job.reason else {}
    found |= {"waits_for": one.waits_for} if one.waits_for else {}
    if not job.state.over:
        left = one.left
        found |= {"per_second": round(one.speed, 1), "eta": None if left is None else round(left)}
    return found


def _named(place: Destination) -> dict[str, Any]:
    return {"channel" if place.kind is Kind.QUEUE else "topic": place.name}


def _of_history(plan: Plan) -> bool:
    return plan.source.kind is Kind.QUEUE and not plan.waiting
