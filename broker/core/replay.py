"""A replay: what is asked of it, what it has done so far, and what becomes of a message that it puts in again.

Values only; `replays` does the work. A position is a stamp: those of a log only increase, so one number says where a
replay stands in all lanes of its source, and the end is fixed when it begins, whatever is published meanwhile.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta

import msgspec

from broker.core.browsing import Seen
from broker.core.destination import Destination, Kind, check_name, named
from broker.core.message import Message
from broker.errors import BrokerError

#: What a replay's messages wait behind, unless somebody says otherwise: everything that is published without a word.
PRIORITY = 10
#: The header that counts how often a dead letter was sent home.
REDRIVEN = "redriven"
#: The header that names the replay which put a message in: the CloudEvents attribute ``run``.
RUN = "ce-run"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class State(enum.Enum):
    """How a replay stands."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    #: It cannot go on; `Job.reason` says why.
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """True if it does nothing more."""
        return self not in (State.RUNNING, State.PAUSED)


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody asks for."""

    source: Destination
    #: True: what waits in the queue `source`; False: the log of `source`, settled or not, as far as it is kept.
    waiting: bool = False
    #: None: where each message died, as its headers say.
    target: Destination | None = None
    #: True: what is put in there is settled here, in the same commit.
    move: bool = False
    #: From this stamp on, and before this one; 0: from the start, and up to the moment of asking.
    since: int = 0
    until: int = 0
    #: A filter; only messages it is true of.
    match: str = ""
    #: Messages a second, and in all; 0: no limit.
    rate: int = 0
    most: int = 0
    priority: int = PRIORITY
    #: A redrive of everything is meant.
    all: bool = False
    #: What whoever asks calls it: asked again under this, it is not begun again.
    key: str = ""

    def same(self, other: Plan) -> bool:
        """True if it does the same, but for bounds and pace."""
        return (self.source, self.waiting, self.target, self.move, self.match) == (
            other.source,
            other.waiting,
            other.target,
            other.move,
            other.match,
        )


class Job(msgspec.Struct, frozen=True):
    """A replay as its record says: it is true when the commit that holds it is."""

    id: int
    plan: Plan
    #: The number of its lanes in its targets; no other replay that is not over has it.
    run: int
    #: The stamps between which are those of all that it puts in; 0: it is not over.
    begun: int
    ended: int = 0
    state: State = State.RUNNING
    #: Why it failed.
    reason: str = ""
    #: Everything up to this stamp was looked at.
    position: int = 0
    #: Messages between its bounds when it began; about, where some were settled.
    total: int = 0
    #: How many were looked at, of these the filter was true of so many, and so many were put in.
    examined: int = 0
    matched: int = 0
    copied: int = 0
    #: What had died too often to be sent home again.
    parked: int = 0
    #: True while what it put in and nobody has got is being settled, and how much that was.
    undoing: bool = False
    undone: int = 0

    @property
    def left(self) -> int:
        """What matched and could not be put in: it was on loan, too large, or nobody knows where it came from."""
        return self.matched - self.copied - self.parked


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode


def to_message(job: Job) -> Message:
    """The job as its log has it."""
    return Message(body=_encode(job), content_type="application/json")


def from_message(message: Message) -> Job:
    """The inverse; `msgspec.MsgspecError` if it is none."""
    return _decode(message.body)


def copy(seen: Seen, job: Job) -> Message:
    """The message as it is put in again: a new life, under the id, time and source that it had."""
    message = seen.message
    headers = {name: value for name, value in message.headers.items() if name.lower() != RUN}
    named = {name.lower() for name in headers}
    id, source = seen.message_id, str(seen.source)
    if job.plan.target is None:
        id, source = headers.get("origin", id), headers.get("original-destination", source)
        headers[REDRIVEN] = str(redriven(message) + 1)
    for name, value in (("ce-id", id), ("ce-source", source), ("ce-time", _rfc3339(message.stamp))):
        if name not in named:
            headers[name] = value
    headers[RUN] = str(job.id)
    return msgspec.structs.replace(
        message, headers=headers, priority=job.plan.priority, expires=0, delay=0, target="", key=""
    )


def returned(message: Message) -> Message:
    """A message that was moved, as it goes back where it came from."""
    headers = {name: value for name, value in message.headers.items() if name not in (RUN, REDRIVEN)}
    if (times := redriven(message)) > 1:
        headers[REDRIVEN] = str(times - 1)
    return msgspec.structs.replace(message, headers=headers, priority=0, expires=0, delay=0, target="", key="")


def home(message: Message) -> Destination | None:
    """The queue in which a dead letter died; None if it does not say so."""
    try:
        place = named(message.headers.get("original-destination", ""))
        return Destination(Kind.QUEUE, check_name(place.name)) if place.kind is Kind.QUEUE else None
    except (BrokerError, ValueError):
        return None


def redriven(message: Message) -> int:
    """How often it was sent home before."""
    said = message.headers.get(REDRIVEN, "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0


def _rfc3339(stamp: int) -> str:
    return (_EPOCH + timedelta(microseconds=stamp)).isoformat().replace("+00:00", "Z")
