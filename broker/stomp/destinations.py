"""STOMP's destination strings, and what they mean here.

Some mean something to one session only: its temporary queues and topics. Those live under names that nobody can guess,
``temp-queue/START.SESSION.NAME``; the words after the slash are the *token* under which others may send there.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from urllib.parse import unquote

import msgspec

from broker.core.destination import Destination, Kind, queue, topic
from broker.core.patterns import is_pattern, words_of
from broker.errors import BadName
from broker.stomp.errors import Refused

_PREFIXES = {"/queue/": Kind.QUEUE, "/topic/": Kind.TOPIC}
#: What the names of temporary queues and topics begin with, after the kind.
TEMPORARY = {"/temp-queue/": Kind.QUEUE, "/temp-topic/": Kind.TOPIC}
#: Under which others may send there.
EXPORTED = {
    "/reply-queue/": Kind.QUEUE,
    "/remote-temp-queue/": Kind.QUEUE,
    "/remote-temp-topic/": Kind.TOPIC,
}
#: RabbitMQ's exchange behind its ``/topic/``; of any other exchange the name is the first words of a topic's.
_TOPICS = "amq.topic"
#: Characters of a text that is remembered with what it means.
_REMEMBERED = 256
#: What the name of a durable subscription's queue begins with.
DURABLE = "dsub/"


class Form(enum.Enum):
    """What a frame may do with a destination, and when it is there."""

    #: Whatever a user may: it comes to be by being used.
    PLAIN = enum.auto()
    #: The same, if it is there.
    EXISTING = enum.auto()
    #: A temporary one of this session.
    TEMPORARY = enum.auto()
    #: Somebody's temporary one: it may be sent to.
    EXPORTED = enum.auto()


class Target(msgspec.Struct, frozen=True):
    """One destination that a frame names."""

    #: As the client wrote it, with its prefix if that was left out in a list.
    text: str
    destination: Destination
    form: Form = Form.PLAIN

    @property
    def is_plain(self) -> bool:
        """True if MESSAGE would say it in these words anyway."""
        return self.text == str(self.destination)


class Names(msgspec.Struct, frozen=True):
    """The destinations of one session, by name."""

    #: What a name without a prefix is.
    bare: Kind = Kind.QUEUE
    #: What the tokens of its temporary destinations begin with.
    owner: str = ""

    def parse(self, text: str, *, reading: bool = False) -> tuple[Target, ...]:
        """The destinations a frame names, each once; `reading`: it is a SUBSCRIBE, and topics may be patterns.

        ``/queue/x`` is a queue, ``/topic/x`` a topic, ``/exchange/e/key`` topic ``e.key``. Several stand in a list with
        commas; what has no prefix there is of its neighbour's kind. Raises `Refused` for an empty or illegal name, a
        pattern to send to, and what has a meaning elsewhere and none here.
        """
        return _parsed(self, text, reading) if len(text) <= _REMEMBERED else self.read(text, reading)

    def read(self, text: str, reading: bool) -> tuple[Target, ...]:
        """The same as `parse`, which remembers what was asked lately."""
        if "," not in text:
            return (self._one(text, reading, self.bare),)
        bare = self.bare
        found: dict[Destination, Target] = {}
        for part in text.split(","):
            target = self._one(part.strip(" \t"), reading, bare)
            if not target.text.startswith("/"):
                target = Target(str(target.destination), target.destination)
            found.setdefault(target.destination, target)
            bare = target.destination.kind
        return tuple(found.values())

    def _one(self, text: str, reading: bool, bare: Kind) -> Target:
        if not text.strip(" \t"):
            raise Refused("Invalid destination", "the destination is empty")
        try:
            target = self._prefixed(text, reading) or Target(text, _named(bare, text))
            name = target.destination.name
            if target.destination.kind is Kind.TOPIC and is_pattern(name):
                if not reading:
                    raise Refused("Invalid destination", f"{text} is a pattern: it can be subscribed to, not sent to")
                words_of(name)
        except BadName as error:
            raise Refused("Invalid destination", error.reason) from None
        if target.form is Form.PLAIN and name.startswith(("temp-queue/", "temp-topic/")):
            raise Refused("Invalid destination", f"{text}: temporary destinations have names of their own")
        return target

    def _prefixed(self, text: str, reading: bool) -> Target | None:
        prefix, rest = _cut(text)
        if prefix in _PREFIXES:
            return Target(text, _named(_PREFIXES[prefix], rest))
        if not rest and (prefix in TEMPORARY or prefix in EXPORTED):
            raise BadName("the name is empty")
        if prefix in TEMPORARY:
            return Target(text, _temporary(TEMPORARY[prefix], f"{self.owner}.{rest}"), Form.TEMPORARY)
        if prefix in EXPORTED:
            return Target(text, _temporary(EXPORTED[prefix], rest), Form.EXPORTED)
        if prefix == "/exchange/":
            return Target(text, _bound(rest, reading))
        if prefix == "/dsub/":
            return Target(text, queue(DURABLE + rest), Form.EXISTING)
        if text.startswith("/amq/queue/"):
            return Target(text, queue(unquote(text.removeprefix("/amq/queue/"))), Form.EXISTING)
        if prefix == "/advisory/":
            raise Refused("Invalid destination", f"{text}: destinations of this kind are not supported")
        return None

    # -- temporary ones

    def exported(self, text: str) -> str:
        """What a reply-to of this session says to others; any other text stays as it is."""
        prefix, rest = _cut(text)
        if prefix not in TEMPORARY:
            return text
        said = "/reply-queue/" if TEMPORARY[prefix] is Kind.QUEUE else "/remote-temp-topic/"
        return f"{said}{self.owner}.{rest}"

    def imported(self, text: str, replies: str = "/reply-queue/") -> str:
        """What this session reads there: its own name, or somebody else's behind `replies`."""
        prefix, rest = _cut(text)
        if prefix not in EXPORTED:
            return text
        kind = EXPORTED[prefix]
        if self.owner and rest.startswith(f"{self.owner}."):
            return f"/temp-{kind.value}/{rest.removeprefix(f'{self.owner}.')}"
        return f"{replies}{rest}" if kind is Kind.QUEUE else text


@lru_cache(maxsize=4096)
def _parsed(names: Names, text: str, reading: bool) -> tuple[Target, ...]:
    return names.read(text, reading)


def short(name: str) -> str | None:
    """What its owner calls the temporary destination of this name; None if it is none."""
    if not name.startswith(("temp-queue/", "temp-topic/")):
        return None
    kind, _, token = name.partition("/")
    return f"/{kind}/{token.split('.', 2)[-1]}"


def _cut(text: str) -> tuple[str, str]:
    """``/word/`` at the beginning, and what follows."""
    if not text.startswith("/"):
        return "", text
    place = text.find("/", 1)
    return text[: place + 1], text[place + 1 :]


def _named(kind: Kind, name: str) -> Destination:
    return queue(name) if kind is Kind.QUEUE else topic(name)


def _temporary(kind: Kind, token: str) -> Destination:
    if kind is Kind.TOPIC and is_pattern(token):
        raise BadName("a temporary topic is no pattern")
    return _named(kind, f"temp-{kind.value}/{token}")


def _bound(rest: str, reading: bool) -> Destination:
    """The topic of an exchange and a key. Who reads an exchange without a key gets whatever is sent to it."""
    name, _, key = rest.partition("/")
    if not name:
        raise BadName("the exchange has no name")
    words = [word for word in ("" if name == _TOPICS else unquote(name), unquote(key)) if word]
    if reading and not key:
        words.append("#")
    return topic(".".join(words))
