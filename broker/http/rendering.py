"""Messages in answers: alone as raw bytes or as an event, several as a list; by what ``Accept`` asks for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from broker.core.browsing import Seen
from broker.core.delivery import Delivery
from broker.http import cloudevents, metadata
from broker.http.call import Answer, Call

MIXED = "multipart/mixed"
NDJSON = "application/x-ndjson"
JSON = "application/json"

encode = msgspec.json.Encoder().encode


def accepts(call: Call, *media: str) -> str:
    """The first of `media` that ``Accept`` names, in the client's order; empty if it names none of them."""
    for choice in call.said.accept.split(","):
        named, *parameters = (part.strip().lower() for part in choice.split(";"))
        if named in media and not any(part.replace(" ", "").rstrip("0.") == "q=" for part in parameters):
            return named
    return ""


def delivered(call: Call, delivery: Delivery, now: int) -> Answer:
    """A message that was delivered, or is shown as it would be."""
    message = delivery.message
    if accepts(call, cloudevents.STRUCTURED):
        linger = [field for field in _fields(delivery, now) if field[0].startswith(b"X-Linger-")]
        body = encode(cloudevents.structured(message, delivery.message_id, delivery.source))
        return Answer(200, body, [(b"Content-Type", cloudevents.STRUCTURED.encode()), *linger])
    return _raw(delivery, now)


class Form(NamedTuple):
    """How messages that were delivered together are written: each by itself, and those together."""

    one: Callable[[Delivery, int], bytes]
    together: Callable[[list[bytes]], Answer]


def form_of(call: Call) -> Form:
    """A JSON object, a line for each, or a part with headers and body of its own for each."""
    media = accepts(call, MIXED, JSON, NDJSON)
    if media == NDJSON:
        return Form(lambda *one: encode(envelope(*one)) + b"\n", lambda all: _typed(NDJSON, all))
    if media != MIXED:
        whole = "application/json; charset=UTF-8"
        return Form(
            lambda *one: encode(envelope(*one)), lambda all: _typed(whole, [b'{"messages":[', b",".join(all), b"]}"])
        )
    boundary = uuid.uuid4().hex  # no producer can have known it
    dashes = b"--" + boundary.encode()

    def part(delivery: Delivery, now: int) -> bytes:
        one = _raw(delivery, now)
        return b"".join([dashes, b"\r\n", *(b"%b: %b\r\n" % field for field in one.fields), b"\r\n", one.body, b"\r\n"])

    return Form(part, lambda all: _typed(f"{MIXED}; boundary={boundary}", [*all, dashes, b"--\r\n"]))


def _typed(media: str, pieces: list[bytes]) -> Answer:
    return Answer(200, b"".join(pieces), [(b"Content-Type", media.encode())])


def _raw(delivery: Delivery, now: int) -> Answer:
    """The body as it is, everything else in headers."""
    event = metadata.event_fields(delivery.message, delivery.message_id, delivery.source)
    return Answer(200, delivery.message.body, _fields(delivery, now) + event)


def _fields(delivery: Delivery, now: int) -> metadata.Fields:
    fields = metadata.delivery_fields(delivery, now)
    if delivery.token:
        fields.append((b"X-Linger-Lease", delivery.token.encode()))
    return fields


def envelope(delivery: Delivery, now: int) -> dict[str, Any]:
    """A delivery among others: what ``X-Linger-*`` says, and the event."""
    found: dict[str, Any] = {"id": delivery.id, "channel": delivery.queue}
    if delivery.token:
        found["lease"] = delivery.token
        found["lease_ends"] = cloudevents.timestamp(delivery.due)
    found["priority"] = delivery.priority
    found["timeout"] = delivery.lease // 1000
    found["deliver"] = delivery.max_attempts
    found["delivered"] = delivery.attempts + 1
    found["received"] = max((now - delivery.message.stamp) // 1_000_000, 0)
    found["event"] = cloudevents.structured(delivery.message, delivery.message_id, delivery.source)
    return found


def looked_at(seen: Seen, *, body: bool) -> dict[str, Any]:
    """A message that was browsed; without `body` only how long that is."""
    message = seen.message
    found: dict[str, Any] = {"position": message.stamp}
    if seen.id:
        found |= {
            "id": seen.id,
            "state": "hidden" if seen.state.value == "on_loan" else seen.state.value,
            "attempts": seen.attempts,
        }
        found |= {"reason": seen.reason} if seen.reason else {}
        found |= {"failed_at": cloudevents.timestamp(seen.failed_at)} if seen.failed_at else {}
        found |= {"due": cloudevents.timestamp(seen.due)} if seen.due else {}
    found |= {"priority": seen.priority, "size": len(message.body)}
    found |= {"group": message.group} if message.group else {}
    found |= {"expires": cloudevents.timestamp(message.expires)} if message.expires else {}
    others = {name: value for name, value in message.headers.items() if name[:3].lower() != "ce-"}
    found |= {"headers": others} if others else {}
    event = cloudevents.structured(message, seen.message_id, seen.source)
    if not body:
        event.pop("data", None)
        event.pop("data_base64", None)
    return found | {"event": event}


def listed(call: Call, name: str, found: Iterable[dict[str, Any]], **more: Any) -> Answer:
    """Several things as one JSON object, or a line each if ``Accept`` names NDJSON."""
    if accepts(call, NDJSON):
        lines = b"".join(encode(one) + b"\n" for one in found)
        fields = [(b"Content-Type", NDJSON.encode())]
        fields += [(b"X-Linger-After", str(more["after"]).encode())] if more.get("after") is not None else []
        return Answer(200, lines, fields)
    said = {key: value for key, value in more.items() if value is not None}
    return Answer(200, encode({name: list(found)} | said), [(b"Content-Type", b"application/json; charset=UTF-8")])
