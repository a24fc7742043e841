"""Frames, as they are understood and as they are written."""

from __future__ import annotations

import msgspec

from broker.stomp.dialect import HANDSHAKE, Dialect
from broker.stomp.heads import Head


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame, decoded. Its headers may be shared between frames: never change them."""

    command: str
    headers: dict[str, str] = {}
    body: bytes = b""


class Repeated:
    """A SEND whose header block was here before."""

    __slots__ = ("body", "head", "receipt")

    def __init__(self, head: Head, receipt: bytes | None, body: bytes) -> None:
        self.head = head
        #: The receipt as it came; it means the same in every version. None: none is asked for.
        self.receipt = receipt
        self.body = body

    @property
    def frame(self) -> Frame:
        """The same as any other frame."""
        headers = self.head.headers
        if self.receipt is not None:
            headers = {**headers, "receipt": self.receipt.decode()}
        return Frame("SEND", headers, self.body)


class Acks:
    """ACKs of one subscription that came together and say nothing but the ids that MESSAGEs gave them."""

    __slots__ = ("id", "numbers")

    def __init__(self, id: str, numbers: list[int]) -> None:
        self.id = id
        self.numbers = numbers

    @property
    def frames(self) -> list[Frame]:
        """The same as any other frames."""
        return [Frame("ACK", {"id": f"{self.id}.{number}"}) for number in self.numbers]


def encode_headers(headers: dict[str, str], dialect: Dialect) -> bytes:
    """Header lines, each with its LF. What the dialect cannot write becomes a space, what is not Unicode a ``?``."""
    name_table, value_table = dialect.escape_name, dialect.escape_value
    lines = []
    for name, value in headers.items():
        if not (name.isalnum() and value.isalnum()):
            name, value = name.translate(name_table), value.translate(value_table)
            if value.endswith("\r"):  # 1.1 has no escape for it; it would be read as part of the line's end
                value = value[:-1] + " "
        lines.append(f"{name}:{value}\n")
    return "".join(lines).encode(errors="replace")


def encode(frame: Frame, dialect: Dialect) -> bytes:
    """One frame. With a body it gets the content-length that is true."""
    if frame.command in ("CONNECT", "STOMP", "CONNECTED"):
        dialect = HANDSHAKE
    headers = frame.headers
    if frame.body:
        headers = {**headers, "content-length": str(len(frame.body))}
    return b"%b\n%b\n%b\0" % (frame.command.encode(), encode_headers(headers, dialect), frame.body)


def message_head(headers: dict[str, str], dialect: Dialect) -> bytes:
    """The part of a MESSAGE that differs between its receivers: the command and these headers."""
    return b"MESSAGE\n" + encode_headers(headers, dialect)


def message_tail(headers: dict[str, str], body: bytes, dialect: Dialect) -> bytes:
    """The part of a MESSAGE that all receivers of one dialect share; it follows a `message_head`.

    The content-length is always there, 0 included. A name that is in the head already must not be in `headers`.
    """
    return b"%bcontent-length:%d\n\n%b\0" % (encode_headers(headers, dialect), len(body), body)
