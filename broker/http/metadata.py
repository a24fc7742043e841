"""What a message carries beside its body, on its way in and out of HTTP.

In: ``Content-Type``, ``ce-*`` (CloudEvents' binary mode) and ``X-Message-<name>``, kept as header ``<name>`` in lower
case, and the two of a trace (`TRACE`); nothing else of a request is kept. Out: the content type as itself, Linger's
``X-Linger-*``, ``ce-*`` and the two as themselves, every other header as ``X-Message-<name>`` if name and value are
legal in HTTP. memcache's flags have no name here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from broker.core.destination import Destination, Kind
from broker.core.message import Message
from broker.http.cloudevents import attribute_value, attributes, header_value

if TYPE_CHECKING:
    from broker.core.delivery import Delivery

Fields = list[tuple[bytes, bytes]]

#: What Linger gives a message that has no type of its own.
DEFAULT_TYPE = b"text/plain"
#: Sent instead of a type that HTTP cannot carry (a line end in it, by STOMP).
OPAQUE_TYPE = b"application/octet-stream"

#: Further headers a message is sent with at most, and their bytes: Python's http.client refuses an answer with more
#: than 100 lines, Tornado's client one over 64 KiB, and a message nobody can fetch would come back for ever.
MAX_HEADERS = 75
MAX_HEADER_BYTES = 32 * 1024

#: W3C Trace Context: whose trace a request, and so its message, belongs to.
TRACE = (b"traceparent", b"tracestate")

_PREFIX = b"x-message-"
_EVENT = b"ce-"

#: RFC 9110's *token*.
_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: RFC 9110's *field-value*: no control character but the tabulator, no blank at either end.
_value = re.compile(rb"(?![ \t])[^\x00-\x08\x0a-\x1f\x7f]*(?<![ \t])")
_plain_name = re.compile(r"[!-~]([ -~]*[!-~])?")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def decoded(value: bytes) -> str:
    """A header's value as text: UTF-8, or Latin-1 if it is not that."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def content_type(fields: Iterable[tuple[bytes, Sequence[bytes]]]) -> str | None:
    """The request's ``Content-Type`` as it came; None if there is none."""
    for name, values in fields:
        if name.lower() == b"content-type":
            return decoded(values[-1])
    return None


def message_headers(fields: Iterable[tuple[bytes, Sequence[bytes]]]) -> dict[str, str]:
    """The headers a message keeps of its request. Several of one name are joined by a comma (RFC 9110, 5.3)."""
    kept = {}
    for name, values in fields:
        lower = name.lower()
        if lower.startswith(_PREFIX):
            lower = lower[len(_PREFIX) :]
        elif not lower.startswith(_EVENT) and lower not in TRACE:
            continue
        if lower:
            value = ", ".join(map(decoded, values))
            kept[lower.decode("latin-1")] = attribute_value(value) if lower.startswith(_EVENT) else value
    return kept


def header_name(name: str) -> bytes:
    """A channel's or topic's name in a header: as it is if that is printable ASCII, else percent-encoded UTF-8."""
    if _plain_name.fullmatch(name):
        return name.encode()
    return quote(name, safe=_PRINTABLE).encode()


def delivery_fields(delivery: Delivery, now: int) -> Fields:
    """The header fields of an answer that carries `delivery`; `now` is the wall clock in us."""
    message = delivery.message
    topic = delivery.source.name if delivery.source.kind is Kind.TOPIC else ""
    return [
        (b"Content-Type", _legal_type(message.content_type)),
        (b"X-Linger-Channel", header_name(delivery.queue)),
        (b"X-Linger-Msg-Id", b"%d" % delivery.id),
        (b"X-Linger-Priority", b"%d" % delivery.priority),
        (b"X-Linger-Timeout", _seconds(delivery.lease)),
        (b"X-Linger-Deliver", b"%d" % delivery.max_attempts),
        (b"X-Linger-Delivered", b"%d" % (delivery.attempts + 1)),
        (b"X-Linger-Received", b"%d" % max((now - message.stamp) // 1_000_000, 0)),
        (b"X-Linger-Linger", _seconds(delivery.ttl)),
        (b"X-Linger-Topic", header_name(topic) if topic else b""),
        *([(b"X-Linger-Group", header_name(message.group))] if message.group else []),
        *further_fields(message.headers),
    ]


def event_fields(message: Message, message_id: str, source: Destination) -> Fields:
    """The attributes of an event that its producer did not name, so that every answer is one in binary mode."""
    named = {name.lower() for name in message.headers}
    return [
        (b"ce-" + name.encode(), header_value(value).encode())
        for name, value in attributes(message, message_id, source).items()
        if f"ce-{name}" not in named
    ]


def _legal_type(value: str | None) -> bytes:
    if value is None:
        return DEFAULT_TYPE
    encoded = value.encode()
    return encoded if _value.fullmatch(encoded) else OPAQUE_TYPE


def _seconds(milliseconds: int) -> bytes:
    """Whole seconds as Linger's clients read them, rounded down; but no limit of less than a second becomes none."""
    return b"%d" % (max(milliseconds // 1000, 1) if milliseconds else 0)


def legal(value: str) -> bytes:
    """A value as HTTP can carry it, else `OPAQUE_TYPE`."""
    return _legal_type(value)


def further_fields(headers: dict[str, str]) -> Fields:
    """The headers of a message as fields, as far as HTTP can carry them."""
    fields: Fields = []
    seen: set[bytes] = set()
    room = MAX_HEADER_BYTES
    for header, text in headers.items():
        name, value = header.encode(), text.encode()
        if name.lower().startswith(_EVENT):
            value = header_value(text).encode()
        elif name not in TRACE:
            name = b"X-Message-" + name
        # names that differ in case only are one name in HTTP: the first has it
        if not header or name.lower() in seen or not _token.fullmatch(name) or not _value.fullmatch(value):
            continue
        if len(fields) == MAX_HEADERS:
            break
        if len(name) + len(value) > room:
            continue
        room -= len(name) + len(value)
        seen.add(name.lower())
        fields.append((name, value))
    return fields
