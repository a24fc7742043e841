"""Clients as plain as can be, on blocking sockets: nothing is sent twice, nothing is read ahead of an answer."""

from __future__ import annotations

import json
import socket
import ssl
from typing import NamedTuple, Self
from urllib.parse import quote

#: Seconds until whoever waits for an answer gives up.
PATIENCE = 60.0


class Ports(NamedTuple):
    """Where a broker's fronts are, on 127.0.0.1."""

    memcache: int
    stomp: int
    http: int


class Gone(Exception):
    """The broker closed the connection, or the kernel did for it."""


class Unwelcome(Gone):
    """Nobody listens there."""


class Refused(Exception):
    """The broker answered with an error."""


class Wire:
    """A connection to a port of 127.0.0.1, through TLS if need be; a context manager."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            raise Unwelcome from None
        except ConnectionError:
            raise Gone from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
            except (ConnectionError, ssl.SSLEOFError):
                self._socket.close()
                raise Gone from None
        self._held = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it; raises `Gone`."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise Gone from None

    def until(self, mark: bytes) -> bytes:
        """What comes before `mark`, which is taken too."""
        while (found := self._held.find(mark)) < 0:
            self._more()
        return self._take(found, len(mark))

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._held) < size:
            self._more()
        return self._take(size, 0)

    def _take(self, size: int, further: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[: size + further]
        return taken

    def _more(self) -> None:
        try:
            data = self._socket.recv(65536)
        except (ConnectionError, ssl.SSLEOFError):
            raise Gone from None
        if not data:
            raise Gone
        self._held += data


class Memcache(Wire):
    """memcache, with the options of Kestrel's keys."""

    def sets(self, queue_bodies: list[tuple[str, bytes]]) -> None:
        """Send several sets in one write; then read `stored` for each."""
        self.send(b"".join(b"set %b 0 0 %d\r\n%b\r\n" % (q.encode(), len(body), body) for q, body in queue_bodies))

    def stored(self, *, may_be_full: bool = False) -> bool:
        """Read the answer to a set; False if the queue is full, and that `may_be`."""
        line = self.until(b"\r\n")
        if may_be_full and line == b"NOT_STORED":
            return False
        if line != b"STORED":
            raise Refused(line)
        return True

    def get(self, key: str) -> bytes | None:
        """The body, None if there is none."""
        self.send(f"get {key}\r\n".encode())
        line, body = self.until(b"\r\n"), None
        if line.startswith(b"VALUE "):
            body = self.exactly(int(line.split(b" ")[3]) + 2)[:-2]
            line = self.until(b"\r\n")
        if line != b"END":
            raise Refused(line)
        return body


class Frame(NamedTuple):
    """A frame from the broker."""

    command: str
    headers: dict[str, str]
    body: bytes


def frame(command: str, body: bytes = b"", **headers: str | int) -> bytes:
    """A frame to the broker; an underscore in a header's name stands for a hyphen."""
    lines = [f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items()]
    return f"{command}\n{''.join(lines)}content-length:{len(body)}\n\n".encode() + body + b"\0"


class Stomp(Wire):
    """STOMP 1.2."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(port, tls)
        self.send(b"CONNECT\naccept-version:1.2\nhost:localhost\n\n\0")
        self.next("CONNECTED")

    def next(self, *commands: str) -> Frame:
        """The next frame, which must be one of these."""
        command, *lines = self.until(b"\n\n").decode().lstrip("\n").split("\n")
        headers = dict(line.split(":", 1) for line in lines)
        size = headers.get("content-length")
        body = self.until(b"\0") if size is None else self.exactly(int(size) + 1)[:-1]
        if command not in commands:
            raise Refused(command, headers, body)
        return Frame(command, headers, body)

    def subscribe(self, name: str, ack: str, prefetch: int) -> None:
        """Subscribe to a queue, or to ``/topic/...``; the subscription is called like it."""
        destination = name if name.startswith("/topic/") else f"/queue/{name}"
        self.send(frame("SUBSCRIBE", destination=destination, id=name, ack=ack, prefetch_count=prefetch))


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http(Wire):
    """HTTP over one connection that is kept."""

    def ask(self, method: str, path: str, *expected: int, body: bytes = b"") -> Answer:
        """Send a request and read its answer, which must have one of the `expected` statuses."""
        self.send(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        first, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = self.exactly(int(headers.get("content-length", "0")))
        status = int(first.split(" ")[1])
        if status not in expected:
            raise Refused(status, content)
        return Answer(status, headers, content)

    def waiting(self, queue: str) -> int:
        """How many messages a queue holds, on loan or not."""
        stats = json.loads(self.ask("GET", f"/channels/{quote(queue)}/stats", 200).body)
        return int(stats["ready"] + stats["hidden"])

    def delayed(self) -> int:
        """How many messages wait for their time."""
        return int(json.loads(self.ask("GET", "/stats", 200).body)["broker"]["delayed"])
