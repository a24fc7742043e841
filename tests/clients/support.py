"""The three clients others wrote, behind one face, and connections on which anything can be sent."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import attrs
import stomp
from pymemcache.client.base import Client
from stomp.utils import Frame
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

#: Seconds a client waits before its test fails.
PATIENCE = 60.0


# -- clients others wrote; they block


@attrs.frozen
class Taken:
    """A message as a client shows it: its body, and what it says beside it."""

    body: bytes
    said: Mapping[str, str]


class Speaker(Protocol):
    """A client of one of the protocols."""

    def put(self, name: str, body: bytes, said: Mapping[str, str] = {}) -> None:
        """Put a message into a queue; returns once it is confirmed. `said` is in the protocol's own words."""

    def publish(self, topic: str, body: bytes) -> None:
        """The same with a topic."""

    def take(self, name: str) -> Taken:
        """Take the next message out and settle it; returns once that is confirmed, where the protocol can say so."""

    def close(self) -> None:
        """Leave."""


class _WithFlags:
    """How pymemcache is told of flags."""

    def serialize(self, key: bytes, value: bytes) -> tuple[bytes, int]:
        return value, 0

    def deserialize(self, key: bytes, value: bytes, flags: int) -> Taken:
        return Taken(value, {"flags": str(flags)})


class Memcache:
    """pymemcache."""

    def __init__(self, port: int) -> None:
        self._client = Client(
            ("127.0.0.1", port),
            timeout=PATIENCE,
            serde=_WithFlags(),
            default_noreply=False,
            allow_unicode_keys=True,
            no_delay=True,
        )

    def put(self, name: str, body: bytes, said: Mapping[str, str] = {}) -> None:
        stored = self._client.set(name, body, expire=int(said.get("exptime", 0)), flags=int(said.get("flags", 0)))
        assert stored is True

    def publish(self, topic: str, body: bytes) -> None:
        self.put(f"/topic/{topic}", body)

    def take(self, name: str) -> Taken:
        taken = self._client.get(f"{name}/open")
        assert isinstance(taken, Taken)
        assert self._client.get(f"{name}/close") is None
        return taken

    def look(self, name: str) -> Taken | None:
        """The next message, which stays; None if there is none."""
        seen: Taken | None = self._client.get(f"{name}/peek")
        return seen

    def close(self) -> None:
        self._client.close()


class Refused(Exception):
    """The broker sent an ERROR; its `message`."""


class Stomp(stomp.ConnectionListener):  # type: ignore[misc]
    """stomp.py, version 1.2."""

    def __init__(self, port: int) -> None:
        self._frames: queue.Queue[tuple[str, Frame]] = queue.Queue()
        self._receipts = 0
        self._client = stomp.Connection12([("127.0.0.1", port)], auto_decode=False, heartbeats=(0, 0))
        self._client.set_listener("", self)
        self._client.connect("someone", "secret", wait=True)

    def on_message(self, frame: Frame) -> None:
        self._frames.put(("MESSAGE", frame))

    def on_receipt(self, frame: Frame) -> None:
        self._frames.put(("RECEIPT", frame))

    def on_error(self, frame: Frame) -> None:
        self._frames.put(("ERROR", frame))

    def _next(self, command: str) -> Frame:
        found, frame = self._frames.get(timeout=PATIENCE)
        if found == "ERROR":
            raise Refused(frame.headers["message"])
        assert found == command, (found, frame.headers, frame.body)
        return frame

    def _receipt(self) -> str:
        self._receipts += 1
        return f"receipt {self._receipts}"

    def _confirmed(self) -> None:
        assert self._next("RECEIPT").headers["receipt-id"] == f"receipt {self._receipts}"

    def put(self, name: str, body: bytes, said: Mapping[str, str] = {}) -> None:
        self._send(f"/queue/{name}", body, said)

    def publish(self, topic: str, body: bytes) -> None:
        self._send(f"/topic/{topic}", body, {})

    def _send(self, destination: str, body: bytes, said: Mapping[str, str]) -> None:
        self._client.send(destination, body, headers=dict(said), receipt=self._receipt())
        self._confirmed()

    def take(self, name: str) -> Taken:
        self._client.subscribe(f"/queue/{name}", "1", ack="client-individual", headers={"prefetch-count": "1"})
        frame = self._next("MESSAGE")
        # before the acknowledgement, which would bring another message
        self._client.unsubscribe("1", receipt=self._receipt())
        self._confirmed()
        self._client.ack(frame.headers["ack"], receipt=self._receipt())
        self._confirmed()
        return Taken(frame.body or b"", dict(frame.headers))

    def close(self) -> None:
        self._client.disconnect()


class Http:
    """Python's own HTTP client."""

    def __init__(self, port: int) -> None:
        self._client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A request; its status, the header fields under lower-case names, and the body."""
        self.begin(method, path, body, headers)
        return self.end()

    def begin(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> None:
        """Send a request."""
        self._client.request(method, path, body, dict(headers))

    def end(self) -> tuple[int, Mapping[str, str], bytes]:
        """Wait for its answer, which is as that of `ask`."""
        response = self._client.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def put(self, name: str, body: bytes, said: Mapping[str, str] = {}) -> None:
        path = f"/channels/{quote(name, safe='')}{said.get('?', '')}"
        status, _, answer = self.ask("POST", path, body, {k: v for k, v in said.items() if k != "?"})
        assert (status, json.loads(answer)["id"] > 0) == (202, True)

    def publish(self, topic: str, body: bytes) -> None:
        assert self.ask("POST", f"/topics/{topic}", body)[0] == 202

    def take(self, name: str) -> Taken:
        status, said, body = self.ask("GET", f"/channels/{quote(name, safe='')}?nowait")
        assert status == 200, (status, body)
        assert self.ask("DELETE", f"/messages/{said['x-linger-msg-id']}")[0] == 204
        return Taken(body, said)

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def speakers(ports: Mapping[str, int]) -> Iterator[dict[str, Speaker]]:
    """One client of each protocol, at the ports of ``memcache``, ``STOMP`` and ``HTTP``."""
    with contextlib.ExitStack() as opened:
        made: dict[str, Speaker] = {}
        kinds: tuple[type[Any], ...] = (Memcache, Stomp, Http)
        for name, kind in zip(("memcache", "STOMP", "HTTP"), kinds, strict=True):
            made[name] = kind(ports[name])
            opened.callback(made[name].close)
        yield made


# -- connections on which anything can be sent; they live on the reactor


class Wire(Connection):
    """A connection as bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = False
        self._changed: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for one in changed:
            one.callback(None)

    async def _change(self) -> None:
        changed: Deferred[None] = Deferred()
        self._changed.append(changed)
        await changed

    def send(self, data: bytes) -> None:
        """Write; the call does not wait."""
        assert self.transport is not None
        self.transport.write(data)

    async def until(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until `pattern` is found in what came; AssertionError if the connection ends without it."""
        while (found := re.search(pattern, self.received, re.DOTALL)) is None:
            assert not self.ended, f"the end came before {pattern!r}: {self.received[-1000:]!r}"
            await self._change()
        return found

    async def ask(self, data: bytes, pattern: bytes) -> re.Match[bytes]:
        """Forget what came, send, and wait for the answer."""
        self.received = b""
        self.send(data)
        return await self.until(pattern)

    async def end(self) -> bytes:
        """Wait until the other side has closed; all that came."""
        while not self.ended:
            await self._change()
        return self.received

    async def close(self) -> None:
        """Close, and wait for the end."""
        assert self.transport is not None
        self.transport.loseConnection()
        await self.end()

    async def abort(self) -> None:
        """End it with a reset, and wait for the end."""
        self.transport.abortConnection()  # type: ignore[union-attr]
        await self.end()


#: How a STOMP client begins.
CONNECT = b"CONNECT\naccept-version:1.2\nhost:x\n\n\0"


@contextlib.asynccontextmanager
async def wired(port: int, *, hello: bytes = b"", welcome: bytes = b"") -> AsyncIterator[Wire]:
    """A connection, on which `hello` is sent and `welcome` awaited; closed in the end."""
    wire = Wire()
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), wire)
    try:
        if hello:
            await wire.ask(hello, welcome)
            wire.received = b""
        yield wire
    finally:
        await wire.abort()


def stomp_wired(port: int) -> contextlib.AbstractAsyncContextManager[Wire]:
    """A STOMP 1.2 connection."""
    return wired(port, hello=CONNECT, welcome=rb"CONNECTED\n.*\0")


async def turn() -> None:
    """Let the reactor turn."""
    await deferLater(reactor, 0.001)


async def settled(condition: Callable[[], object]) -> None:
    """Let the reactor turn until `condition` holds; the test's own limit ends it otherwise."""
    while not condition():
        await turn()
