"""What the lean reactor saves, counted, and what it is asked for by others than connections."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import unix
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from zope.interface import implementer

if not hasattr(select, "epoll"):
    pytest.skip("there is no epoll here", allow_module_level=True)

from broker.lean import READ, LeanReactor, LeanServer
from tests.reactor.support import MUCH, PATIENCE, Recorded


class Counted:
    """Something whose calls are counted, under their names."""

    def __init__(self, of: Any, calls: Counter[str]) -> None:
        self._of = of
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)

        def counted(*args: Any) -> Any:
            self._calls[name] += 1
            return found(*args)

        return counted


@implementer(IPullProducer)
class Again:
    """Writes whenever it may."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def resumeProducing(self) -> None:
        self._transport.write(b"again")

    def stopProducing(self) -> None: ...


class Stand:
    """A lean reactor that goes round when it is told to, a port of it, and connections whose system calls count."""

    def __init__(self) -> None:
        self.reactor = LeanReactor()
        self.calls: Counter[str] = Counter()
        self.protocols: list[Recorded] = []
        self.factory = Factory()
        self.factory.noisy = False
        self.factory.buildProtocol = self._build  # type: ignore[assignment]
        self.port: Any = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")

    def _build(self, address: object) -> Recorded:
        self.protocols.append(Recorded())
        return self.protocols[-1]

    def connect(self) -> tuple[Recorded, socket.socket]:
        """A connection that was made, and whose calls count from now on."""
        peer = socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=PATIENCE)
        self.hear(self.port)
        protocol = self.protocols[-1]
        transport = protocol.transport
        transport.setTcpNoDelay(True)
        transport.socket = Counted(transport.socket, self.calls)
        self.reactor._poller = Counted(self.reactor._poller, self.calls)
        self.calls.clear()
        return protocol, peer

    def turn(self) -> None:
        """One pass."""
        self.reactor.iterate(0)

    def hear(self, *ready: Any) -> None:
        """One pass, once there is something for each of these: what a peer sends need not be here when it is sent."""
        for one in ready:
            poll = select.poll()
            poll.register(one.fileno(), select.POLLIN)
            assert poll.poll(1000 * PATIENCE)
        self.turn()

    def close(self) -> None:
        """All of it."""
        for one in self.reactor.removeAll():
            one.connectionLost(Failure(ConnectionDone()))
        self.reactor.removeReader(self.reactor.waker)
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


def read(peer: socket.socket, count: int) -> bytes:
    """So many bytes, in however many parts they come."""
    got = b""
    while len(got) < count and (data := peer.recv(count - len(got))):
        got += data
    return got


@pytest.fixture
def stand() -> Iterator[Stand]:
    result = Stand()
    yield result
    result.close()


def test_a_request_and_its_reply_are_three_system_calls(stand: Stand) -> None:
    protocol, peer = stand.connect()
    protocol.on_data = lambda data: protocol.transport.write(b"STORED\r\n")
    with peer:
        for _ in range(10):
            peer.send(b"set\r\n")
            stand.hear(protocol.transport)
        stand.turn()  # the last reply goes out on the way to sleep
        assert read(peer, 80) == b"STORED\r\n" * 10
        assert stand.calls == {"poll": 11, "recv": 10, "send": 10}


def test_whatever_is_written_in_a_pass_is_one_send(stand: Stand) -> None:
    protocol, peer = stand.connect()
    with peer:
        for _ in range(100):
            protocol.transport.write(b"ab")
            protocol.transport.writeSequence([b"cd", b"e"])
        stand.turn()
        assert stand.calls == {"poll": 1, "send": 1}
        assert read(peer, 500) == b"abcde" * 100


def test_a_reply_is_sent_after_all_that_could_be_read_in_the_pass(stand: Stand) -> None:
    pairs = [stand.connect() for _ in range(5)]
    for protocol, _ in pairs:
        protocol.on_data = protocol.transport.write
    for _, peer in pairs:
        peer.send(b"x")
    stand.calls.clear()
    stand.hear(*(protocol.transport for protocol, _ in pairs))
    assert (stand.calls["recv"], stand.calls["send"]) == (5, 0)
    stand.turn()
    assert (stand.calls["recv"], stand.calls["send"]) == (5, 5)
    for _, peer in pairs:
        assert peer.recv(10) == b"x"
        peer.close()


def test_it_does_not_sleep_while_somebody_wants_to_send(stand: Stand) -> None:
    protocol, peer = stand.connect()
    with peer:
        stand.reactor.running = True
        protocol.transport.registerProducer(Again(protocol.transport), False)
        begun = time.monotonic()
        stand.reactor.iterate(20)
        stand.reactor.iterate(20)
        assert time.monotonic() - begun < 10
        assert stand.calls == {"poll": 2, "send": 2}
        protocol.transport.unregisterProducer()


def test_epoll_hears_of_a_peer_that_does_not_read_and_is_told_when_all_is_sent(stand: Stand) -> None:
    protocol, peer = stand.connect()
    with peer:
        protocol.transport.write(bytes(MUCH))
        stand.turn()
        stand.turn()
        stand.turn()
        assert (stand.calls["modify"], protocol.transport in stand.reactor.getWriters()) == (1, True)
        got, end = 0, time.monotonic() + PATIENCE
        peer.setblocking(False)
        while got < MUCH:
            assert time.monotonic() < end
            with contextlib.suppress(BlockingIOError):  # it has not come yet, or is to be sent yet
                got += len(peer.recv(1 << 20))
            stand.turn()
        stand.turn()
        assert (stand.calls["modify"], protocol.transport in stand.reactor.getWriters()) == (2, False)


def test_a_read_takes_no_buffer_that_has_to_be_mapped() -> None:
    assert READ == 64 * 1024


def test_who_waits_to_send_is_known_and_forgotten(stand: Stand) -> None:
    protocol, peer = stand.connect()
    with peer:
        transport = protocol.transport
        transport.pauseProducing()
        transport.write(b"one")
        transport.stopWriting()
        transport.startWriting()
        assert stand.reactor.getWriters() == [transport]
        assert transport in stand.reactor.removeAll()
        assert stand.reactor.getWriters() == []
        stand.turn()
        assert stand.calls["send"] == 0
        transport.connectionLost(Failure(ConnectionDone()))


def test_every_tcp_port_accepts_lean_connections_and_no_other_port_does(stand: Stand, tmp_path: Path) -> None:
    reactor, factory = stand.reactor, Factory()
    with socket.create_server(("127.0.0.1", 0)) as own, socket.socket(socket.AF_UNIX) as local:
        own.setblocking(False)
        local.bind(str(tmp_path / "l"))
        local.listen()
        local.setblocking(False)
        ports: list[Any] = [
            reactor.listenTCP(0, factory, interface="127.0.0.1"),
            reactor.listenSSL(0, factory, CertificateOptions(), interface="127.0.0.1"),
            reactor.adoptStreamPort(own.fileno(), socket.AF_INET, factory),
            reactor.adoptStreamPort(local.fileno(), socket.AF_UNIX, factory),
            reactor.listenUNIX(str(tmp_path / "u"), factory),
        ]
    assert [port.transport for port in ports] == [LeanServer, LeanServer, LeanServer, unix.Server, unix.Server]


def test_a_stale_event_for_a_connection_that_was_closed_harms_nobody(stand: Stand) -> None:
    first, peer = stand.connect()
    second, other = stand.connect()
    with peer, other:
        first.on_data = lambda data: second.transport.abortConnection()
        second.on_data = lambda data: first.transport.abortConnection()
        peer.send(b"x")
        other.send(b"x")
        stand.hear(first.transport, second.transport)
        assert sorted((bytes(first.heard), bytes(second.heard))) == [b"", b"x"]
        stand.turn()
        assert sorted((len(first.lost), len(second.lost))) == [0, 1]
