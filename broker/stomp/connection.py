"""The STOMP protocol on a connection: CONNECT, receipts, errors, and how a connection ends.

Replies leave in the order of their frames. An ERROR is the last thing a client reads: it is written once all earlier
replies are, the write side is closed behind it, and what the client still sends is read and dropped for a while. To
close at once would make the kernel send a reset, which destroys the ERROR on its way.
"""

from __future__ import annotations

import enum
import secrets
import socket
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any
from typing import Protocol as Structure

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.auth.door import Access, host_of
from broker.hello import TLS_HELLO, refuse
from broker.outbox import Outbox, Promise, Transport
from broker.stomp.breath import Breath
from broker.stomp.dialect import ALL
from broker.stomp.errors import Refused, error_frame, refusal
from broker.stomp.frames import Acks, Frame, Repeated, encode
from broker.stomp.handshake import Agreed, agree
from broker.stomp.heads import Heads
from broker.stomp.heartbeat import Heartbeat
from broker.stomp.session import Session
from broker.stomp.wire import FrameError, Parser

if TYPE_CHECKING:
    from broker.stomp.server import StompFactory

#: After the last frame of ours: bytes that we still read from a client that does not close.
LINGER_BYTES = 64 * 1024


class _State(enum.Enum):
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    #: No further frame is obeyed; earlier replies may still be owed.
    CLOSING = enum.auto()
    #: Our last octet is written; what comes is dropped.
    LINGERING = enum.auto()
    CLOSED = enum.auto()


class _Transport(Transport, Structure):
    """What is asked of a Twisted TCP transport, beside what an outbox asks."""

    def getPeer(self) -> object: ...
    def getHost(self) -> object: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...


def bound_sending(transport: Any, timeout: int) -> None:
    """Have the system end a connection whose client takes nothing for `timeout` ms: it alone sees small steps."""
    handle = transport.getHandle()
    if timeout and isinstance(handle, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)


@implementer(IHalfCloseableProtocol)
class StompProtocol(Protocol):
    """One connection."""

    _log = Logger()
    transport: _Transport  # type: ignore[assignment]

    def __init__(self, factory: StompFactory) -> None:
        self._factory = factory
        self.name = secrets.token_hex(12)
        #: The versions that may be spoken: fewer where the transport has been promised one.
        self.versions: Container[str] = ALL
        #: What the client calls itself; empty: nothing.
        self.client = ""
        #: The code of the ERROR that ended the connection; empty: none has.
        self.last_error = ""
        self._clock = factory.clock
        self._parser = Parser()
        self._state = _State.CONNECTING
        self._session: Session | None = None
        self._access: Access | None = None
        self._heartbeat: Heartbeat | None = None
        self._timer: IDelayedCall | None = None
        self._working = False
        # There is one as long as frames are obeyed.
        self._breath: Breath | None = None
        self._read_lost = False
        self._dropped = 0

    # -- the transport's side

    def connectionMade(self) -> None:
        self._outbox = Outbox(self.transport, self._relieved, self._wrote)
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)  # for clients without heart-beats
            bound_sending(self.transport, self._factory.terms.send_timeout)
        self._timer = self._clock.callLater(self._factory.login_timeout, self._late_login)
        self._factory.connections.add(self)
        self._log.debug("{name}: connection from {peer}", name=self.name, peer=self.transport.getPeer())

    def dataReceived(self, data: bytes) -> None:
        if self._state is _State.LINGERING:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abortConnection()
            return
        if self._heartbeat is not None:
            self._heartbeat.received()
        if self._state in (_State.CONNECTING, _State.CONNECTED):
            if self._state is _State.CONNECTING and data.startswith(TLS_HELLO) and not self._parser.held:
                refuse(self.transport, self._log, "STOMP")
                return
            self._parser.feed(data)
            self._work()

    def readConnectionLost(self) -> None:
        """The client has closed its side: what it said is obeyed and answered, then we close."""
        self._read_lost = True
        if self._state is _State.LINGERING:
            self.transport.loseConnection()
        else:
            self._work()

    def writeConnectionLost(self) -> None:
        """Our side is closed, as we asked for."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        was_connected = self._session is not None and self._state is not _State.CLOSED
        self._state = _State.CLOSED
        self._stop_timers()
        self._outbox.close()
        self._factory.disconnected(self)
        if self._access is not None:
            self._access.leave(self._removed)
        if self._session is not None:
            self._session.end()
        if was_connected:
            self._log.info("{name}: disconnected: {reason}", name=self.name, reason=reason.getErrorMessage())

    # -- flow

    def _wrote(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.wrote()

    def _relieved(self) -> None:
        """We read again after a hold, or the client has taken what we wrote."""
        if self._heartbeat is not None:
            self._heartbeat.received()
        if self._session is not None and self._state is _State.CONNECTED and not self._outbox.full:
            self._session.resume()
        self._work()

    def _work(self) -> None:
        """Obey what was received, for as long as we may."""
        if self._working:
            return
        self._working = True
        try:
            while self._state in (_State.CONNECTING, _State.CONNECTED) and not self._outbox.holding:
                breath = self._breath
                try:
                    frame = self._parser.take()
                except FrameError as error:
                    self._breathe_out()
                    self._refuse(error, Frame("", error.headers))
                    return
                if isinstance(frame, Repeated):
                    if breath is not None and breath.send(frame):
                        continue
                    frame = frame.frame
                elif isinstance(frame, Acks):
                    assert breath is not None
                    breath.acks(frame)
                    continue
                elif frame is not None and frame.command == "ACK" and breath is not None and breath.ack(frame):
                    continue
                self._breathe_out()
                if frame is None:
                    if self._read_lost:
                        self._close()
                    return
                self._obey(frame)
        finally:
            self._breathe_out()
            self._working = False

    def _breathe_out(self) -> None:
        if self._breath is not None:
            self._breath.out()

    def _obey(self, frame: Frame) -> None:
        if frame.command == "SUBSCRIBE" and "receipt" in frame.headers and self._outbox.owed:
            # Its RECEIPT must come before its first MESSAGE, which waits for no reply: so earlier replies go first.
            self._outbox.hold("subscribe")
            self._outbox.when_idle(lambda: self._obey_late(frame))
            return
        try:
            if self._state is _State.CONNECTING:
                self._connect(frame)
                return
            if frame.command in ("CONNECT", "STOMP"):
                raise Refused("already connected", "CONNECT is the first frame of a connection, and of no other use")
            if frame.command == "DISCONNECT":
                receipt = frame.headers.get("receipt")
                self._close(self._receipts([] if receipt is None else [receipt]))
                return
            assert self._session is not None
            outcome, receipts = self._session.obey(frame)
        except Exception as error:
            self._refuse(error, frame)
            return
        if outcome is not None:
            self._reply_after(outcome, frame, self._receipts(receipts))
        elif receipts:
            self._outbox.reply(self._receipts(receipts))

    def _reply_after(self, outcome: Deferred[Any], frame: Frame, receipts: bytes) -> None:
        promise = self._outbox.promise(len(frame.body))
        origin = Frame(frame.command, frame.headers)
        _ = outcome.addCallbacks(
            lambda _: promise.keep(receipts),
            lambda failure: self._refuse(failure.value, origin, promise=promise),
        )

    def _obey_late(self, frame: Frame) -> None:
        if self._state is _State.CONNECTED:
            self._obey(frame)
        self._outbox.free("subscribe")

    def _receipts(self, ids: Iterable[str]) -> bytes:
        return b"".join(self._encoded(Frame("RECEIPT", {"receipt-id": id})) for id in ids)

    def _encoded(self, frame: Frame) -> bytes:
        data = encode(frame, self._parser.dialect)
        return data + b"\n" if self._factory.terms.flavour.trailing_lf else data

    # -- CONNECT

    def _connect(self, frame: Frame) -> None:
        terms = self._factory.terms
        agreed = agree(frame, self.name, self.versions, terms.heart_beat_min, terms.heart_beat_max)
        headers, door = frame.headers, self._factory.door
        client = headers.get("client-id", "")
        login, passcode = headers.get("login", ""), headers.get("passcode", "")
        if door.open or not (login or passcode):
            self._enter(door.unnamed(self.transport), agreed, client)
            return
        entering = door.password(login, passcode, host_of(self.transport.getPeer()))
        if not entering.called:  # its hash is computed elsewhere; what the client says meanwhile waits
            self._outbox.hold("login")

        def refused(failure: Failure) -> None:
            assert failure.value is not None
            self._refuse(failure.value, Frame(frame.command, headers))

        _ = entering.addCallback(self._enter, agreed, client).addErrback(refused)
        _ = entering.addCallback(lambda _: self._outbox.free("login"))

    def _enter(self, access: Access | None, agreed: Agreed, client: str) -> None:
        """The client is who it says it is, or (None) is not."""
        if self._state is not _State.CONNECTING:
            return  # it is gone, or we stop
        if access is None:
            raise Refused("Access refused", "login and passcode are needed, and those of a user")
        access.enter(self._removed)
        self._access = access
        if client and self._factory.terms.flavour.client_ids == "alone":
            if client in self._factory.clients:
                raise Refused("Client id in use", f"another connection has client-id {client}", named=client)
            self._factory.clients[client] = self
        self.client = client
        self._stop_timers()
        self._state = _State.CONNECTED
        factory = self._factory
        self._parser.dialect, self._parser.limits = agreed.dialect, factory.limits
        self._parser.together = agreed.dialect.names_acks
        self._parser.heads = factory.heads.setdefault(agreed.dialect.version, Heads())
        self._session = Session(
            factory.broker,
            access,
            agreed.dialect,
            self._outbox,
            factory.tails,
            factory.terms,
            self.name,
            lambda refused: self._refuse(refused, Frame("")),
            client,
        )
        self._breath = Breath(
            self._session,
            self._outbox,
            trailing_lf=factory.terms.flavour.trailing_lf,
            refuse=self._refuse,
            reply_after=self._reply_after,
            goes_on=lambda: self._state is _State.CONNECTED,
        )
        self._outbox.reply(self._encoded(agreed.reply))
        self._heartbeat = Heartbeat(
            self._clock,
            agreed.beats,
            beat=lambda: self._outbox.write(b"\n"),
            expired=self._silent,
            reading=lambda: not self._outbox.holding,
            grace=factory.terms.heart_beat_grace,
        )
        self._log.info(
            "{name}: STOMP {version} from {peer}, user {user}",
            name=self.name,
            user=access.user.name,
            version=agreed.dialect.version,
            peer=self.transport.getPeer(),
        )

    def _removed(self) -> None:
        if self._state is _State.CONNECTED:
            self._refuse(Refused("Access refused", "the user was removed", fatal=True), Frame(""))

    def _late_login(self) -> None:
        self._timer = None
        self._log.info("{name}: no CONNECT in time, closing", name=self.name)
        self.transport.abortConnection()

    def _silent(self) -> None:
        self._log.info("{name}: no heart-beat in time, closing", name=self.name)
        self.transport.abortConnection()

    # -- the end

    def _refuse(self, error: BaseException, *refused_frames: Frame, promise: Promise | None = None) -> None:
        """Answer with an ERROR, in the place of the reply, and close unless the flavour lets the session go on.

        There each frame that is refused has one.

        Whatever was not foreseen is logged instead.
        """
        if self._state in (_State.LINGERING, _State.CLOSED):
            return
        refused = refusal(error)
        if refused is None:
            self._log.failure("{name}: processing a frame", Failure(error), name=self.name)
            refused = Refused("Processing error", f"The broker could not process the frame (session {self.name}).")
        else:
            self._log.info("{name}: refused: {message}", name=self.name, message=refused.message)
        flavour = self._factory.terms.flavour
        answer, *others = [self._encoded(error_frame(refused, frame, flavour)) for frame in refused_frames]
        keeps = flavour.on_error == "keep" and not refused.fatal
        if not keeps or self._state is not _State.CONNECTED:
            self.last_error = refused.code
            self._close(answer, promise)
        elif promise is not None:
            promise.keep(b"".join((answer, *others)))
        else:
            self._outbox.reply(answer)

    def _close(self, last: bytes = b"", promise: Promise | None = None) -> None:
        """Obey nothing more; write `last` once all earlier replies are written, then close."""
        self._state = _State.CLOSING
        self._stop_timers()
        if self._session is not None:
            self._session.pause()
        if promise is None:
            promise = self._outbox.promise()
        if self._outbox.last(promise, last):
            self._outbox.when_idle(self._linger)

    def _linger(self) -> None:
        """Everything is written. Settle what is in our send buffer once it is sent, then close our side."""
        if self._state is not _State.CLOSING:
            return
        self._state = _State.LINGERING
        self._timer = self._clock.callLater(self._factory.linger, self._linger_over)
        if self._session is not None and self._session.unsent:
            self._outbox.when_sent(self._close_write)
        else:
            self._close_write()

    def _close_write(self) -> None:
        if self._session is not None:
            self._session.end()
        self._outbox.close()
        transport = self.transport
        # TLS cannot close one half, and hands the attribute of the socket below it through: ask the class. Its own way
        # of closing waits for the peer's answer, and so lingers by itself.
        if self._read_lost or not hasattr(type(transport), "loseWriteConnection"):
            transport.loseConnection()
            return
        transport.resumeProducing()  # somebody may have held it
        transport.loseWriteConnection()

    def _linger_over(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def _stop_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def shut_down(self) -> None:
        """Close because we stop: replies owed are written, what is on loan goes back uncounted."""
        if self._state in (_State.CONNECTING, _State.CONNECTED):
            if self._session is not None:
                self._session.end(counted=False)
            self._close()
