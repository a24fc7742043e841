"""SEND's headers to a message, and a delivery to MESSAGE's headers.

Priorities: STOMP says 0-9 with the higher first and 4 the default; the core says lower first and 0 the default. So one
is 4 less the other, clamped to 0-9.
"""

from __future__ import annotations

import re

from broker.core.delivery import Delivery
from broker.core.destination import Kind
from broker.core.message import Message
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
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
_MAX_RANK = 2**31 - 1

_number = re.compile(r"[0-9]{1,20}", re.ASCII)
_integer = re.compile(r"-?[0-9]{1,10}", re.ASCII)


def number(headers: dict[str, str], name: str, limit: int) -> int | None:
    """Header `name` as a count from 0 to `limit`; None if it is not there. Raises `Refused`."""
    text = headers.get(name)
    if text is None:
        return None
    value = int(text) if _number.fullmatch(text) else -1
    if not 0 <= value <= limit:
        raise Refused("Invalid header", f"{name} must be a number from 0 to {limit}")
    return value


def rank(headers: dict[str, str]) -> int:
    """The priority of a subscription, the higher the earlier it is served; 0 if it says none. Raises `Refused`."""
    for name in ("activemq.priority", "x-priority"):
        text = headers.get(name)
        if text is not None:
            value = int(text) if _integer.fullmatch(text) else _MAX_RANK + 1
            if abs(value) > _MAX_RANK:
                raise Refused("Invalid header", f"{name} must be a whole number of at most 32 bits")
            return value
    return 0


def to_message(headers: dict[str, str], body: bytes) -> Message:
    """What a SEND says. ``expires`` is a moment; ``expiration``, ``ttl`` and delays are durations (ms; 0 = none)."""
    kept = {name: value for name, value in headers.items() if name not in _NOT_KEPT}
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


def to_headers(delivery: Delivery) -> dict[str, str]:
    """The headers of a MESSAGE that are the same for all its receivers.

    A sender's own ``timestamp`` passes; otherwise it is the moment the broker accepted the message.
    """
    message = delivery.message
    headers = {
        "destination": str(delivery.source),
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


class Tails:
    """The shared part of MESSAGE frames, encoded once for all receivers of a topic's message that speak one dialect.

    What is only in one queue is encoded when it is delivered, and not kept.
    """

    #: Messages remembered, and the largest tail that is: at most 4 MiB in all.
    MAX_KEPT, MAX_SIZE = 64, 64 * 1024

    def __init__(self) -> None:
        # The message is kept beside its tail, so that its id() stays its own.
        self._kept: dict[tuple[int, str], tuple[Message, bytes]] = {}

    def of(self, delivery: Delivery, dialect: Dialect) -> bytes:
        """The tail of `delivery` in `dialect`."""
        message = delivery.message
        if delivery.source.kind is Kind.QUEUE or len(message.body) > self.MAX_SIZE // 2:
            return message_tail(to_headers(delivery), message.body, dialect)
        key = id(message), dialect.version
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        tail = message_tail(to_headers(delivery), message.body, dialect)
        if len(tail) <= self.MAX_SIZE:
            if len(self._kept) >= self.MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (message, tail)
        return tail
