"""A STOMP client over a fake wire, beside a real broker in memory."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from broker.core.broker import Broker
from broker.core.destination import Destination, queue
from broker.core.message import Message
from broker.core.policy import Policy
from broker.stomp.dialect import HANDSHAKE, V1_0, V1_1, V1_2
from broker.stomp.frames import Frame, encode
from broker.stomp.server import StompFactory
from broker.stomp.wire import Limits, Parser
from broker.storage.memory import MemoryStore

NOW = 1_700_000_000
_DIALECTS = {dialect.version: dialect for dialect in (V1_0, V1_1, V1_2)}


@contextlib.contextmanager
def port_of_ours() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens but whom we tell; no other process is given it meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener does: both may have it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class HalfCloseTransport(StringTransport):
    """A transport that can close one half. What is written counts as sent when `producer.resumeProducing` is called."""

    half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing to delay."""


class Client:
    """One connection: what it sends, and the frames that came back."""

    def __init__(self, factory: StompFactory, clock: Clock, *, takes: bool = True) -> None:
        self.transport = HalfCloseTransport()
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.clock = clock
        #: Whether it takes what is written at once, so that the broker's send buffer is empty.
        self.takes = takes
        self.parser = Parser(HANDSHAKE, Limits())
        self.beats = 0

    def raw(self, data: bytes) -> list[Frame]:
        """Send bytes; what came back since the last call."""
        self.protocol.dataReceived(data)
        return self.frames()

    def send(self, command: str, body: bytes = b"", /, **headers: object) -> list[Frame]:
        """Send a frame; ``_`` in a header's name stands for ``-``. What came back since the last call."""
        frame = Frame(command, {name.replace("_", "-"): str(value) for name, value in headers.items()}, body)
        return self.raw(encode(frame, self.protocol._parser.dialect))

    def connect(self, version: str = "1.2", **headers: object) -> Client:
        """CONNECT, and take the CONNECTED."""
        (connected,) = self.send("CONNECT", accept_version=version, host="here", **headers)
        assert connected.command == "CONNECTED", connected
        self.parser.dialect = _DIALECTS[version]
        return self

    def frames(self) -> list[Frame]:
        """What came back since the last call."""
        found = []
        for _ in range(100):
            self.clock.advance(0)
            data = self.transport.value()
            self.transport.clear()
            self.parser.feed(data)
            while (frame := self.parser.next_frame()) is not None:
                found.append(frame)
            if self.takes:
                self.take()
            if not self.transport.value():
                break
        return found

    def take(self) -> None:
        """Take everything that was written."""
        if self.transport.producer is not None:
            self.transport.producer.resumeProducing()

    def subscribe(self, destination: str, id: str = "0", ack: str = "auto", **headers: object) -> list[Frame]:
        """SUBSCRIBE; the first messages."""
        return self.send("SUBSCRIBE", destination=destination, id=id, ack=ack, **headers)

    def lose(self) -> None:
        """The connection breaks."""
        self.protocol.connectionLost(connectionDone)
        self.clock.advance(0)


class FrontTest(SynchronousTestCase):
    """Tests of the front against a broker in memory."""

    policy = Policy(max_message_size=100_000)

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.broker = Broker(self.store, self.clock, policy=self.policy, wall=lambda: NOW + self.clock.seconds())
        self.successResultOf(Deferred.fromCoroutine(self.broker.start()))
        self.factory = StompFactory(self.broker, clock=self.clock)
        self.clients: list[Client] = []

    def tearDown(self) -> None:
        for client in self.clients:
            client.lose()
        self.store.hold = False
        self.assertEqual(self.factory.connections, set())

    def open(self, *, takes: bool = True) -> Client:
        """A new connection."""
        client = Client(self.factory, self.clock, takes=takes)
        self.clients.append(client)
        return client

    def client(self, version: str = "1.2", *, takes: bool = True, **headers: object) -> Client:
        """A new connection after CONNECT."""
        return self.open(takes=takes).connect(version, **headers)

    def put(self, name: str, *bodies: bytes, **fields: Any) -> None:
        """Put messages into a queue."""
        for body in bodies:
            self.publish(queue(name), Message(body=body, **fields))

    def publish(self, destination: Destination, message: Message) -> None:
        """Publish, and see it stored."""
        self.successResultOf(self.broker.publish(destination, message))

    def ready(self, name: str) -> int:
        """How many messages of a queue wait for a consumer."""
        return self.broker.queue_stats(name).ready

    def on_loan(self, name: str) -> int:
        """How many messages of a queue are on loan."""
        return self.broker.queue_stats(name).on_loan

    def assert_error(self, frames: list[Frame], message: str, **headers: str) -> Frame:
        """`frames` is one ERROR, well formed."""
        self.assertEqual([frame.command for frame in frames], ["ERROR"], frames)
        (error,) = frames
        expected = {name.replace("_", "-"): value for name, value in headers.items()}
        self.assertEqual(
            {name: value for name, value in error.headers.items() if name != "content-length"},
            {
                "message": message,
                "error-code": re.sub("[^a-z0-9]+", "-", message.lower()),
                "version": "1.0,1.1,1.2",
                "content-type": "text/plain",
                **expected,
            },
        )
        self.assertEqual(error.headers["content-length"], str(len(error.body)))
        self.assertNotIn(b"Traceback", error.body)
        return error

    def assert_closes(self, client: Client) -> None:
        """The broker has said its last word and waits for the client to go."""
        self.assertTrue(client.transport.half_closed)
        self.assertFalse(client.transport.disconnecting)


def bodies(frames: list[Frame]) -> list[bytes]:
    """The bodies of the messages among `frames`."""
    return [frame.body for frame in frames if frame.command == "MESSAGE"]


def receipts(frames: list[Frame]) -> list[str]:
    """The receipts among `frames`."""
    return [frame.headers["receipt-id"] for frame in frames if frame.command == "RECEIPT"]


def header(frames: list[Frame], name: str) -> list[str | None]:
    """One header of each message."""
    return [frame.headers.get(name) for frame in frames if frame.command == "MESSAGE"]
