"""STOMP in WebSockets, for browsers: the upgrade of an HTTP request, and the wire under a `StompProtocol`.

Bytes are bytes: a STOMP frame may come in several WebSocket messages, and several in one. Each frame that we write is a
message of its own, text if it is UTF-8 and binary if not. Compression is not offered: 64 KiB of it can hold 64 MiB.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token
from zope.interface import implementer

from broker.auth.door import certified
from broker.stomp.connection import StompProtocol, bound_sending
from broker.stomp.server import StompFactory

PATHS = (b"/ws", b"/stomp")
#: Sub-protocols, the best first, and the version of STOMP that each stands for; empty: any.
SUBPROTOCOLS = {"v12.stomp": "1.2", "v11.stomp": "1.1", "v10.stomp": "1.0", "stomp": ""}
#: Seconds between two pings; who has sent nothing at all from one to the next is gone.
PING = 30.0
#: Bytes of pongs in our send buffer, beyond which pings get none.
MAX_PONGS = 64 * 1024
#: Seconds a client has to answer our closing.
CLOSING = 2.0
#: Why we close, by the code of our last ERROR (RFC 6455, 7.4.1).
_CLOSE = {
    "access-refused": 1008,
    "body-too-large": 1009,
    "command-too-long": 1009,
    "header-line-too-long": 1009,
    "headers-too-long": 1009,
    "too-many-headers": 1009,
    "invalid-utf-8": 1007,
    "malformed-header": 1002,
    "malformed-escape": 1002,
    "malformed-line-end": 1002,
    "nul-in-a-header": 1002,
    "invalid-content-length": 1002,
    "missing-nul-after-the-body": 1002,
}


class WebSockets(Resource):
    """The paths under which an HTTP site speaks STOMP; `rest` is all the others.

    `refused` is asked before a client comes in: the status it is refused with, 0 if it is welcome.
    """

    isLeaf = True

    def __init__(self, rest: IResource, factory: StompFactory, refused: Callable[[Any], int]) -> None:
        super().__init__()
        self._rest = rest
        self._factory = factory
        self._refused = refused

    def render(self, request: Request) -> Any:
        """Begin to speak STOMP, or have the rest answer."""
        if request.path not in PATHS:
            return self._rest.render(request)
        status, fields = self._checked(request)
        if not status:
            self._upgrade(request)
            return server.NOT_DONE_YET
        request.setResponseCode(status, HTTPStatus(status).phrase.encode())
        request.setHeader(b"Server", b"twisted-broker")
        for name, value in fields.items():
            request.setHeader(name, value)
        request.setHeader(b"Content-Type", b"text/plain")
        return b"STOMP is spoken here in a WebSocket (RFC 6455).\n"

    def _checked(self, request: Request) -> tuple[int, dict[bytes, bytes]]:
        """The status a request is refused with, and headers of that answer; 0: it is welcome."""
        if request.method != b"GET":
            return 405, {b"Allow": b"GET"}
        if (request.getHeader("upgrade") or "").lower() != "websocket":
            return 426, {b"Upgrade": b"websocket", b"Connection": b"Upgrade"}
        if request.getHeader("sec-websocket-version") != "13":
            return 426, {b"Sec-WebSocket-Version": b"13"}
        try:
            key = base64.b64decode(request.getHeader("sec-websocket-key") or "", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        connection = (request.getHeader("connection") or "").lower()
        if len(key) != 16 or "upgrade" not in (word.strip() for word in connection.split(",")):
            return 400, {}
        return self._refused(request), {}

    def _upgrade(self, request: Request) -> None:
        fields = request.requestHeaders.getRawHeaders("sec-websocket-protocol") or []
        offered = {word.strip() for field in fields for word in field.split(",")}
        known = [name for name in SUBPROTOCOLS if name in offered]
        versions = {SUBPROTOCOLS[name] for name in known}
        stomp = self._factory.buildProtocol(request.getClientAddress())
        if versions and "" not in versions:
            stomp.versions = frozenset(versions)
        channel: Any = request.channel
        channel.setTimeout(None)
        channel.transport.unregisterProducer()
        key = (request.getHeader("sec-websocket-key") or "").encode()
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + generate_accept_token(key),
            *([b"Sec-WebSocket-Protocol: " + known[0].encode()] if known else []),
        ]
        channel.transport.write(b"\r\n".join([*lines, b"", b""]))
        wire = Wire(stomp, self._factory.clock, channel.connectionLost, self._factory.terms.send_timeout)
        early, channel._dataBuffer = channel._dataBuffer, []
        # Unpublished in Twisted: it hands what comes, and the end, to the wire.
        channel._protocolUpgradeForWebsockets(wire)
        for data in early:
            wire.dataReceived(data)
        channel.transport.resumeProducing()


@implementer(IPullProducer)
class _Drain:
    """Learns from the socket that our send buffer is empty."""

    def __init__(self, emptied: Callable[[], None]) -> None:
        self._emptied = emptied

    def resumeProducing(self) -> None:
        """It is."""
        self._emptied()

    def stopProducing(self) -> None:
        """The connection is gone; `Wire.connectionLost` says so too."""


class Wire(Protocol):
    """One WebSocket, which is the transport of a `StompProtocol`. `lost` is told when it is gone."""

    transport: Any

    def __init__(
        self, stomp: StompProtocol, clock: IReactorTime, lost: Callable[[Failure], None], send_timeout: int = 0
    ) -> None:
        self._stomp = stomp
        self._clock = clock
        self._lost = lost
        self._send_timeout = send_timeout
        self._socket = Connection(ConnectionType.SERVER)
        self._producer: Any = None
        self._timer: IDelayedCall | None = None
        self._pongs = 0
        self._heard = True
        self._reading = True
        self._gone = False

    # -- the connection's side

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            bound_sending(self.transport, self._send_timeout)
        self.transport.registerProducer(_Drain(self._emptied), False)
        self._timer = self._clock.callLater(PING, self._ping)
        self._stomp.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        if self._socket.state is ConnectionState.CLOSED:
            return
        self._socket.receive_data(data)
        for event in self._socket.events():
            self._happened(event)

    def _happened(self, event: Event) -> None:
        if isinstance(event, TextMessage):
            self._stomp.dataReceived(event.data.encode())
        elif isinstance(event, BytesMessage):
            self._stomp.dataReceived(bytes(event.data))
        elif isinstance(event, Ping):
            if self._pongs < MAX_PONGS:
                self._pongs += self._send(event.response())
        elif isinstance(event, CloseConnection):
            if self._socket.state is ConnectionState.OPEN:  # what came is no frame
                self._end(int(event.code))
                return
            if self._socket.state is ConnectionState.REMOTE_CLOSING:
                self._send(event.response())
            self.transport.unregisterProducer()  # it would keep the connection open
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._stomp.connectionLost(reason)
        self._lost(reason)

    def _ping(self) -> None:
        if self._reading and not self._heard:
            self.transport.abortConnection()
            return
        self._heard = False
        self._send(Ping(b""))
        self._timer = self._clock.callLater(PING, self._ping)

    def _send(self, event: Event) -> int:
        """Write an event; how many bytes it has taken."""
        try:
            data = self._socket.send(event)
        except LocalProtocolError:
            return 0  # it is being closed
        self.transport.write(data)
        return len(data)

    def _emptied(self) -> None:
        self._pongs = 0
        if self._producer is not None:
            self._producer.resumeProducing()

    # -- the transport's side

    def write(self, data: bytes) -> None:
        """Write STOMP frames: one MESSAGE, or others, which hold no NUL but at their end."""
        frames = [data] if data.startswith(b"MESSAGE\n") else data.split(b"\0")
        last = len(frames) - 1
        for number, frame in enumerate(frames):
            whole = frame if number == last else frame + b"\0"
            if not whole or (number and whole == b"\n"):
                continue  # behind the last NUL
            try:
                self._send(TextMessage(whole.decode()))
            except UnicodeDecodeError:
                self._send(BytesMessage(whole))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Tell `producer` whenever our send buffer is empty, and once at once, as a socket does."""
        self._producer = producer
        self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Tell it no more."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Read nothing."""
        self._reading = False
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self._reading = True
        self.transport.resumeProducing()

    def getPeer(self) -> object:
        """Who is there."""
        return self.transport.getPeer()

    def getHost(self) -> object:
        """Where the connection came in."""
        return self.transport.getHost()

    @property
    def certified(self) -> str:
        """The name in the client's certificate, if one was asked for."""
        return certified(self.transport)

    def loseConnection(self) -> None:
        """Close, for the reason that our last ERROR gave."""
        self._end(_CLOSE.get(self._stomp.last_error, 1000))

    def abortConnection(self) -> None:
        """Break off."""
        self.transport.abortConnection()

    def _end(self, code: int) -> None:
        self._send(CloseConnection(code=code))
        self.transport.resumeProducing()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self._gone:
            self._timer = self._clock.callLater(CLOSING, self.transport.abortConnection)
