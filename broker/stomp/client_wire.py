"""One connection of a client: CONNECT, receipts, heart-beats, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.stomp.dialect import ALL, HANDSHAKE, negotiate
from broker.stomp.frames import Frame, encode
from broker.stomp.heartbeat import Beats, Heartbeat
from broker.stomp.wire import FrameError, Limits, Parser

#: The largest body that is taken of a server.
MAX_BODY = 1024 * 1024 * 1024


class StompError(Exception):
    """The server's ERROR."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame.headers.get("message", "ERROR"))
        #: What this broker calls it for programs; empty at others.
        self.code = frame.headers.get("error-code", "")
        self.detail = frame.body.decode(errors="replace").strip()


class Lost(Exception):
    """The connection ended before the server said that it was done: perhaps it was, perhaps not."""


class ClientProtocol(Protocol):
    """Speaks STOMP to a server. `message` is called with each MESSAGE, `ended` when it is over, or will be.

    It may be called twice.
    """

    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        headers: Mapping[str, str],
        beats: tuple[int, int],
        message: Callable[[ClientProtocol, Frame], None],
        ended: Callable[[ClientProtocol], None],
    ) -> None:
        self._clock = clock
        self._headers = {
            "accept-version": ",".join(sorted(ALL)),
            "heart-beat": f"{beats[0]},{beats[1]}",
            **headers,
        }
        self._beats = beats
        self._message = message
        self._ended = ended
        self._parser = Parser(HANDSHAKE, Limits(line=1024 * 1024, head=1024 * 1024, headers=10_000, body=MAX_BODY))
        self._heartbeat: Heartbeat | None = None
        self._receipts: dict[str, Deferred[None]] = {}
        self._count = 0
        self._error: StompError | None = None
        self._over = False
        #: Fires with this protocol when the server has let us in; fails with `StompError` or `Lost`.
        self.entered: Deferred[ClientProtocol] = Deferred()
        #: What CONNECTED said.
        self.said: Mapping[str, str] = {}

    # -- the transport's side

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self.transport.write(encode(Frame("CONNECT", self._headers), HANDSHAKE))

    def dataReceived(self, data: bytes) -> None:
        if self._heartbeat is not None:
            self._heartbeat.received()
        self._parser.feed(data)
        try:
            while not self._over and (frame := self._parser.next_frame()) is not None:
                self._received(frame)
        except FrameError as error:
            self._error = StompError(Frame("ERROR", {"message": f"the server's bytes are no frame: {error}"}))
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        if self._heartbeat is not None:
            self._heartbeat.stop()
        error: Exception = self._error or Lost(reason.getErrorMessage())
        receipts, self._receipts = self._receipts, {}
        for receipt in receipts.values():
            receipt.errback(Lost(str(error)))
        if not self.entered.called:
            self.entered.errback(error)
        self._ended(self)

    # -- frames

    def _received(self, frame: Frame) -> None:
        match frame.command:
            case "CONNECTED":
                self._enter(frame.headers)
            case "MESSAGE":
                self._message(self, frame)
            case "RECEIPT":
                receipt = self._receipts.pop(frame.headers.get("receipt-id", ""), None)
                if receipt is not None:
                    receipt.callback(None)
            case "ERROR":
                error = StompError(frame)
                self._error = self._error or error
                self._over = True  # the server closes; nothing more is to be said here
                self._ended(self)
                receipt = self._receipts.pop(frame.headers.get("receipt-id", ""), None)
                if receipt is not None:
                    receipt.errback(error)
                self.transport.loseConnection()

    def _enter(self, headers: Mapping[str, str]) -> None:
        dialect = negotiate(headers.get("version"))
        if dialect is None or self.entered.called:
            self.transport.abortConnection()
            return
        self.said = headers
        self._parser.dialect = dialect
        ours_out, ours_in = self._beats
        theirs = [int(part) for part in headers.get("heart-beat", "0,0").split(",") if part.strip().isdigit()]
        theirs_out, theirs_in = theirs if len(theirs) == 2 else (0, 0)
        beats = Beats(
            outgoing=max(ours_out, theirs_in) if ours_out and theirs_in else 0,
            incoming=max(ours_in, theirs_out) if ours_in and theirs_out else 0,
        )
        self._heartbeat = Heartbeat(
            self._clock,
            beats,
            beat=lambda: self.transport.write(b"\n"),
            expired=lambda: self.transport.abortConnection(),
            reading=lambda: True,
        )
        self.entered.callback(self)

    def tell(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame, and do not learn what becomes of it."""
        if not self._over:
            if self._heartbeat is not None:
                self._heartbeat.wrote()
            self.transport.write(encode(Frame(command, dict(headers), body), self._parser.dialect))

    def ask(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> Deferred[None]:
        """Send a frame with a receipt; fires when the server says it is done, fails with `StompError` or `Lost`."""
        receipt: Deferred[None] = Deferred()
        if self._over:
            receipt.errback(Lost("the connection is over"))
            return receipt
        self._count += 1
        self._receipts[str(self._count)] = receipt
        self.tell(command, {**headers, "receipt": str(self._count)}, body)
        return receipt

    @property
    def names_acks(self) -> bool:
        """True if deliveries have a name of their own."""
        return self._parser.dialect.names_acks
