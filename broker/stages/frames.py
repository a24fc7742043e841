"""How a long-lived program and we tell each other things: lines of JSON, or JSON behind ``Content-Length``.

Pure: bytes in, values out. What is not such a frame is a `BadFrame`, with words that tell its author what to mend.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from broker.stages.event import Event, structured

#: Bytes of one frame, and of a frame's head.
MAX_FRAME, MAX_HEAD = 8 * 1024 * 1024, 1_024


class BadFrame(Exception):
    """What the program said is none of the things it may say."""


class Ack(NamedTuple):
    """The input is done; what was said since the last verdict are its outputs."""

    id: str


class Nack(NamedTuple):
    """It failed."""

    id: str
    after: float | None
    reason: str
    dead: bool


class Output(NamedTuple):
    """An output: data, and what `Event.child` takes beside them. `parent`: whose it is; empty: the next verdict's."""

    parent: str
    data: Any
    said: dict[str, Any]


Said = Ack | Nack | Output


class Reader(Protocol):
    """Finds frames in what comes."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole now; `BadFrame`."""

    @property
    def rest(self) -> bytes:
        """What is not whole yet."""


class Lines:
    """A frame is a line."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are whole now; empty ones are nothing."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = self.rest + lines[0]
            self.rest = b""
        self.rest += rest
        yield from (line for line in lines if line.strip())
        if len(self.rest) > MAX_FRAME:
            raise BadFrame(f"a line of more than {MAX_FRAME} bytes")


class Blocks:
    """A frame is ``Content-Length: N``, an empty line, and N bytes."""

    def __init__(self) -> None:
        self.rest = b""
        self._pieces: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole now."""
        while data or (self.rest and not self._missing):
            if self._missing:
                self._pieces.append(data[: self._missing])
                data = data[self._missing :]
                self._missing -= len(self._pieces[-1])
                if not self._missing:
                    frame, self._pieces, self.rest = b"".join(self._pieces), [], b""
                    yield frame
                continue
            head, blank, behind = (self.rest + data).partition(b"\r\n\r\n")
            if not blank:
                self.rest = head
                if len(head) > MAX_HEAD:
                    raise BadFrame("no Content-Length, and an empty line behind it")
                return
            self._missing, self.rest, data = _length(head), head, behind


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit() and len(value) < 12:
            if 0 < int(value) <= MAX_FRAME:
                return int(value)
            raise BadFrame(f"a frame of {int(value)} bytes: 1 to {MAX_FRAME}")
    raise BadFrame(f"no Content-Length in {head[:80]!r}")


def line(said: bytes) -> bytes:
    """A frame as a line."""
    return said + b"\n"


def block(said: bytes) -> bytes:
    """A frame behind its length."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(said), said)


#: By the name of the frame: how it is read and written.
FRAMES: dict[str, tuple[Callable[[], Reader], Callable[[bytes], bytes]]] = {
    "ndjson": (Lines, line),
    "lsp": (Blocks, block),
}


def event_as_json(event: Event) -> bytes:
    """An input, as a program gets it: a structured CloudEvent without a line end in it."""
    said = structured(event) | {"attempt": event.attempt, "channel": event.channel}
    return msgspec.json.format(msgspec.json.encode(said), indent=-1)


def read(frame: bytes) -> Said:
    """What a program says; `BadFrame`."""
    try:
        said = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"{frame[:80]!r} is not JSON: {error}") from None
    if not isinstance(said, dict):
        return Output("", said, {})
    if "ack" in said and "specversion" not in said:
        return Ack(str(said["ack"]))
    if "nack" in said and "specversion" not in said:
        after = said.get("after")
        if after is not None and (
            not isinstance(after, int | float) or isinstance(after, bool) or not 0 <= after < 1e9
        ):
            raise BadFrame(f"after: {after!r} is no number of seconds")
        return Nack(str(said["nack"]), after, str(said.get("reason", "")), said.get("dead") is True)
    if "specversion" not in said:
        return Output("", said, {})
    return output_of(said)


def output_of(said: dict[str, Any]) -> Output:
    """The output that a structured event is; `BadFrame`."""
    data = said.get("data")
    if "data_base64" in said:
        try:
            data = msgspec.convert(said["data_base64"], bytes)
        except msgspec.ValidationError as error:
            raise BadFrame(f"data_base64: {error}") from None
    names = {"type": str, "subject": str, "channel": str, "group": str, "delay": int | float, "priority": int}
    more: dict[str, Any] = {}
    for name, kind in names.items():
        value = said.get(name)
        if value is not None:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise BadFrame(f"{name}: {value!r}")
            more[name] = value
    if said.get("datacontenttype"):
        more["content_type"] = str(said["datacontenttype"])
        if isinstance(data, str) and "json" in more["content_type"] and "data_base64" not in said:
            data = msgspec.json.encode(data)
    return Output(str(said.get("parentid") or ""), data, more)
