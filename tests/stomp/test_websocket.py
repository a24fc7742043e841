"""STOMP in WebSockets: the upgrade, messages in and out, and how it ends."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.stomp.frames import Frame
from broker.stomp.server import StompFactory
from broker.stomp.websocket import CLOSING, MAX_PONGS, Wire
from broker.stomp.wire import Limits, Parser
from broker.storage.memory import MemoryStore
from tests.support import serving, tx

CONNECT = "CONNECT\naccept-version:1.2\nhost:h\n\n\0"


class Browser(Protocol):
    """A WebSocket client, one that says what its test wants."""

    def __init__(self, port: int, path: str, subprotocols: Sequence[str], headers: dict[str, str]) -> None:
        self.socket = WSConnection(ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._request = Request(
            host=f"127.0.0.1:{port}", target=path, subprotocols=list(subprotocols), extra_headers=extra
        )
        self.events: list[Event] = []
        self._waits: Deferred[None] | None = None
        self.gone = False

    def connectionMade(self) -> None:
        self.say(self._request)

    def say(self, event: Event) -> None:
        """Send."""
        self.transport.write(self.socket.send(event))  # type: ignore[union-attr]

    def leave(self) -> None:
        """Break off."""
        self.transport.loseConnection()  # type: ignore[union-attr]

    async def over(self) -> None:
        """Fires when the connection is."""
        while not self.gone:
            self._waits = Deferred()
            await self._waits

    def send(self, data: str | bytes) -> None:
        """Send one message."""
        self.say(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    def dataReceived(self, data: bytes) -> None:
        self.socket.receive_data(data)
        self.events += self.socket.events()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waits is not None:
            waits, self._waits = self._waits, None
            waits.callback(None)

    async def next(self) -> Event:
        """The next event."""
        while not self.events:
            assert not self.gone, "the connection is closed"
            self._waits = Deferred()
            await self._waits
        return self.events.pop(0)

    async def message(self) -> str | bytes:
        """The next message, whole."""
        parts: list[Any] = []
        while True:
            event = await self.next()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                return type(parts[0])().join(parts)

    async def frame(self) -> Frame:
        """The next frame: a message holds one."""
        data = await self.message()
        parser = Parser(limits=Limits())
        parser.feed(data.encode() if isinstance(data, str) else data)
        frame = parser.next_frame()
        assert frame is not None, data
        assert parser.next_frame() is None
        return frame

    async def closing(self) -> int:
        """The code of the closing that comes next."""
        event = await self.next()
        assert isinstance(event, CloseConnection), event
        self.say(event.response())
        return int(event.code)

    async def connect(self) -> Frame:
        """CONNECT."""
        self.send(CONNECT)
        return await self.frame()


@contextlib.asynccontextmanager
async def browsing(
    path: str = "/ws", subprotocols: Sequence[str] = (), headers: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Browser, Any]]:
    """A browser at a broker."""
    async with serving(**settings) as served:
        yield await visit(served.http, path, subprotocols, headers), served


async def visit(
    port: int, path: str = "/ws", subprotocols: Sequence[str] = (), headers: dict[str, str] | None = None
) -> Browser:
    browser = Browser(port, path, subprotocols, headers or {})
    return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), browser)


@tx()
async def test_sub_protocols_choose_the_highest_and_bound_the_version() -> None:
    """Line 76."""
    async with serving() as served:
        for offered, chosen, version in (
            (["v10.stomp", "v11.stomp", "v12.stomp"], "v12.stomp", "1.2"),
            (["v11.stomp", "v10.stomp"], "v11.stomp", "1.1"),
            (["v10.stomp"], "v10.stomp", "1.0"),
            (["stomp"], "stomp", "1.2"),
            (["chat", "v11.stomp"], "v11.stomp", "1.1"),
            (["chat"], None, "1.2"),
            ([], None, "1.2"),
        ):
            for path in ("/ws", "/stomp"):
                browser = await visit(served.http, path, offered)
                accepted = await browser.next()
                assert isinstance(accepted, AcceptConnection)
                assert accepted.subprotocol == chosen
                browser.send("CONNECT\naccept-version:1.0,1.1,1.2\nhost:h\n\n\0")
                assert (await browser.frame()).headers["version"] == version
                browser.leave()


@tx()
async def test_a_version_outside_of_the_sub_protocol_is_refused() -> None:
    async with browsing(subprotocols=["v11.stomp"]) as (browser, _):
        await browser.next()
        assert (await browser.connect()).headers["error-code"] == "version-not-supported"
        assert await browser.closing() == 1000


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/other", {}, 404),
        ("/ws", {"Origin": "https://evil.example"}, 403),
        ("/ws", {"Origin": "http://127.0.0.1:1"}, 101),
        ("/ws", {"Origin": "null"}, 403),
    ],
)
@tx()
async def test_who_may_come_in(path: str, headers: dict[str, str], status: int) -> None:
    """Line 78, its first part, and the wrong path of line 76."""
    async with browsing(path, headers=headers) as (browser, _):
        event = await browser.next()
        assert status == (event.status_code if isinstance(event, RejectConnection) else 101)
        browser.leave()


@tx()
async def test_origins_that_are_named_may_come_in() -> None:
    async with browsing(headers={"Origin": "https://app.example"}, http_host=["app.example"]) as (browser, _):
        assert isinstance(await browser.next(), AcceptConnection)
        browser.leave()


class Raw(Protocol):
    """The whole answer to a request, until the server or we close."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._request)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.answer += data
        if b"\r\n\r\n" in self.answer:
            self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.answer)


KEY = base64.b64encode(os.urandom(16))


@tx()
async def test_what_is_no_upgrade_is_told_what_is_missing() -> None:
    good = {
        b"Host": b"127.0.0.1",
        b"Upgrade": b"websocket",
        b"Connection": b"keep-alive, Upgrade",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": KEY,
    }
    async with serving() as served:
        for method, changes, expected in (
            (b"GET", {}, b"101 Switching Protocols"),
            (b"POST", {}, b"405 Method Not Allowed"),
            (b"GET", {b"Upgrade": b"h2c"}, b"426 Upgrade Required"),
            (b"GET", {b"Upgrade": None}, b"426 Upgrade Required"),
            (b"GET", {b"Sec-WebSocket-Version": b"8"}, b"426 Upgrade Required"),
            (b"GET", {b"Sec-WebSocket-Key": b"short"}, b"400 Bad Request"),
            (b"GET", {b"Sec-WebSocket-Key": None}, b"400 Bad Request"),
            (b"GET", {b"Connection": b"close"}, b"400 Bad Request"),
        ):
            fields = {name: value for name, value in {**good, **changes}.items() if value is not None}
            head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
            raw = Raw(method + b" /ws HTTP/1.1\r\n" + head + b"Content-Length: 0\r\n\r\n")
            await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", served.http), raw)
            answer = await raw.done
            assert answer.startswith(b"HTTP/1.1 " + expected), (changes, answer)


@tx()
async def test_text_and_binary_both_ways() -> None:
    """Line 77: UTF-8 comes as text, everything else as binary; what came with the handshake is not lost."""
    async with browsing() as (browser, _):
        await browser.next()
        assert (await browser.connect()).command == "CONNECTED"
        browser.send("SUBSCRIBE\nid:1\ndestination:/topic/t\n\n\0")
        for body in ("grün".encode(), b"\xff\x00\xfe", b""):
            head = b"SEND\ndestination:/topic/t\ncontent-length:%d\n\n" % len(body)
            browser.send(head + body + b"\0")
            data = await browser.message()
            assert isinstance(data, bytes) == (body == b"\xff\x00\xfe")
            whole = data if isinstance(data, bytes) else data.encode()
            assert whole.endswith(b"\n\n" + body + b"\0")
        browser.send("DISCONNECT\nreceipt:bye\n\n\0")
        assert (await browser.frame()).headers["receipt-id"] == "bye"
        assert await browser.closing() == 1000


@tx()
async def test_frames_and_messages_need_not_coincide() -> None:
    """Line 77: several frames in one message, one over several, and each of ours in a message of its own."""
    async with browsing() as (browser, _):
        await browser.next()
        browser.send(CONNECT + "BEGIN\ntransaction:t\nreceipt:1\n\n\0\n" + "ABORT\ntransaction:t\nreceipt:2\n\n\0")
        assert [(await browser.frame()).command for _ in range(3)] == ["CONNECTED", "RECEIPT", "RECEIPT"]
        for character in "SEND\ndestination:q\nreceipt:3\n\nbö\0":
            browser.send(character)
        for part in ("SEND\ndestination:q\nrece", "ipt:4\n\nx\0"):
            browser.say(TextMessage(part, message_finished=part.endswith("\0")))
        assert [(await browser.frame()).headers["receipt-id"] for _ in range(2)] == ["3", "4"]
        browser.leave()


@tx()
async def test_heart_beats_are_messages_and_pings_are_answered() -> None:
    async with browsing() as (browser, _):
        await browser.next()
        browser.send("CONNECT\naccept-version:1.2\nhost:h\nheart-beat:0,250\n\n\0")
        await browser.frame()
        assert await browser.message() == "\n"
        browser.say(Ping(b"hello"))
        event = await browser.next()
        while isinstance(event, TextMessage):
            event = await browser.next()
        assert isinstance(event, Pong)
        assert event.payload == b"hello"
        browser.leave()


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        ("SEND\nno colon\n\n\0", "malformed-header", 1002),
        (b"SEND\nname:\xff\n\n\0", "invalid-utf-8", 1007),
        ("SEND\ndestination:q\n\n" + "x" * 2000 + "\0", "body-too-large", 1009),
        ("SEND\ndestination:/topic/\n\n\0", "invalid-destination", 1000),
    ],
)
@tx()
async def test_the_error_comes_before_the_close_and_its_code(data: str | bytes, error: str, code: int) -> None:
    """Line 79."""
    async with browsing(defaults=Policy(max_message_size=1000)) as (browser, _):
        await browser.next()
        await browser.connect()
        browser.send(data)
        frame = await browser.frame()
        assert (frame.command, frame.headers["error-code"]) == ("ERROR", error)
        assert await browser.closing() == code
        await browser.over()


@tx()
async def test_bytes_that_are_no_websocket_end_it() -> None:
    async with browsing() as (browser, _):
        await browser.next()
        browser.transport.write(b"\xff" * 20)  # type: ignore[union-attr]
        assert await browser.closing() == 1002
        await browser.over()


@tx()
async def test_what_is_unsettled_goes_back_when_a_page_is_closed() -> None:
    async with browsing() as (browser, served):
        await browser.next()
        await browser.connect()
        browser.send("SEND\ndestination:q\n\nx\0SUBSCRIBE\nid:1\ndestination:q\nack:client\n\n\0")
        assert (await browser.frame()).body == b"x"
        browser.say(CloseConnection(1001))
        await browser.over()
        while served.service.broker.queue_stats("q").on_loan:
            await turn()
        assert served.service.broker.queue_stats("q").ready == 1


@tx()
async def test_when_the_broker_stops_a_page_is_told() -> None:
    async with browsing() as (browser, served):
        await browser.next()
        await browser.connect()
        stopped = served.service.stopService()
        assert await browser.closing() == 1000
        await stopped


# -- the wire alone, on a clock


class _Transport(StringTransport):
    """A socket with a peer that takes what is written when the test says so."""

    def drain(self) -> bytes:
        """Take everything."""
        data = self.value()
        self.clear()
        self.producer.resumeProducing()  # type: ignore[union-attr]
        return data


def wired() -> tuple[Wire, _Transport, Clock, list[Failure]]:
    """A wire under a STOMP connection, its socket, and how it was lost."""
    clock = Clock()
    broker = Broker(MemoryStore(), clock)
    transport, lost = _Transport(), list[Failure]()
    wire = Wire(StompFactory(broker, login_timeout=1000).buildProtocol(None), clock, lost.append)
    wire.makeConnection(transport)
    return wire, transport, clock, lost


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame of a client, with a mask of zeros."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


def test_a_ping_goes_out_every_half_minute_and_who_is_silent_is_gone() -> None:
    wire, transport, clock, _ = wired()
    clock.advance(30)
    assert transport.drain() == b"\x89\x00"
    wire.dataReceived(masked(0xA, b""))
    clock.advance(30)
    assert transport.drain() == b"\x89\x00"
    assert not transport.disconnected
    clock.advance(30)
    assert transport.disconnected


def test_silence_means_nothing_while_we_do_not_read() -> None:
    wire, transport, clock, _ = wired()
    wire.pauseProducing()
    assert transport.producerState == "paused"
    clock.pump([30] * 4)
    assert not transport.disconnected
    wire.resumeProducing()
    clock.pump([30] * 2)
    assert transport.disconnected


def test_who_only_pings_and_never_reads_does_not_fill_our_memory() -> None:
    wire, transport, _, _ = wired()
    for _ in range(10_000):
        wire.dataReceived(masked(0x9, b"x" * 100))
    assert len(transport.drain()) < MAX_PONGS + 200
    wire.dataReceived(masked(0x9, b"again"))
    assert transport.drain() == b"\x8a\x05again"


def test_who_does_not_answer_our_closing_is_cut_off() -> None:
    wire, transport, clock, lost = wired()
    wire.loseConnection()
    assert transport.drain() == b"\x88\x02\x03\xe8"
    clock.advance(CLOSING)
    assert transport.disconnected
    wire.connectionLost()
    assert len(lost) == 1
    assert not clock.getDelayedCalls()[1:]


def test_every_frame_is_a_message() -> None:
    wire, transport, _, _ = wired()
    wire.write(b"RECEIPT\nreceipt-id:1\n\n\0\nRECEIPT\nreceipt-id:2\n\n\0\n")
    assert transport.drain().count(b"\x81") == 2
    wire.write(b"MESSAGE\n\n\0\xff\0")
    assert transport.drain()[0] == 0x82
    wire.write(b"\n")
    assert transport.drain() == b"\x81\x01\n"


async def turn() -> None:
    await deferLater(reactor, 0.01)


def test_what_twisted_does_not_publish_is_still_there() -> None:
    assert callable(HTTPChannel._protocolUpgradeForWebsockets)
