"""SEND's headers to a message, and a delivery to MESSAGE's headers.

Priorities: STOMP says 0-9 with the higher first and 4 the default; the core says lower first and 0 the default. So one
is 4 less the other, clamped to 0-9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.stomp.destinations import Target, parse
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.flavour import DEFAULT, Flavour
from broker.stomp.headers import number
from broker.stomp.wire import message_tail

#: Of the SEND frame itself, or written by the broker on MESSAGE: not the sender's to give.
_RESERVED = frozenset(
    {"destination", "message-id", "subscription", "ack", "redelivered", "delivery-count", "JMSXUserID"}
    | {"receipt", "transaction", "content-length"}
)
#: Headers that are fields of a message.
_DELAYS = ("AMQ_SCHEDULED_DELAY", "x-delay")
_FIELDS = frozenset({"content-type", "priority", "expires", "expiration", "ttl", "memcache-flags", *_DELAYS})
#: Of the publish, not of the message: given back, it would make a receiver that sends the message on with all its
#: headers repeat the key, and what it sends would not be stored.
_KEY = "dedup-id"
#: A field too, and kept: other brokers' receivers look at it.
_GROUP = "JMSXGroupID"
_NOT_KEPT = _RESERVED | _FIELDS | {_KEY}
_SAY_MORE = _FIELDS | {_KEY, _GROUP}

_NORMAL = 4
#: Milliseconds; as microseconds they fit 63 bits.
_MAX_TIME = 2**53 - 1
_MAX_FLAGS = 2**32 - 1


def to_message(headers: dict[str, str], body: bytes, targets: Sequence[Target]) -> Message:
    """What a SEND to `targets` says. ``expires`` is a moment; other times are durations (ms; 0 = none)."""
    kept = {name: value for name, value in headers.items() if name not in _NOT_KEPT}
    if len(targets) == 1 and targets[0].text != str(targets[0].destination):
        kept["destination"] = targets[0].text
    content_type = headers.get("content-type")
    if _SAY_MORE.isdisjoint(headers):
        return Message(body=body, headers=kept)
    priority = number(headers, "priority", 2**31)
    lives = [number(headers, name, _MAX_TIME // 1000) for name in ("expiration", "ttl")]
    delays = [number(headers, name, _MAX_TIME // 1000) for name in _DELAYS]
    return Message(
        body=body,
        headers=kept,
        content_type=content_type,
        flags=number(headers, "memcache-flags", _MAX_FLAGS) or 0,
        priority=0 if priority is None else _NORMAL - min(priority, 9),
        expires=(number(headers, "expires", _MAX_TIME) or 0) * 1000,
        ttl=min((life for life in lives if life), default=0),
        delay=max((delay for delay in delays if delay), default=0),
        group=headers.get(_GROUP, ""),
        key=headers.get(_KEY, ""),
    )


def to_headers(delivery: Delivery, flavour: Flavour = DEFAULT) -> dict[str, str]:
    """The headers of a MESSAGE that are the same for all its receivers.

    A sender's own ``timestamp`` passes; otherwise it is the moment the broker accepted the message.
    """
    message = delivery.message
    headers = {
        "destination": _literal(message, delivery.source, flavour),
        "message-id": delivery.message_id,
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
    for name, value in message.headers.items():
        if name not in _RESERVED:
            headers.setdefault(name, value)
    return headers


def _literal(message: Message, source: Destination, flavour: Flavour) -> str:
    """Where it was sent, in the sender's own words if they mean that place here."""
    text = message.headers.get("destination")
    if text is not None:
        with contextlib.suppress(Refused):
            if [target.destination for target in parse(text, default=flavour.bare)] == [source]:
                return text
    return str(source)


class Tails:
    """The shared part of MESSAGE frames, encoded once for all receivers of a topic's message that speak one dialect.

    What is only in one queue is encoded when it is delivered, and not kept.
    """

    #: Messages remembered, and the largest tail that is: at most 4 MiB in all.
    MAX_KEPT, MAX_SIZE = 64, 64 * 1024

    def __init__(self, flavour: Flavour = DEFAULT) -> None:
        self._flavour = flavour
        # The message is kept beside its tail, so that its id() stays its own.
        self._kept: dict[tuple[int, str], tuple[Message, bytes]] = {}

    def of(self, delivery: Delivery, dialect: Dialect) -> bytes:
        """The tail of `delivery` in `dialect`."""
        message = delivery.message
        if delivery.source.kind is Kind.QUEUE or len(message.body) > self.MAX_SIZE // 2:
            return self._tail(delivery, dialect)
        key = id(message), dialect.version
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        tail = self._tail(delivery, dialect)
        if len(tail) <= self.MAX_SIZE:
            if len(self._kept) >= self.MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (message, tail)
        return tail

    def _tail(self, delivery: Delivery, dialect: Dialect) -> bytes:
        tail = message_tail(to_headers(delivery, self._flavour), delivery.message.body, dialect)
        return tail + b"\n" if self._flavour.trailing_lf else tail
