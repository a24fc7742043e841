"""Messages as CloudEvents 1.0, in and out: binary, structured and batched.

Every message is an event, whichever front it came from: what its producer did not say is filled in when it is shown,
``id`` with the message's own id, ``source`` with the destination it was published to, ``type`` with ``message``,
``time`` with its stamp. What the producer said is kept as headers ``ce-<attribute>``, however it was sent.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from broker.core.destination import Destination
from broker.core.message import Message
from broker.errors import BadValue

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
VERSION = "1.0"

#: Bytes of a JSON body that is shown as JSON; a larger one is shown as ``data_base64``, which costs no parsing.
MAX_JSON = 64 * 1024

_PREFIX = "ce-"
#: Attributes an event must have, and those that are no extension.
_REQUIRED = ("id", "source", "type")
_name = re.compile(r"[a-z0-9]{1,64}")
_json_type = re.compile(r"[^;]*[/+]json\s*(;.*)?", re.IGNORECASE)
#: What needs no escape, which is nearly everything.
_plain = re.compile(r"[!#$&-~]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What may stand in a header as it is (CloudEvents' HTTP binding, 3.1.3.2).
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


def header_value(value: str) -> str:
    """An attribute as the value of a header."""
    return value if _plain.fullmatch(value) else quote(value, safe=_SAFE)


def attribute_value(header: str) -> str:
    """The attribute in the value of a header; what is no escape stays."""
    return unquote(header, errors="replace") if "%" in header else header


def attributes(message: Message, message_id: str, source: Destination) -> dict[str, str]:
    """All attributes of a message, those that are required first."""
    if not message.headers:  # the same as below: 2 us less
        stamp = timestamp(message.stamp)
        return {"specversion": VERSION, "id": message_id, "source": str(source), "type": "message", "time": stamp}
    said = {
        name[len(_PREFIX) :].lower(): value
        for name, value in message.headers.items()
        if name[: len(_PREFIX)].lower() == _PREFIX
    }
    found = {
        "specversion": VERSION,
        "id": said.get("id") or message_id,
        "source": said.get("source") or str(source),
        "type": said.get("type") or "message",
        "time": said.get("time") or timestamp(message.stamp),
    }
    extensions = {name: value for name, value in said.items() if name not in found and _name.fullmatch(name)}
    extensions.pop("datacontenttype", None)
    return found | extensions


def timestamp(stamp: int) -> str:
    """A stamp as RFC 3339."""
    seconds, rest = divmod(stamp, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z" if rest else f"{_second(seconds)}Z"


@lru_cache(1000)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def structured(message: Message, message_id: str, source: Destination) -> dict[str, Any]:
    """A message as the JSON object of an event."""
    event: dict[str, Any] = {**attributes(message, message_id, source)}
    if message.content_type:
        event["datacontenttype"] = message.content_type
    event.update(data(message))
    return event


def data(message: Message) -> dict[str, Any]:
    """The body: as JSON if it says that it is, as text if it may be, else in base64."""
    body, kind = message.body, message.content_type or "text/plain"
    if not body:
        return {}
    if _json_type.fullmatch(kind):
        try:
            if len(body) <= MAX_JSON:
                return {"data": msgspec.json.decode(body)}
        except (ValueError, RecursionError):
            pass
    elif kind.lower().startswith("text/"):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(body).decode()}


def message_of(event: object) -> Message:
    """The message that a structured event is; `BadValue`."""
    if not isinstance(event, dict):
        raise BadValue("a CloudEvent is a JSON object")
    version = event.get("specversion", VERSION)
    if version != VERSION:
        raise BadValue(f"specversion: {version!r} is not {VERSION}")
    headers = {}
    for name, value in event.items():
        if name in ("data", "data_base64", "datacontenttype", "specversion") or value is None:
            continue
        if not isinstance(name, str) or not _name.fullmatch(name):
            raise BadValue(f"{str(name)[:80]!r} is no attribute's name: 1 to 64 letters a-z and digits")
        headers[_PREFIX + name] = _text(name, value)
    headers[_PREFIX + "specversion"] = VERSION
    for name in _REQUIRED:
        if not headers.get(_PREFIX + name):
            raise BadValue(f"{name} is missing: an event has id, source and type")
    kind = event.get("datacontenttype")
    if kind is not None and not isinstance(kind, str):
        raise BadValue("datacontenttype: not a string")
    body, kind = _body(event, kind)
    return Message(body=body, headers=headers, content_type=kind)


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise BadValue(f"{name}: an attribute is a string, an integer or a boolean")


def _body(event: Mapping[str, Any], kind: str | None) -> tuple[bytes, str | None]:
    if "data_base64" in event:
        said = event["data_base64"]
        if "data" in event or not isinstance(said, str):
            raise BadValue("data_base64: a string, and not beside data")
        try:
            return base64.b64decode(said, validate=True), kind
        except (binascii.Error, ValueError):
            raise BadValue("data_base64: not base64") from None
    if "data" not in event:
        return b"", kind
    said = event["data"]
    if kind is not None and not _json_type.fullmatch(kind) and isinstance(said, str):
        return said.encode(), kind
    return msgspec.json.encode(said), kind or "application/json"
