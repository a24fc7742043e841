"""SEND's headers to a message, and a delivery to MESSAGE's headers.

Priorities: STOMP says 0-9 with the higher first and 4 the default; the core says lower first and 0 the default. So one
is 4 less the other, clamped to 0-9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.stomp.consumer import SENDER
from broker.stomp.destinations import Names, short
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.flavour import DEFAULT, Flavour
from broker.stomp.frames import encode_headers, message_tail
from broker.stomp.headers import number

#: Of the SEND frame itself, or written by the broker: not the sender's to give.
_RESERVED = frozenset(
    {"destination", "message-id", "subscription", "ack", "redelivered", "delivery-count", "browser", SENDER}
    | {"receipt", "transaction", "content-length"}
)
#: What the broker says of the sender, if it is asked to.
USER = "JMSXUserID"
#: Headers that are fields of a message. Delays are how long, and until when.
_DELAYS = ("AMQ_SCHEDULED_DELAY", "x-delay")
_TIME = "AMQ_SCHEDULED_TIME"
_FIELDS = frozenset({"content-type", "priority", "expires", "expiration", "ttl", "memcache-flags", *_DELAYS, _TIME})
#: Of the publish, not of the message: given back, it would make a receiver that sends the message on with all its
#: headers repeat the key, and what it sends would not be stored.
_KEY = "dedup-id"
#: A field too, and kept: other brokers' receivers look at it.
_GROUP = "JMSXGroupID"
#: To ignore them would deliver once what is to come again and again.
_REPEATS = ("AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT", "AMQ_SCHEDULED_CRON")
_NOT_KEPT = _RESERVED | _FIELDS | {_KEY, USER, *_REPEATS}
_SAY_MORE = _FIELDS | {_KEY, _GROUP, *_REPEATS}

#: Of these a MESSAGE may say something else than others of the same headers.
_ITS_OWN = frozenset({"destination", "reply-to", "timestamp"})
#: What differs between messages of the same headers, in its order.
_PLACES = {"message-id": b"message-id:%b\n", "timestamp": b"timestamp:%d\n", "expires": b"expires:%d\n"}

_NORMAL = 4
#: Milliseconds; as microseconds they fit 63 bits.
_MAX_TIME = 2**53 - 1
_MAX_FLAGS = 2**32 - 1
#: RabbitMQ's words for why a message is dead.
_DEATHS = {"max_attempts": "delivery_limit", "overflow": "maxlen"}


def to_message(headers: dict[str, str], body: bytes, own: Mapping[str, str], now: int) -> Message:
    """What a SEND says at a time (us). ``expires`` is a moment; other times are durations (ms; 0 = none).

    `own` are headers that the broker writes, or writes otherwise than the sender.
    """
    kept = {name: value for name, value in headers.items() if name not in _NOT_KEPT}
    kept.update(own)
    if _SAY_MORE.isdisjoint(headers):
        return Message(body=body, headers=kept)
    for name in _REPEATS:
        if headers.get(name, "0").strip() not in ("0", ""):
            raise Refused("Not supported", f"{name} is not supported on SEND")
    priority = number(headers, "priority", 2**31)
    lives = [number(headers, name, _MAX_TIME // 1000) for name in ("expiration", "ttl")]
    delays = [number(headers, name, _MAX_TIME // 1000) for name in _DELAYS]
    delays.append((number(headers, _TIME, _MAX_TIME // 1000) or 0) - now // 1000)
    return Message(
        body=body,
        headers=kept,
        content_type=headers.get("content-type"),
        flags=number(headers, "memcache-flags", _MAX_FLAGS) or 0,
        priority=0 if priority is None else _NORMAL - min(priority, 9),
        expires=(number(headers, "expires", _MAX_TIME) or 0) * 1000,
        ttl=min((life for life in lives if life), default=0),
        delay=max((delay for delay in delays if delay and delay > 0), default=0),
        group=headers.get(_GROUP, ""),
        key=headers.get(_KEY, ""),
    )


class Shown(Protocol):
    """What a MESSAGE shows: a delivery, or what is looked at without taking it."""

    @property
    def message(self) -> Message: ...
    @property
    def message_id(self) -> str: ...
    @property
    def source(self) -> Destination: ...


def to_headers(shown: Shown, names: Names = Names(), replies: str = "/reply-queue/") -> dict[str, str]:  # noqa: B008
    """The headers of a MESSAGE that are the same for all its receivers, but those that `names` turns into a session's.

    A sender's own ``timestamp`` passes; otherwise it is the moment the broker accepted the message.
    """
    message = shown.message
    headers = {
        "destination": _literal(message, shown.source, names),
        "message-id": shown.message_id,
        "timestamp": message.headers.get("timestamp") or str(message.stamp // 1000),
        "priority": str(min(max(_NORMAL - message.priority, 0), 9)),
        "expires": str(message.expires // 1000),
    }
    if message.content_type is not None:
        headers["content-type"] = message.content_type
    if message.flags:
        headers["memcache-flags"] = str(message.flags)
    if message.group:
        headers[_GROUP] = message.group
    if "reply-to" in message.headers:
        headers["reply-to"] = names.imported(message.headers["reply-to"], replies)
    if "dead-letter-reason" in message.headers:
        headers.update(_in_rabbits_words(message.headers))
    for name, value in message.headers.items():
        if name not in _RESERVED:
            headers.setdefault(name, value)
    return headers


def _in_rabbits_words(headers: Mapping[str, str]) -> dict[str, str]:
    reason = headers["dead-letter-reason"]
    return {
        "x-first-death-reason": _DEATHS.get(reason, reason),
        "x-first-death-queue": headers.get("original-destination", "").removeprefix("/queue/"),
        "x-first-death-exchange": "",
    }


def _literal(message: Message, source: Destination, names: Names) -> str:
    """Where it was sent, in the sender's own words if they mean that place here."""
    text = short(source.name)
    if text is not None:
        return text
    text = message.headers.get("destination")
    if text is not None:
        with contextlib.suppress(Refused):
            if [target.destination for target in names.parse(text)] == [source]:
                return text
    return str(source)


class Tails:
    """The shared part of MESSAGE frames, encoded once for all receivers of a topic's message that speak one dialect.

    What is only in one queue is encoded when it is delivered, and not kept; but messages say the same of themselves
    again and again, so the pattern of their headers is: with it a tail takes 0.9 us, without it 4.
    """

    #: Messages remembered, and the largest tail that is: at most 4 MiB in all.
    MAX_KEPT, MAX_SIZE = 64, 64 * 1024
    #: Patterns remembered, and the longest of them. An empty one: its headers came once.
    MAX_PATTERNS, MAX_PATTERN = 1_024, 512

    def __init__(self, flavour: Flavour = DEFAULT) -> None:
        self._flavour = flavour
        # The message is kept beside its tail, so that its id() stays its own.
        self._kept: dict[tuple[int, str], tuple[Message, bytes]] = {}
        self._patterns: dict[tuple[object, ...], bytes] = {}
        # What several subscribers are told together, one after the other: the same list, and its tails.
        self._last: tuple[object, str, list[bytes]] = (None, "", [])

    def of(self, shown: Shown, dialect: Dialect, names: Names) -> bytes:
        """The tail of `shown` in `dialect`, for the session that has these `names`."""
        message = shown.message
        if (
            shown.source.kind is Kind.QUEUE
            or len(message.body) > self.MAX_SIZE // 2
            or "reply-to" in message.headers  # it may be one of the session's own
        ):
            return self._tail(shown, dialect, names)
        key = id(message), dialect.version
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        tail = self._tail(shown, dialect, names)
        if len(tail) <= self.MAX_SIZE:
            if len(self._kept) >= self.MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (message, tail)
        return tail

    def of_all(self, shown: Sequence[Shown], dialect: Dialect, names: Names) -> list[bytes]:
        """The tails of what several subscribers are told together: 0.1 us a message for the second of them."""
        last, version, tails = self._last
        if last is shown and version == dialect.version:
            return tails
        tails = [self.of(one, dialect, names) for one in shown]
        if not any("reply-to" in one.message.headers for one in shown):  # it may be one of the session's own
            self._last = shown, dialect.version, tails
        return tails

    def _tail(self, shown: Shown, dialect: Dialect, names: Names) -> bytes:
        message, source = shown.message, shown.source
        said, body = message.headers, message.body
        if not _ITS_OWN.isdisjoint(said):
            return self._ended(message_tail(to_headers(shown, names, self._flavour.replies), body, dialect))
        kind = dialect.version, source.kind is Kind.QUEUE, source.name
        key = *kind, message.content_type, message.priority, message.flags, message.group, *said.items()
        if pattern := self._patterns.get(key):
            own = shown.message_id.encode(), message.stamp // 1000, message.expires // 1000, len(body)
            return pattern % (*own, body)
        headers = to_headers(shown, names)
        tail = self._ended(message_tail(headers, body, dialect))
        if len(tail) - len(body) <= self.MAX_PATTERN:
            self._remember(key, headers, dialect)
        return tail

    def _remember(self, key: tuple[object, ...], headers: dict[str, str], dialect: Dialect) -> None:
        """Such headers were said once, or again: then their pattern is worth its making."""
        patterns = self._patterns
        if key in patterns:
            lines = [
                _PLACES.get(name) or encode_headers({name: value}, dialect).replace(b"%", b"%%")
                for name, value in headers.items()
            ]
            patterns[key] = self._ended(b"".join(lines) + b"content-length:%d\n\n%b\0")
            return
        if len(patterns) >= self.MAX_PATTERNS:
            patterns.clear()
        patterns[key] = b""

    def last(self, headers: dict[str, str], dialect: Dialect) -> bytes:
        """The tail of a MESSAGE that has no message: the last one of a browser."""
        return self._ended(message_tail(headers, b"", dialect))

    def _ended(self, tail: bytes) -> bytes:
        return tail + b"\n" if self._flavour.trailing_lf else tail
