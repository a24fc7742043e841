"""What compiled filters are made of: operands, which give a value of a message, and conditions on them.

All of them are closures that take a `Subject`. None of them raises, whatever is in the message.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from broker.core.destination import Destination
from broker.core.like import like
from broker.core.message import Message

#: Characters of a header that is read as a number; Python needs quadratic time to read long ones.
MAX_NUMBER: Final = 64

#: Bytes of a body that is read as JSON: 64 KiB take a millisecond of the reactor thread. A longer one has no ``data``.
MAX_JSON: Final = 64 * 1024

_parse_json = msgspec.json.Decoder().decode


class _Missing:
    """What an operand is that the message does not have."""


#: The value of what a message does not have.
MISSING: Final = _Missing()


class Subject:
    """A message as filters see it. Several filters may look at one: its body is parsed at most once."""

    __slots__ = ("_data", "_text", "destination", "message")

    def __init__(self, message: Message, destination: Destination) -> None:
        self.message = message
        self.destination = destination
        self._data: list[object] | None = None
        self._text: object = None

    @property
    def data(self) -> list[object]:
        """The body as JSON, in a list of one; empty if it is not JSON, or too long to be read on the way."""
        if self._data is None:
            body = self.message.body
            try:
                self._data = [_parse_json(body)] if len(body) <= MAX_JSON else []
            except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
                self._data = []
        return self._data

    @property
    def text(self) -> object:
        """The body as UTF-8; missing if it is not."""
        if self._text is None:
            try:
                self._text = self.message.body.decode()
            except UnicodeDecodeError:
                self._text = MISSING
        return self._text


Value: TypeAlias = Callable[[Subject], object]
Condition: TypeAlias = Callable[[Subject], bool]


# -- values

#: What has the same kind can be compared; what has none (missing, an array, an object) compares false.
_KINDS: Final[dict[type, str]] = {str: "text", int: "number", float: "number", bool: "truth", type(None): "null"}
#: A number as JSON writes it.
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

#: What every message has, and some of it may be missing. Durations are ms, moments us.
ATTRIBUTES: Final[dict[str, Value]] = {
    "priority": lambda subject: subject.message.priority,
    "stamp": lambda subject: subject.message.stamp,
    "size": lambda subject: len(subject.message.body),
    "flags": lambda subject: subject.message.flags,
    "content-type": lambda subject: _or_missing(subject.message.content_type, None),
    "expires": lambda subject: _or_missing(subject.message.expires, 0),
    "ttl": lambda subject: _or_missing(subject.message.ttl, 0),
    "lease": lambda subject: _or_missing(subject.message.lease, 0),
    "max-attempts": lambda subject: _or_missing(subject.message.max_attempts, 0),
    "destination": lambda subject: subject.destination.name,
    "kind": lambda subject: subject.destination.kind.value,
    "body": lambda subject: subject.text,
}


def _or_missing(value: object, unset: object) -> object:
    return MISSING if value == unset else value


def as_number(text: str) -> object:
    """The number that `text` is written as, in JSON's way; else `text`."""
    if len(text) > MAX_NUMBER or not NUMBER.fullmatch(text):
        return text
    value = int(text) if text.lstrip("-").isdigit() else float(text)
    return text if value in (float("inf"), float("-inf")) else value


def header(name: str) -> Value:
    """The header of exactly this name."""
    return lambda subject: subject.message.headers.get(name, MISSING)


def path(steps: list[str | int]) -> Value:
    """What is found in the JSON body by going along `steps`: an object's key, or a place in an array."""

    def value(subject: Subject) -> object:
        found: Any = subject.data
        for step in (0, *steps):
            if isinstance(step, str):
                if type(found) is not dict or step not in found:
                    return MISSING
            elif type(found) is not list or step >= len(found):
                return MISSING
            found = found[step]
        return found

    return value


# -- conditions

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Operand(msgspec.Struct):
    """What stands on a side of a comparison. A header is text, and a number beside a number."""

    value: Value
    header: bool = False
    #: It may be true or false: it can stand by itself.
    truth: bool = False


def comparison(symbol: str, left: Operand, right: Operand) -> Condition:
    """Of two values of one kind. Values of two kinds differ, and neither comes before the other."""
    compare = _OPERATORS[symbol]
    ordered = symbol not in ("=", "!=")
    unlike = symbol == "!="
    left_value, right_value, left_header, right_header = left.value, right.value, left.header, right.header

    def condition(subject: Subject) -> bool:
        one, other = left_value(subject), right_value(subject)
        kind, other_kind = _KINDS.get(type(one)), _KINDS.get(type(other))
        if kind is None or other_kind is None:
            return False
        if kind != other_kind:
            if left_header and other_kind == "number":
                one = as_number(one)  # type: ignore[arg-type]  # a header is a string
                kind = _KINDS[type(one)]
            elif right_header and kind == "number":
                other = as_number(other)  # type: ignore[arg-type]
                other_kind = _KINDS[type(other)]
            if kind != other_kind:
                return unlike
        if ordered and kind not in ("number", "text"):
            return False
        return compare(one, other)

    return condition


def existence(value: Value) -> Condition:
    """The message has it, be it null, an array or an object."""
    return lambda subject: value(subject) is not MISSING


def truth(value: Value) -> Condition:
    """It is ``true``; nothing else counts as that."""
    return lambda subject: value(subject) is True


def negation(condition: Condition) -> Condition:
    """Exactly the messages that do not fulfil `condition`."""
    return lambda subject: not condition(subject)


def any_of(conditions: list[Condition]) -> Condition:
    """At least one of them, tried in order."""

    def condition(subject: Subject) -> bool:
        return any(one(subject) for one in conditions)

    return condition if len(conditions) > 1 else conditions[0]


def all_of(conditions: list[Condition]) -> Condition:
    """Each of them, tried in order."""

    def condition(subject: Subject) -> bool:
        return all(one(subject) for one in conditions)

    return condition if len(conditions) > 1 else conditions[0]


def likeness(value: Value, pieces: list[list[str | None]]) -> Condition:
    """True if text matches the pattern that `like` understands."""
    matches = like(pieces)

    def condition(subject: Subject) -> bool:
        text = value(subject)
        return isinstance(text, str) and matches(text)

    return condition
