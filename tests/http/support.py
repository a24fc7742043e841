"""The HTTP front over a fake wire: the real broker, its memory store, a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.core.policy import Policies, Policy
from broker.http.server import Site, make_site
from broker.storage.memory import MemoryStore

START = 1_700_000_000


@attrs.frozen
class Response:
    """An answer, taken apart."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def id(self) -> int:
        """The id of the message delivered, or put in."""
        if self.status == 202:
            return int(self.json["id"])
        return int(self.headers["x-linger-msg-id"])


def parse(data: bytes, method: str) -> tuple[Response, bytes]:
    """The first answer in `data`, and the rest."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    version, status, reason = first.split(b" ", 2)
    assert version in (b"HTTP/1.1", b"HTTP/1.0"), first
    headers = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        assert name.lower() not in headers, f"{name!r} twice"
        headers[name.decode().lower()] = value.decode()
    assert "transfer-encoding" not in headers
    length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
    assert len(rest) >= length
    return Response(int(status), reason.decode(), headers, rest[:length]), rest[length:]


class Connection:
    """One client connection."""

    def __init__(self, site: Site) -> None:
        here, there = IPv4Address("TCP", "192.0.2.7", 8989), IPv4Address("TCP", "192.0.2.1", 54321)
        self.transport = StringTransport(here, there)
        protocol = site.buildProtocol(there)
        assert protocol is not None
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        self._methods: list[str] = []

    def send(self, data: bytes) -> None:
        """Bytes from the client; like a socket, the wire is deaf once we close."""
        if not self.closing:
            self.protocol.dataReceived(data)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Send one request."""
        fields = {"Host": "127.0.0.1:8989"} | dict(headers or {})
        if body is not None:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._methods.append(method)
        self.send("\r\n".join(lines).encode() + (body or b""))

    def answers(self) -> list[Response]:
        """The answers since the last look."""
        data = self.transport.value()
        self.transport.clear()
        found = []
        while data:
            response, data = parse(data, self._methods.pop(0) if self._methods else "GET")
            found.append(response)
        return found

    def answer(self) -> Response:
        """The one answer since the last look."""
        (response,) = self.answers()
        return response

    @property
    def closing(self) -> bool:
        """True once we mean to close."""
        return self.transport.disconnecting

    def leave(self) -> None:
        """The client is gone."""
        self.protocol.connectionLost(Failure(ConnectionLost()))


class World:
    """A broker with an HTTP front."""

    def __init__(
        self,
        *,
        store: MemoryStore | None = None,
        policy: Policy | Policies = Policy(),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.store = store or MemoryStore()
        self.broker = Broker(self.store, self.clock, policy=policy, wall=lambda: START + self.clock.seconds())
        done(self.broker.start())
        self.site = make_site(self.broker, **{"identity": "d0c5"} | options)

    def connect(self) -> Connection:
        """A new client connection."""
        return Connection(self.site)

    def waiting(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Connection:
        """Send a request on a new connection."""
        connection = self.connect()
        connection.ask(method, path, body, _names(headers))
        self.clock.advance(0)
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        """Send a request on a new connection; its answer, which must be there when this returns.

        Underscores in the names of `headers` are dashes.
        """
        connection = self.waiting(method, path, body, **headers)
        answer = connection.answer()
        connection.leave()
        return answer

    def get(self, channel: str) -> Response:
        """Take the next message, if there is one."""
        return self.ask("GET", f"/channels/{channel}?nowait")

    def post(self, channel: str, body: bytes = b"a message", query: str = "", **headers: str) -> Response:
        """Put a message in."""
        return self.ask("POST", f"/channels/{channel}{query}", body, **headers)

    def ready(self, channel: str) -> tuple[int, int]:
        """Messages that wait, and those hidden."""
        stats = self.ask("GET", f"/channels/{channel}/stats").json
        return stats["ready"], stats["hidden"]


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def done(coroutine: Any) -> Any:
    """The result of a coroutine, or a Deferred, that has one already."""
    results: list[Any] = []
    deferred = coroutine if isinstance(coroutine, Deferred) else Deferred.fromCoroutine(coroutine)
    _ = deferred.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
