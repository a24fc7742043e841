"""What compiled selectors are made of: values of a message, and three-valued logic over them.

A value is text, a number, a truth, or None: NULL, which is what a message does not have. A condition is True, False or
None: unknown. Everything is a closure over a message; none of them raises, whatever is in the message.

STOMP's headers are all text, and JMS's properties have types. So a header is text that is read as what it is compared
with: as a number beside a number, as a truth beside a truth. What cannot be read so is not alike, and a comparison of
what is not alike is false, ``<>`` too (JMS 1.1, 3.8.1.2). Comparisons with NULL are unknown.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from broker.core.like import like
from broker.core.message import Message

Value: TypeAlias = Callable[[Message], object]
Truth: TypeAlias = "bool | None"
Condition: TypeAlias = Callable[[Message], Truth]

#: Characters of a header that is read as a number; Python needs quadratic time to read long ones.
MAX_NUMBER: Final = 64
#: A calculation that reaches it has no result: a chain of products would take Python ever longer.
MAX_RESULT: Final = 10.0**308

_number = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_TRUTHS: Final = {"true": True, "false": False}


class Header(str):
    """Text whose type is what it is compared with."""

    __slots__ = ()


# -- values


def as_number(text: str) -> int | float | None:
    """The number that `text` is written as; None if it is none."""
    text = text.strip(" \t")
    if len(text) > MAX_NUMBER or not _number.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


#: What of a message is no header, under the names of STOMP and of JMS. Times are milliseconds.
FIELDS: Final[dict[str, Value]] = {
    "priority": lambda message: min(max(4 - message.priority, 0), 9),
    "timestamp": lambda message: message.stamp // 1000,
    "expires": lambda message: message.expires // 1000,
    "content-type": lambda message: _header(message.content_type),
    "JMSXGroupID": lambda message: _header(message.group or None),
}
_OF_JMS: Final = {
    "JMSPriority": "priority",
    "JMSTimestamp": "timestamp",
    "JMSExpiration": "expires",
    "JMSType": "type",
    "JMSCorrelationID": "correlation-id",
    "JMSReplyTo": "reply-to",
}


def _header(text: str | None) -> object:
    return None if text is None else Header(text)


def _delivery_mode(message: Message) -> object:
    return "PERSISTENT" if message.headers.get("persistent") == "true" else "NON_PERSISTENT"


def named(name: str) -> Value:
    """What a message has under a name: a field, or a header of exactly this name."""
    if name == "JMSDeliveryMode":
        return _delivery_mode
    name = _OF_JMS.get(name, name)
    if name in FIELDS:
        return FIELDS[name]
    return lambda message: _header(message.headers.get(name))


def constant(value: object) -> Value:
    """Always the same."""
    return lambda message: value


def calculation(first: Value, steps: list[tuple[str, Value]]) -> Value:
    """``+ - * /`` from left to right; NULL where something is no number, or the result is none."""

    def value(message: Message) -> object:
        result = _numeric(first(message))
        for symbol, operand in steps:
            number = _numeric(operand(message))
            if result is None or number is None:
                return None
            result = _calculated(symbol, result, number)
        return result

    return value


def _calculated(symbol: str, one: int | float, other: int | float) -> int | float | None:
    try:
        if symbol != "/":
            result = _CALCULATIONS[symbol](one, other)
        elif isinstance(one, int) and isinstance(other, int):  # whole numbers divide to whole ones, as in Java
            result = abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)
        else:
            result = one / other
    except (ZeroDivisionError, OverflowError):
        return None
    return result if abs(result) < MAX_RESULT else None


_CALCULATIONS: Final[dict[str, Callable[[int | float, int | float], int | float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


def negative(of: Value) -> Value:
    """The number with the other sign."""

    def value(message: Message) -> object:
        number = _numeric(of(message))
        return None if number is None else -number

    return value


def _numeric(value: object) -> int | float | None:
    if isinstance(value, Header):
        return as_number(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# -- conditions

_COMPARISONS: Final[dict[str, Callable[[object, object], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,  # type: ignore[dict-item]  # both sides are alike
    "<=": operator.le,  # type: ignore[dict-item]
    ">": operator.gt,  # type: ignore[dict-item]
    ">=": operator.ge,  # type: ignore[dict-item]
}


def compared(symbol: str, one: object, other: object) -> Truth:
    """``= <> < <= > >=``; truths are only equal or not."""
    if one is None or other is None:
        return None
    pair = _alike(one, other)
    if pair is None or (isinstance(pair[0], bool) and symbol not in ("=", "<>")):
        return False
    return _COMPARISONS[symbol](*pair)


def _alike(one: object, other: object) -> tuple[object, object] | None:
    """Both as values of one type; None: they are not alike."""
    if isinstance(one, Header) and isinstance(other, Header):
        numbers = as_number(one), as_number(other)
        return (one, other) if None in numbers else numbers
    if isinstance(one, Header):
        turned = _alike(other, one)
        return turned and (turned[1], turned[0])
    if isinstance(one, bool):
        found = _TRUTHS.get(other.lower()) if isinstance(other, Header) else other
        return (one, found) if isinstance(found, bool) else None
    if isinstance(one, int | float):
        number = _numeric(other)
        return None if number is None else (one, number)
    return (one, other) if isinstance(other, str) else None


def comparison(symbol: str, left: Value, right: Value) -> Condition:
    """A comparison of two values."""
    return lambda message: compared(symbol, left(message), right(message))


def between(value: Value, low: Value, high: Value) -> Condition:
    """``value >= low AND value <= high``."""

    def condition(message: Message) -> Truth:
        found = value(message)
        return both(compared(">=", found, low(message)), compared("<=", found, high(message)))

    return condition


def among(value: Value, choices: list[object]) -> Condition:
    """True if the value is equal to one of these, none of which is NULL."""

    def condition(message: Message) -> Truth:
        found = value(message)
        return None if found is None else any(compared("=", found, choice) for choice in choices)

    return condition


def likeness(value: Value, pieces: list[list[str | None]]) -> Condition:
    """True if text matches the pattern that `like` understands."""
    matches = like(pieces)

    def condition(message: Message) -> Truth:
        text = value(message)
        if text is None:
            return None
        return isinstance(text, str) and matches(text)

    return condition


def is_null(value: Value) -> Condition:
    """True if the message does not have it."""
    return lambda message: value(message) is None


def truth(value: Value) -> Condition:
    """A value that is a truth by itself; unknown if it is none."""

    def condition(message: Message) -> Truth:
        found = value(message)
        if isinstance(found, Header):
            return _TRUTHS.get(found.lower())
        return found if isinstance(found, bool) else None

    return condition


# -- logic


def both(one: Truth, other: Truth) -> Truth:
    """``AND``: false if one is, unknown if one is and none is false."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def negation(of: Condition) -> Condition:
    """``NOT``; unknown stays unknown."""

    def condition(message: Message) -> Truth:
        found = of(message)
        return None if found is None else not found

    return condition


def all_of(conditions: list[Condition]) -> Condition:
    """All of them, from left to right."""
    if len(conditions) == 1:
        return conditions[0]

    def condition(message: Message) -> Truth:
        result: Truth = True
        for one in conditions:
            result = both(result, one(message))
            if result is False:
                return False
        return result

    return condition


def any_of(conditions: list[Condition]) -> Condition:
    """One of them at least, from left to right."""
    if len(conditions) == 1:
        return conditions[0]

    def condition(message: Message) -> Truth:
        result: Truth = False
        for one in conditions:
            found = one(message)
            if found:
                return True
            if found is None:
                result = None
        return result

    return condition
