"""What ``broker bench`` says to each front, and what it makes of the answers; no sockets.

A `Speaker` is one connection's. What it has to say gathers in `out`: what `put` and `take` ask for, and what the
protocol wants besides (logging in, subscribing, an ACK, a DELETE). `feed` says what has become of it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import Protocol

from broker.cli.client import path_of


class Refusal(Exception):
    """The broker said no, or something that is none of its words."""


class Event(Enum):
    """What an answer meant."""

    #: From now on it may put and take.
    READY = auto()
    #: A message is stored.
    PUT = auto()
    #: A message came by itself; its `TAKEN` follows.
    CAME = auto()
    #: A message is settled.
    TAKEN = auto()
    #: There was none to take.
    EMPTY = auto()


class Speaker(Protocol):
    """One connection's side of the conversation."""

    #: What has to be sent; whoever sends it empties it.
    out: bytearray
    #: Messages are pushed: `take` asks for nothing.
    pushed: bool

    def put(self) -> None:
        """Publish a message."""

    def take(self) -> None:
        """Take a message and settle it."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """What these bytes, after those before, have said; raises `Refusal`."""


class _InTurn(ABC):
    """A protocol that answers in the order in which it was asked; `put`, `take` and `taken` say what is asked how."""

    pushed = False

    def __init__(self, put: bytes, take: bytes, taken: Event) -> None:
        self.out = bytearray()
        self._put, self._take, self._taken = put, take, taken
        #: What the answers that are owed will mean, if they are good ones.
        self._asked: deque[Event] = deque()
        self._early = [Event.READY]
        self._buffer = bytearray()

    def put(self) -> None:
        self._asked.append(Event.PUT)
        self.out += self._put

    def take(self) -> None:
        self._asked.append(self._taken)
        self.out += self._take

    def feed(self, data: bytes) -> Iterator[Event]:
        self._buffer += data
        while self._early:
            yield self._early.pop()
        yield from self._heard(self._buffer)

    @abstractmethod
    def _heard(self, buffer: bytearray) -> Iterator[Event]:
        """Take the whole answers out of what has come."""


class Memcache(_InTurn):
    """``set`` and ``get``."""

    def __init__(self, queue: str, body: bytes, login: tuple[str, str] | None) -> None:
        if re.search(r"[\s/%+]", queue):
            raise Refusal(f"{queue!r} cannot be a key of memcache as it is; use letters, digits, . and -")
        put = b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(body), body)
        super().__init__(put, b"get %b\r\n" % queue.encode(), Event.TAKEN)
        if login is not None:
            token = " ".join(login).encode()
            self.out += b"set login 0 0 %d\r\n%b\r\n" % (len(token), token)
            self._asked.append(self._early.pop())

    def _heard(self, buffer: bytearray) -> Iterator[Event]:
        while (end := buffer.find(b"\r\n")) >= 0:
            line = bytes(buffer[:end])
            if line == b"STORED":
                done = self._asked.popleft()
            elif line == b"END":
                self._asked.popleft()
                done = Event.EMPTY
            elif line.startswith(b"VALUE "):
                end += 2 + int(line.split()[3]) + len(b"\r\nEND")
                if len(buffer) < end + 2:
                    return
                done = self._asked.popleft()
            else:
                raise Refusal(line.decode(errors="replace"))
            del buffer[: end + 2]
            yield done


class Stomp:
    """``SEND`` with a receipt; a subscription whose every ``ACK`` has one."""

    pushed = True

    def __init__(self, queue: str, body: bytes, login: tuple[str, str] | None, prefetch: int) -> None:
        """`prefetch` 0: it does not subscribe."""
        destination = _escaped(queue if queue.startswith("/") else f"/queue/{queue}")
        self.out = bytearray(b"CONNECT\naccept-version:1.2\nhost:localhost\n")
        if login is not None:
            self.out += "login:{}\npasscode:{}\n".format(*login).encode()  # no escapes in this frame
        self.out += b"\n\0"
        self._subscribe = b""
        if prefetch:
            self._subscribe = (
                f"SUBSCRIBE\nid:0\ndestination:{destination}\nack:client-individual\n"
                f"prefetch-count:{prefetch}\nreceipt:s\n\n\0"
            ).encode()
        head = f"SEND\ndestination:{destination}\ncontent-length:{len(body)}\nreceipt:p\n\n"
        self._send = head.encode() + body + b"\0"
        self._buffer = bytearray()

    def put(self) -> None:
        self.out += self._send

    def take(self) -> None:
        """Messages come by themselves."""

    def feed(self, data: bytes) -> Iterator[Event]:
        buffer = self._buffer
        buffer += data
        while True:
            begin = 0
            while buffer[begin : begin + 1] == b"\n":  # heart-beats, and the line after a frame
                begin += 1
            del buffer[:begin]
            if (blank := buffer.find(b"\n\n")) < 0:
                return
            command, *lines = bytes(buffer[:blank]).split(b"\n")
            headers = dict(line.partition(b":")[::2] for line in reversed(lines))  # of two alike the first counts
            end = blank + 2 + int(headers[b"content-length"]) if b"content-length" in headers else -1
            if end < 0:
                end = buffer.find(b"\0", blank)
            if end < 0 or len(buffer) <= end:
                return
            body = bytes(buffer[blank + 2 : end])
            del buffer[: end + 1]
            yield from self._heard(command, headers, body)

    def _heard(self, command: bytes, headers: dict[bytes, bytes], body: bytes) -> Iterator[Event]:
        receipt = headers.get(b"receipt-id")
        if command == b"MESSAGE":
            self.out += b"ACK\nid:%b\nreceipt:a\n\n\0" % headers[b"ack"]
            yield Event.CAME
        elif receipt == b"p":
            yield Event.PUT
        elif receipt == b"a":
            yield Event.TAKEN
        elif command == b"CONNECTED" and self._subscribe:
            self.out += self._subscribe
        elif command == b"CONNECTED" or receipt == b"s":
            yield Event.READY
        else:
            said = headers.get(b"message", b"").decode(errors="replace")
            raise Refusal(f"{said}: {body.decode(errors='replace').strip()}")


class Http(_InTurn):
    """``POST``; ``GET`` and ``DELETE``."""

    def __init__(self, queue: str, body: bytes, token: str, host: str) -> None:
        common = f"Host: {host}\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
        path = path_of(queue)
        put = (
            f"POST {path} HTTP/1.1\r\n{common}Content-Type: application/octet-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        super().__init__(put, f"GET {path}?nowait HTTP/1.1\r\n{common}\r\n".encode(), Event.CAME)
        self._delete = f"DELETE /messages/%b HTTP/1.1\r\n{common}\r\n".encode()

    def _heard(self, buffer: bytearray) -> Iterator[Event]:
        while (blank := buffer.find(b"\r\n\r\n")) >= 0:
            status, *lines = bytes(buffer[:blank]).split(b"\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            end = blank + 4 + int(headers.get(b"content-length", b"0"))
            if len(buffer) < end:
                return
            body = bytes(buffer[blank + 4 : end])
            del buffer[:end]
            asked = self._asked.popleft()
            code = status.split()[1]
            if not code.startswith(b"2"):
                raise Refusal(f"{status.decode(errors='replace')}: {body.decode(errors='replace').strip()}")
            if asked is Event.CAME and code == b"204":
                yield Event.EMPTY
            elif asked is Event.CAME:
                self.out += self._delete % headers[b"x-linger-msg-id"]
                self._asked.append(Event.TAKEN)
            else:
                yield asked


def _escaped(value: str) -> str:
    for plain, escape in (("\\", "\\\\"), ("\r", "\\r"), ("\n", "\\n"), (":", "\\c")):
        value = value.replace(plain, escape)
    return value
