"""The front on a real socket: a client others wrote, and what TCP does to last words."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stomp
from stomp.utils import Frame
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from broker.core.broker import Broker
from broker.core.destination import queue as queue_of
from broker.core.message import Message
from broker.stomp.heartbeat import Heartbeat
from broker.stomp.server import StompFactory
from broker.stomp.wishes import Terms
from broker.storage.memory import MemoryStore
from tests.support import tx

#: Seconds a blocking client waits before the test fails.
PATIENCE = 60.0

CONNECTIONS = {
    "1.0": stomp.Connection10,
    "1.1": stomp.Connection11,
    "1.2": stomp.Connection12,
}


@contextlib.asynccontextmanager
async def listening(
    terms: Terms = Terms(),  # noqa: B008 - frozen
    clock: IReactorTime = reactor,
) -> AsyncIterator[tuple[Broker, int]]:
    """A broker in memory, and the port of its STOMP front.

    The front waits for a client that was refused for as long as a test takes: it may be slow to finish its sentence.
    """
    broker = Broker(MemoryStore(), reactor)
    await broker.start()
    factory = StompFactory(broker, terms=terms, linger=300.0, clock=clock)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        yield broker, address.port
    finally:
        await maybeDeferred(port.stopListening)
        for connection in list(factory.connections):
            connection.transport.abortConnection()
        await factory.close()
        await broker.stop()


class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Collects what comes, for the thread that waits for it."""

    def __init__(self) -> None:
        self.frames: queue.Queue[tuple[str, Frame]] = queue.Queue()
        self.gone = threading.Event()
        self.beaten = threading.Event()

    def on_message(self, frame: Frame) -> None:
        self.frames.put(("MESSAGE", frame))

    def on_receipt(self, frame: Frame) -> None:
        self.frames.put(("RECEIPT", frame))

    def on_error(self, frame: Frame) -> None:
        self.frames.put(("ERROR", frame))

    def on_disconnected(self) -> None:
        self.gone.set()

    def on_heartbeat(self) -> None:
        self.beaten.set()

    def next(self, command: str) -> Any:
        """The next frame, which is this."""
        found, frame = self.frames.get(timeout=PATIENCE)
        assert found == command, (found, frame.headers, frame.body)
        return frame


def _connect(port: int, version: str, **options: Any) -> tuple[Any, Listener]:
    connection = CONNECTIONS[version]([("127.0.0.1", port)], **options)
    listener = Listener()
    connection.set_listener("test", listener)
    connection.connect("someone", "secret", wait=True)
    return connection, listener


def _settle(connection: Any, version: str, message: Any, command: str = "ack", **options: Any) -> None:
    settle = getattr(connection, command)
    if version == "1.2":
        settle(message.headers["ack"], **options)
    elif version == "1.1":
        settle(message.headers["message-id"], message.headers["subscription"], **options)
    else:
        settle(message.headers["message-id"], **options)


def _converse(port: int, version: str) -> None:
    connection, listener = _connect(port, version)
    try:
        connection.send("/queue/work", "zero", receipt="sent", **{"reply-to": "a:b"})
        assert listener.next("RECEIPT").headers["receipt-id"] == "sent"
        connection.subscribe("/queue/work", "1", ack="client-individual", headers={"prefetch-count": "2"})
        first = listener.next("MESSAGE")
        assert (first.body, first.headers["redelivered"], first.headers["reply-to"]) == ("zero", "false", "a:b")
        if version != "1.0":
            _settle(connection, version, first, "nack")
            first = listener.next("MESSAGE")
            assert (first.body, first.headers["redelivered"]) == ("zero", "true")
        _settle(connection, version, first, receipt="acked")
        assert listener.next("RECEIPT").headers["receipt-id"] == "acked"

        transaction = connection.begin()
        connection.send("/queue/work", "one", transaction=transaction)
        connection.send("/queue/work", "two", transaction=transaction)
        connection.abort(transaction)
        transaction = connection.begin()
        connection.send("/queue/work", "three", transaction=transaction)
        connection.commit(transaction)
        third = listener.next("MESSAGE")
        assert third.body == "three"
        connection.unsubscribe("/queue/work" if version == "1.0" else "1")
        connection.disconnect(receipt="bye")
        assert listener.next("RECEIPT").headers["receipt-id"] == "bye"
        assert listener.gone.wait(PATIENCE)
    finally:
        if not listener.gone.is_set():
            connection.transport.stop()


@pytest.mark.parametrize("version", CONNECTIONS)
@tx(120)
async def test_stomp_py_sends_receives_settles_and_leaves(version: str) -> None:
    async with listening() as (broker, port):
        await deferToThread(_converse, port, version)
        assert broker.queue_stats("work").ready == 1  # what was not acked


@tx(120)
async def test_stomp_py_keeps_beating(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front's clock goes on by a period whenever a beat has come: a slow machine is no silence."""
    clock, heard, received = Clock(), [0], Heartbeat.received

    def hears(heartbeat: Heartbeat) -> None:
        heard[0] += 1
        received(heartbeat)

    monkeypatch.setattr(Heartbeat, "received", hears)

    def talk(connection: Any, listener: Listener) -> None:
        connection.subscribe("/topic/t", "1")
        connection.send("/topic/t", "alive")
        assert listener.next("MESSAGE").body == "alive"

    async with listening(clock=clock) as (_, port):
        beats = {"heartbeats": (300, 300), "heart_beat_receive_scale": PATIENCE / 0.3}
        connection, listener = await deferToThread(_connect, port, "1.2", **beats)
        try:
            for _ in range(6):  # thrice as long as it may be silent
                before = heard[0]
                while heard[0] == before:
                    await deferLater(reactor, 0.01)
                listener.beaten.clear()
                clock.advance(0.3)
                assert await deferToThread(listener.beaten.wait, PATIENCE)
            assert not listener.gone.is_set()
            await deferToThread(talk, connection, listener)
        finally:
            await deferToThread(connection.disconnect)


def _read_to_end(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (b"HELLO\n\n\0", b"message:Bad command\n"),
        (b"HELLO\n\n\0" + b"SEND\ndestination:/queue/a\n\nx\0" * 2000, b"message:Bad command\n"),
        (b"SEND\ndestination:/queue/a\ncontent-length:99999999\n\n" + b"x" * 50_000, b"message:Body too large\n"),
        (b"SEND\nno colon\n\n\0" + b"\n" * 60_000, b"message:malformed header\n"),
    ],
)
@tx(120)
async def test_an_error_reaches_a_client_that_is_still_sending(after: bytes, message: bytes) -> None:
    def provoke(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(b"CONNECT\naccept-version:1.2\nhost:x\n\n\0" + after)
            connection.sendall(b"\n" * 1000)
            return _read_to_end(connection)

    async with listening() as (broker, port):
        data = await deferToThread(provoke, port)
        assert data.startswith(b"CONNECTED\n")
        assert b"\0ERROR\n" in data
        assert message in data
        assert data.endswith(b"\0")
        assert broker.queue_stats("a").ready == 0


@tx(120)
async def test_a_client_that_closes_its_side_gets_its_answers() -> None:
    def tell(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(b"CONNECT\n\n\0SEND\ndestination:a\nreceipt:1\n\nx\0")
            connection.shutdown(socket.SHUT_WR)
            return _read_to_end(connection)

    async with listening() as (broker, port):
        assert b"RECEIPT\nreceipt-id:1\n\n\0" in await deferToThread(tell, port)
        assert broker.queue_stats("a").ready == 1


@tx(120)
async def test_a_slow_reader_gets_everything_and_settles_it() -> None:
    """More than all buffers on the way hold, taken in small pieces: deliveries wait, and none is lost or doubled."""
    count, size = 400, 50_000

    def read(port: int) -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(b"CONNECT\n\n\0SUBSCRIBE\ndestination:big\n\n\0")
            found, data = 0, b""
            while found < count:
                data = data[-7:] + connection.recv(10_000)  # a command may be cut in two
                found += data.count(b"MESSAGE\n")
            connection.sendall(b"DISCONNECT\n\n\0")
            _read_to_end(connection)
            return found

    async with listening() as (broker, port):
        for _ in range(count):
            await broker.publish(queue_of("big"), Message(body=b"x" * size))
        assert await deferToThread(read, port) == count
        stats = broker.queue_stats("big")
        assert (stats.ready, stats.on_loan, stats.delivered) == (0, 0, count)


@tx(120)
async def test_who_takes_nothing_for_too_long_is_closed_on() -> None:
    async with listening(Terms(send_timeout=500)) as (broker, port):
        for _ in range(200):
            await broker.publish(queue_of("big"), Message(body=b"x" * 50_000))
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"CONNECT\n\n\0SUBSCRIBE\ndestination:big\nack:client\n\n\0")
            while not broker.queue_stats("big").on_loan:
                await deferLater(reactor, 0.01)
            while broker.queue_stats("big").on_loan:
                await deferLater(reactor, 0.05)
        assert broker.queue_stats("big").ready == 200


@tx(120)
async def test_garbage_beside_a_probe_disturbs_nobody() -> None:
    def rave(port: int) -> None:
        rng = random.Random(1)
        pieces = [b"SEND\n", b"destination:a\n", b"\n", b"\0", b"content-length:9\n", b"CONNECT\n\n\0", b"\r", b"\xff"]
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                with contextlib.suppress(OSError):
                    connection.sendall(b"".join(rng.choices(pieces, k=rng.randrange(30))) + rng.randbytes(50))
                    if rng.random() < 0.5:
                        connection.shutdown(socket.SHUT_WR)
                        _read_to_end(connection)

    def probe(port: int) -> None:
        connection, listener = _connect(port, "1.2")
        connection.subscribe("/queue/probe", "1")
        for number in range(100):
            connection.send("/queue/probe", str(number))
            assert listener.next("MESSAGE").body == str(number)
        connection.disconnect()

    async with listening() as (_, port):
        raving: Deferred[None] = deferToThread(rave, port)
        await deferToThread(probe, port)
        await raving
