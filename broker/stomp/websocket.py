"""STOMP in WebSockets, for browsers: the wire under a `StompProtocol`. How a request becomes one: `upgrade`.

Bytes are bytes: a STOMP frame may come in several WebSocket messages, and several in one. Each frame that we write is a
message of its own, text if it is UTF-8 and binary if not. Compression is not offered: 64 KiB of it can hold 64 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError
from zope.interface import implementer

from broker.auth.door import certified
from broker.stomp.connection import StompProtocol, bound_sending

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
