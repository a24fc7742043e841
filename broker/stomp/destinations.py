"""STOMP's destination strings, and what they mean here."""

from __future__ import annotations

import enum
from urllib.parse import unquote

import msgspec

from broker.core.broker import Broker
from broker.core.destination import Destination, Kind, queue, topic
from broker.core.patterns import is_pattern, words_of
from broker.errors import BadName
from broker.stomp.errors import Refused

#: What `prefix` gives the kinds that others may share.
_PREFIXES = {"/queue/": Kind.QUEUE, "/topic/": Kind.TOPIC}
#: RabbitMQ's exchange behind its ``/topic/``; of any other exchange the name is the first words of a topic's.
_TOPICS = "amq.topic"


class Form(enum.Enum):
    """What a frame may do with a destination, and when it is there."""

    #: Whatever a user may: it comes to be by being used.
    PLAIN = enum.auto()
    #: The same, if it is there.
    EXISTING = enum.auto()


class Target(msgspec.Struct, frozen=True):
    """One destination that a frame names."""

    #: As the client wrote it, with its prefix if that was left out in a list.
    text: str
    destination: Destination
    form: Form = Form.PLAIN


#: Prefixes other brokers give a meaning that this one does not have. Taking them for queues would lose messages.
_RESERVED = (
    "/temp-queue/",
    "/temp-topic/",
    "/reply-queue/",
    "/remote-temp-queue/",
    "/remote-temp-topic/",
    "/dsub/",
    "/advisory/",
)


def parse(text: str, *, reading: bool = False, default: Kind = Kind.QUEUE) -> tuple[Target, ...]:
    """The destinations a frame names, each once; `reading`: it is a SUBSCRIBE, and topics may be patterns.

    ``/queue/x`` is a queue, ``/topic/x`` a topic, ``/exchange/e/key`` topic ``e.key``, and what has no known prefix is
    of the `default` kind. Several stand in a list with commas; what has no prefix there is of its neighbour's kind.
    Raises `Refused` for an empty or illegal name, a pattern to send to, and what has a meaning elsewhere and none here.
    """
    if "," not in text:
        return (_one(text, reading, default),)
    found: dict[Destination, Target] = {}
    for part in text.split(","):
        target = _one(part.strip(" \t"), reading, default)
        if not target.text.startswith("/"):
            target = Target(str(target.destination), target.destination)
        found.setdefault(target.destination, target)
        default = target.destination.kind
    return tuple(found.values())


def must_be_there(target: Target, broker: Broker) -> None:
    """Refuse what is not made by being used, if it is not there."""
    if target.form is Form.EXISTING and not broker.exists(target.destination.name):
        raise Refused("Destination not found", f"{target.text}: there is no queue {target.destination.name}")


def _one(text: str, reading: bool, default: Kind) -> Target:
    if not text.strip(" \t"):
        raise Refused("Invalid destination", "the destination is empty")
    try:
        target = _prefixed(text, reading) or _bare(text, default)
        name = target.destination.name
        if target.destination.kind is Kind.TOPIC and is_pattern(name):
            if not reading:
                raise Refused("Invalid destination", f"{text} is a pattern: it can be subscribed to, and not sent to")
            words_of(name)
    except BadName as error:
        raise Refused("Invalid destination", error.reason) from None
    return target


def _prefixed(text: str, reading: bool) -> Target | None:
    for prefix, kind in _PREFIXES.items():
        if text.startswith(prefix):
            name = text.removeprefix(prefix)
            return Target(text, queue(name) if kind is Kind.QUEUE else topic(name))
    if text.startswith("/exchange/"):
        return Target(text, _bound(text.removeprefix("/exchange/"), reading))
    if text.startswith("/amq/queue/"):
        return Target(text, queue(unquote(text.removeprefix("/amq/queue/"))), Form.EXISTING)
    if text.startswith(_RESERVED):
        raise Refused("Invalid destination", f"{text}: destinations of this kind are not supported")
    return None


def _bound(rest: str, reading: bool) -> Destination:
    """The topic of an exchange and a key. Who reads an exchange without a key gets whatever is sent to it."""
    name, _, key = rest.partition("/")
    if not name:
        raise BadName("the exchange has no name")
    words = [word for word in ("" if name == _TOPICS else unquote(name), unquote(key)) if word]
    if reading and not key:
        words.append("#")
    return topic(".".join(words))


def _bare(text: str, default: Kind) -> Target:
    return Target(text, queue(text) if default is Kind.QUEUE else topic(text))
