"""What goes between a worker and the broker: the answer of ``/lease`` in parts, and the operations of ``/commit``."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import attrs

from broker.stages.event import Event, event_of, structured

_attribute = re.compile(r"[a-z0-9]{1,64}")
_boundary = re.compile(r'boundary="?([^";]+)"?')


@attrs.define(eq=False)
class Loan:
    """A message on loan to us."""

    id: int
    token: str
    event: Event
    #: The length of the lease, in seconds.
    lease: float = 30

    @property
    def said(self) -> dict[str, Any]:
        """What names it in an operation."""
        return {"id": self.id, "lease": self.token}


def loans_of(body: bytes, content_type: str, channel: str) -> list[Loan]:
    """The messages of an answer in ``multipart/mixed``; `ValueError`."""
    found = _boundary.search(content_type)
    if found is None:
        raise ValueError(f"an answer of type {content_type[:80]}")
    dashes = b"--" + found[1].encode()
    if not body.startswith(dashes):
        raise ValueError("an answer without parts")
    parts = body[len(dashes) :].split(b"\r\n" + dashes)
    return [_loan(part, channel) for part in parts[:-1]]


def _loan(part: bytes, channel: str) -> Loan:
    head, blank, raw = part.partition(b"\r\n\r\n")
    if not blank:
        raise ValueError("a part without a body")
    attributes: dict[str, str] = {}
    headers: dict[str, str] = {}
    linger: dict[str, str] = {}
    kind = ""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        lower, text = name.decode("latin-1").lower(), value.decode(errors="replace")
        if lower.startswith("ce-"):
            attributes[lower[3:]] = unquote(text, errors="replace") if "%" in text else text
        elif lower.startswith("x-linger-"):
            linger[lower[9:]] = text
        elif lower.startswith("x-message-"):
            headers[lower[10:]] = text
        elif lower == "content-type":
            kind = text
    event = event_of(
        attributes,
        raw,
        kind,
        headers=headers,
        channel=channel,
        attempt=int(linger["delivered"]),
        priority=int(linger["priority"]),
        group=unquote(linger.get("group", "")),
    )
    return Loan(int(linger["msg-id"]), linger["lease"], event, int(linger["timeout"]))


def publish(event: Event) -> dict[str, Any]:
    """The operation that puts an event into its channel."""
    odd = {name: value for name, value in event.attributes.items() if not _attribute.fullmatch(name)}
    if odd:  # a header may be called what an attribute may not
        others = {name: value for name, value in event.attributes.items() if name not in odd}
        headers = {**event.headers, **{f"ce-{name}": value for name, value in odd.items()}}
        event = attrs.evolve(event, attributes=others, headers=headers)
    topic = event.channel.removeprefix("topic:")
    kind = "channel" if topic == event.channel else "topic"
    said: dict[str, Any] = {kind: topic, "event": structured(event)}
    said |= {"priority": event.priority} if event.priority else {}
    said |= {"group": event.group} if event.group else {}
    said |= {"delay": event.delay} if event.delay else {}
    said |= {"headers": dict(event.headers)} if event.headers else {}
    return {"publish": said}
