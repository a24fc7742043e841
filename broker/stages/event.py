"""Events: the messages that stages get and make, as CloudEvents that never change.

Each knows where it comes from. What somebody put in is a *root*; what a stage makes of it names its parent and its
root, the replay (`run`) that it belongs to and the version of the code that made it. The id of a child is a hash of its
parent, the stage, its place among the children, and the run: an input that is tried again has children with the same
ids, so that whoever does something outside the broker can see that it is done.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import attrs
import msgspec

from broker.stages.verdict import Undecodable, Unencodable

JSON, TEXT, BYTES = "application/json", "text/plain; charset=utf-8", "application/octet-stream"
#: Further attributes that children have as their parents do.
INHERITED = ("traceparent", "tracestate")
#: Attributes that are fields of an event.
_FIELDS = frozenset(
    (
        *("specversion", "id", "type", "source", "subject", "time", "datacontenttype"),
        *("parentid", "rootid", "run", "stage", "codeversion"),
    )
)


@attrs.define(eq=False)
class Place:
    """Where an event is worked on: what its children have in common."""

    #: The flow and the stage: ``indexer/split``.
    stage: str
    #: The channel its outputs go to, unless they say otherwise; empty: they must.
    to: str = ""
    version: str = ""
    #: Children made so far.
    children: int = 0
    #: True once the lease of the event is lost.
    lost: bool = False


@attrs.frozen(slots=False, kw_only=True)
class Event:
    """One message. `raw` are the bytes of its body, `data` what they mean."""

    id: str
    type: str
    source: str
    time: datetime
    raw: bytes
    content_type: str = ""
    subject: str | None = None
    #: The channel it is in, or goes to; ``topic:NAME`` is a topic.
    channel: str = ""
    #: 1 when it is tried for the first time.
    attempt: int = 1
    parentid: str | None = None
    #: The id of what somebody put in and this was made of.
    rootid: str = ""
    #: The replay that it belongs to.
    run: str | None = None
    #: The stage that made it, and the version of its code.
    stage: str | None = None
    codeversion: str | None = None
    priority: int = 0
    group: str = ""
    #: Seconds until it may be delivered.
    delay: float = 0
    #: Further attributes of the CloudEvent, and headers of the message.
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    place: Place | None = attrs.field(default=None, eq=False, repr=False)

    @cached_property
    def data(self) -> Any:
        """The body as its content type says: JSON, text, or else bytes; `Undecodable`."""
        kind = self.content_type.partition(";")[0].strip().lower()
        try:
            if kind.endswith(("/json", "+json")):
                return json.loads(self.raw)
            if kind.startswith("text/"):
                return self.raw.decode()
        except (ValueError, RecursionError) as error:
            raise Undecodable(f"the body is not {kind}: {error}") from None
        return self.raw

    @property
    def lost(self) -> bool:
        """True once its lease is lost: what is made of it counts no more, and work on it may end."""
        return self.place is not None and self.place.lost

    def child(
        self,
        data: Any,
        *,
        type: str | None = None,
        subject: str | None = None,
        channel: str | None = None,
        delay: float = 0,
        priority: int | None = None,
        group: str | None = None,
        content_type: str | None = None,
    ) -> Event:
        """An output made of this: bytes and text as they are, everything else as JSON; `Unencodable`.

        `channel` is where it goes, ``topic:NAME`` to a topic; by default where the stage sends to. Priority and group
        are the parent's, unless said.
        """
        place = self.place
        if place is None:
            raise TypeError("only an event that a stage was given has children")
        target = channel or place.to
        if not target:
            raise TypeError(f"stage {place.stage} has nowhere to send to: say to= or child(..., channel=)")
        ordinal, place.children = place.children, place.children + 1
        raw, kind = encoded(data, content_type)
        if not raw:
            raise Unencodable(f"output {ordinal} is empty: a message has one byte at least")
        return Event(
            id=child_id(self.id, place.stage, ordinal, self.run),
            type=type or place.stage.rpartition("/")[2],
            source=f"/stages/{place.stage}",
            subject=self.subject if subject is None else subject,
            time=datetime.now(UTC),
            raw=raw,
            content_type=kind,
            channel=target,
            parentid=self.id,
            rootid=self.rootid,
            run=self.run,
            stage=place.stage.rpartition("/")[2],
            codeversion=place.version or None,
            priority=self.priority if priority is None else priority,
            group=self.group if group is None else group,
            delay=delay,
            attributes={name: value for name, value in self.attributes.items() if name in INHERITED},
        )

    def at(self, place: Place) -> Self:
        """The same, to be worked on there."""
        return attrs.evolve(self, place=place)


def root(channel: str, data: Any, *, flow: str, id: str = "", **said: Any) -> Event:
    """What somebody puts in: an event without a parent."""
    id = id or uuid.uuid4().hex
    raw, kind = encoded(data, said.pop("content_type", None))
    if not raw:
        raise Unencodable("the message is empty")
    known = {"type", "source", "subject", "time", "priority", "group", "delay", "run", "headers"}
    fields = {name: said.pop(name) for name in known & said.keys()}
    return Event(
        **{"type": "message", "source": f"/flows/{flow}", "time": datetime.now(UTC), **fields},
        id=id,
        rootid=id,
        raw=raw,
        content_type=kind,
        channel=channel,
        attributes={name: str(value) for name, value in said.items()},
    )


def child_id(parent: str, stage: str, ordinal: int, run: str | None) -> str:
    """The id of a child, the same whenever its parent is tried again."""
    said = "\0".join((parent, stage, str(ordinal), run or ""))
    return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def encoded(data: Any, content_type: str | None = None) -> tuple[bytes, str]:
    """The body and its content type; `Unencodable`."""
    try:
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data), content_type or BYTES
        if isinstance(data, str):
            return data.encode(), content_type or TEXT
        return msgspec.json.encode(data), content_type or JSON
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Unencodable(f"a {type(data).__name__} cannot be encoded: {error}") from None


def attributes_of(event: Event) -> dict[str, str]:
    """All attributes of an event, but for what its body is."""
    fields = {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "subject": event.subject,
        "parentid": event.parentid,
        "rootid": event.rootid,
        "run": event.run,
        "stage": event.stage,
        "codeversion": event.codeversion,
    }
    return {**event.attributes, **{name: value for name, value in fields.items() if value}}


def structured(event: Event) -> dict[str, Any]:
    """An event as the JSON object that it is to others."""
    return {"specversion": "1.0", **attributes_of(event), "datacontenttype": event.content_type, **_body(event)}


def _body(event: Event) -> dict[str, Any]:
    kind = event.content_type.partition(";")[0].strip().lower()
    try:
        if kind == JSON:
            json.loads(event.raw)  # what is not JSON goes as the bytes that it is
            return {"data": msgspec.Raw(event.raw)}
        if kind.startswith("text/"):
            return {"data": event.raw.decode()}
    except (ValueError, RecursionError):
        pass
    return {"data_base64": base64.b64encode(event.raw).decode()}


def event_of(
    attributes: Mapping[str, str], raw: bytes, content_type: str, *, headers: Mapping[str, str], **more: Any
) -> Event:
    """The event that attributes and a body make; what is missing is filled in."""
    id = attributes.get("id") or uuid.uuid4().hex
    return Event(
        id=id,
        type=attributes.get("type") or "message",
        source=attributes.get("source") or "/",
        time=_time(attributes.get("time")),
        subject=attributes.get("subject"),
        raw=raw,
        content_type=content_type,
        parentid=attributes.get("parentid"),
        rootid=attributes.get("rootid") or id,
        run=attributes.get("run"),
        stage=attributes.get("stage"),
        codeversion=attributes.get("codeversion"),
        attributes={name: value for name, value in attributes.items() if name not in _FIELDS},
        headers=headers,
        **more,
    )


def _time(said: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(said or "")
    except ValueError:
        return datetime.now(UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
