"""Destinations: named logs, told apart by kind and name."""

from __future__ import annotations

import enum
import re

import msgspec

from broker.errors import BadName

#: memcached's key limit; every front keeps to it, so that a name reachable by one is reachable by all.
MAX_NAME_BYTES = 250

#: C0 and C1 controls and DEL: none can be carried by all three protocols.
_control = re.compile("[\x00-\x1f\x7f-\x9f]")


class Kind(enum.Enum):
    """What a destination is: its name's other half."""

    QUEUE = "queue"
    TOPIC = "topic"
    #: The delayed messages of ten seconds; the name is the number of that stretch of time since 1970.
    SLOT = "slot"
    #: What a replay has done so far; the name is its number.
    REPLAY = "replay"

    #: By identity: `Enum`'s own is a call of Python, and every look for a log hashes it.
    __hash__ = object.__hash__


class Destination(msgspec.Struct, frozen=True, array_like=True):
    """The identity of a log: queue ``orders`` and topic ``orders`` are two."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"/{self.kind.value}/{self.name}"


def named(text: str) -> Destination:
    """The destination that `str` makes of it: ``/queue/orders``."""
    _, kind, name = text.split("/", 2)
    return Destination(Kind(kind), name)


def check_name(name: str) -> str:
    """Return `name`, or raise `BadName` if it is not 1-250 bytes of UTF-8 without control characters."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadName("the name is not valid UTF-8") from None
    if not size:
        raise BadName("the name is empty")
    if size > MAX_NAME_BYTES:
        raise BadName(f"the name is {size} bytes long, at most {MAX_NAME_BYTES} are allowed")
    if _control.search(name):
        raise BadName("the name holds control characters")
    return name


def queue(name: str) -> Destination:
    """The destination of queue `name`; raises `BadName`."""
    return Destination(Kind.QUEUE, check_name(name))


def topic(name: str) -> Destination:
    """The destination of topic `name`; raises `BadName`."""
    return Destination(Kind.TOPIC, check_name(name))
