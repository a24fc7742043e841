"""A TCP connection seen from both ends: a protocol that records, and a socket of somebody who does as he is told."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

#: Bytes that fit into no buffer of the kernel: to send them, somebody must read.
MUCH = 16 * 1024 * 1024
PATIENCE = 60.0


def the_reactor() -> Any:
    """The one that is installed."""
    from twisted.internet import reactor

    return cast(ReactorBase, reactor)


async def turn(count: int = 1) -> None:
    """Let the reactor go round, with its sockets."""
    for _ in range(count):
        await deferLater(the_reactor(), 0)


async def until(done: Callable[[], object]) -> None:
    """Wait until something is so; the test's own limit ends it."""
    while not done():
        await deferLater(the_reactor(), 0.002)


class Recorded(Protocol):
    """The broker's side. It keeps what it hears, and obeys `on_data` and `on_made`."""

    transport: Any

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost: list[Failure] = []
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = lambda data: None
        self.on_lost: Callable[[], object] = lambda: None

    def connectionMade(self) -> None:
        self.on_made()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)
        self.on_lost()


class Peer:
    """The client's side: a blocking socket, used in a thread."""

    def __init__(self, own: socket.socket) -> None:
        self.socket = own
        own.settimeout(PATIENCE)

    async def read(self, count: int) -> bytes:
        """So many bytes, or all there are until the end."""

        def read() -> bytes:
            got = bytearray()
            while len(got) < count and (data := self.socket.recv(min(count - len(got), 1 << 20))):
                got += data
            return bytes(got)

        return await deferToThread(read)

    async def end(self) -> bytes:
        """All that still comes; raises `ConnectionError` if it is not closed in good order."""
        return await self.read(1 << 40)

    def send(self, data: bytes) -> None:
        """A little."""
        self.socket.sendall(data)

    async def send_all(self, data: bytes) -> None:
        """However much."""
        await deferToThread(self.socket.sendall, data)

    def reset(self) -> None:
        """Vanish with an RST, as a process that is killed with unread data."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Listening:
    """A port whose every connection is a protocol that `make` makes; they are in `made`, in their order."""

    def __init__(self, make: Callable[[], Recorded]) -> None:
        self.made: list[Recorded] = []
        self.prepare: Callable[[Recorded], object] = lambda protocol: None
        self.factory = Factory()
        self.factory.noisy = False
        self.factory.buildProtocol = self._build  # type: ignore[assignment]
        self._make = make
        self._peers: list[Peer] = []
        self.port: Any = None

    def _build(self, address: object) -> Recorded:
        protocol = self._make()
        self.prepare(protocol)
        self.made.append(protocol)
        return protocol

    async def connect(self, address: Any = None, family: int = socket.AF_INET, waiting: bool = True) -> Peer:
        """A connection; with `waiting` its protocol is there."""
        own = socket.socket(family)
        peer = Peer(own)
        self._peers.append(peer)
        count = len(self.made)
        await deferToThread(own.connect, address or ("127.0.0.1", self.port.getHost().port))
        if waiting:
            await until(lambda: len(self.made) > count and self.made[-1].transport is not None)
        return peer

    async def close(self) -> None:
        """All of it."""
        await cast("Deferred[None]", self.port.stopListening() or turn())
        for peer in self._peers:
            peer.socket.close()
        for one in self.made:
            if not one.lost and one.transport is not None:
                one.transport.abortConnection()
        await until(lambda: all(one.lost for one in self.made))


@contextlib.asynccontextmanager
async def listening(
    make: Callable[[], Recorded] = Recorded, listen: Callable[[Factory], IListeningPort] | None = None
) -> AsyncIterator[Listening]:
    """A port on 127.0.0.1, or as `listen` makes it."""
    result = Listening(make)
    reactor = the_reactor()
    result.port = listen(result.factory) if listen else reactor.listenTCP(0, result.factory, interface="127.0.0.1")
    try:
        yield result
    finally:
        await result.close()


@contextlib.asynccontextmanager
async def connected(make: Callable[[], Recorded] = Recorded) -> AsyncIterator[tuple[Any, Peer]]:
    """A connection: our protocol, and its peer."""
    async with listening(make) as port:
        peer = await port.connect()
        yield port.made[0], peer
