"""The lean reactor: Twisted's epoll reactor with three system calls for a request and its reply where it has six.

What a TCP connection writes is kept until the reactor is about to sleep, and is then sent in one piece without asking
the kernel first whether there is room: there nearly always is, and where there is not the rest waits for epoll as it
always did. And a connection that can be read is read there and then, without a log context around it. Nothing else
differs: no protocol is called out of a write, what is paused stays paused, whoever closes sends first what it has
written; UNIX sockets, outgoing connections, listening ports and subprocesses have Twisted's own transports.

A server that does nothing but answer memcache sets takes 7 us of processor for each where it took 14; what each part is
worth of that stands beside it, and ``benchmarks/reactors.py`` measures the whole.

It overrides what is semi-private in Twisted, and so `broker.reactor` installs it with versions it was tested with only.
``tests/reactor`` runs the same checks on both reactors, and says of each private name what breaks without it.
"""

from __future__ import annotations

from enum import Enum, auto
from select import EPOLLIN
from typing import Any

from twisted.internet import tcp
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IListeningPort, IReadDescriptor, IWriteDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python import log

_log = Logger()

#: Bytes of one read. From 128 KiB on a read costs 15 us instead of 2.4: its buffer is mapped and unmapped.
READ = 64 * 1024


class Sending(Enum):
    """How what a connection wants to send gets out."""

    #: It wants nothing.
    IDLE = auto()
    #: The reactor has it in its list, and sends before it sleeps.
    GATHERED = auto()
    #: It is being sent.
    NOW = auto()
    #: The kernel had no room; epoll says when.
    POLLED = auto()


#: Looked up here and not in the class a few times per request.
_IDLE, _GATHERED, _NOW, _POLLED = Sending.IDLE, Sending.GATHERED, Sending.NOW, Sending.POLLED


class LeanReactor(EPollReactor):
    """Sends what is gathered before it sleeps, and reads `LeanServer` connections with nothing in between."""

    def __init__(self) -> None:
        #: Connections that began to want to send, in this order, since the reactor slept.
        self.gathered: list[LeanServer] = []
        super().__init__()

    # -- a pass

    def doPoll(self, timeout: float | None) -> None:
        """Send, sleep, and let be read and written what can be; one pass.

        To read a lean connection without a log context, and without looking at all it could be, is 2 us of the 14; the
        waker, by which a thread says that a commit is done, is read like that too: 15 calls of functions less.
        """
        if self.gathered:
            self._send()
            if timeout != 0:
                timeout = self._until(timeout)
        selectables, waker = self._selectables, self.waker
        for fd, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(fd)
            if event == EPOLLIN and (type(selectable) is LeanServer or selectable is waker):
                try:
                    why = selectable.doRead()
                except BaseException as error:
                    _log.failure("reading of {peer} failed", peer=selectable)
                    self._lose(selectable, error, False)
                else:
                    if why is not None:
                        self._lose(selectable, why, True)
            elif selectable is not None:
                log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)

    doIteration = doPoll

    def _send(self) -> None:
        """One send for each connection. What is written meanwhile waits for the next pass, so that this one ends."""
        gathered, self.gathered = self.gathered, []
        for one in gathered:
            if one.sending is not _GATHERED:
                continue  # it was closed, or stopped writing, or stands here twice
            one.sending = _NOW
            why: Any
            try:
                why = one.doWrite()
                if one.sending is _NOW and not why:
                    one.sending = _POLLED
                    self.addWriter(one)
            except BaseException as error:
                _log.failure("sending to {peer} failed", peer=one)
                why = error
            if why:
                self._lose(one, why, False)

    def _lose(self, one: LeanServer, why: BaseException, of_read: bool) -> None:
        """End a connection. Whatever its protocol makes of that, the others are served."""
        try:
            self._disconnectSelectable(one, why, of_read)
        except BaseException:
            _log.failure("the end of {peer} failed", peer=one)

    def _until(self, timeout: float | None) -> float | None:
        """How long it may sleep after sending, which called back who waited for it and may have set timers."""
        if self.gathered or not self.running:
            return 0
        due = self.timeout()
        return due if timeout is None or (due is not None and due < timeout) else timeout

    def stop(self) -> None:
        """Also when it is called on the way to sleep."""
        super().stop()
        self.wakeUp()

    # -- what is open

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Accept lean connections on a new port."""
        return _lean(super().listenTCP(port, factory, backlog, interface))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> IListeningPort:
        """Accept lean connections on a socket that listens, if it is one of TCP."""
        return _lean(super().adoptStreamPort(fileDescriptor, addressFamily, factory))

    def getWriters(self) -> list[IWriteDescriptor]:
        """Who wants to send, however it gets out."""
        return [*super().getWriters(), *self._gathered()]

    def removeAll(self) -> list[IReadDescriptor | IWriteDescriptor]:
        """Forget everybody but the reactor's own."""
        gathered = self._gathered()
        for one in gathered:
            one.sending = _IDLE
        return list(dict.fromkeys([*super().removeAll(), *gathered]))

    def _gathered(self) -> list[LeanServer]:
        return [one for one in dict.fromkeys(self.gathered) if one.sending is _GATHERED]


def _lean(port: Any) -> IListeningPort:
    """The port, which has not accepted anybody yet; a UNIX port keeps the transport of its own."""
    if port.transport is tcp.Server:
        port.transport = LeanServer
    return port


class LeanServer(tcp.Server):
    """A TCP connection that somebody made to us."""

    reactor: LeanReactor
    sending = _IDLE

    def startWriting(self) -> None:
        """Send soon: 5 us of the 14, three of six system calls, as epoll is not asked, told and asked to forget."""
        if self.sending is _IDLE:
            self.sending = _GATHERED
            self.reactor.gathered.append(self)

    def stopWriting(self) -> None:
        """Nothing is to be sent any more."""
        if self.sending is _POLLED:
            self.reactor.removeWriter(self)
        self.sending = _IDLE

    def doRead(self) -> ConnectionDone | ConnectionLost | None:  # type: ignore[override]
        """As in Twisted, flat."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        """As in Twisted, flat; what is rare goes there. With `doWrite` and `doRead` 1 us of the 14."""
        if self.TLS or type(data) is not bytes:
            super().write(data)
        elif data and self.connected and not self._writeDisconnected:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            if self.streamingProducer:
                self._maybePauseProducer()
            self.startWriting()

    def doWrite(self) -> BaseException | int | None:  # type: ignore[override]
        """Send what was written since the last time, if that is all there is to it; else as in Twisted."""
        written = self._tempDataBuffer
        if (
            not written
            or self.dataBuffer
            or self._tempDataLen > self.SEND_LIMIT
            or self.disconnecting
            or self._writeDisconnecting
        ):
            return super().doWrite()
        data = written[0] if len(written) == 1 else b"".join(written)
        try:
            sent = self.socket.send(data)
        except OSError:
            return super().doWrite()  # it knows what to make of it
        self._tempDataBuffer = []
        self._tempDataLen = 0
        if sent < len(data):
            self.dataBuffer, self.offset = data, sent
            return None
        self.stopWriting()
        producer = self.producer
        if producer is not None and (self.producerPaused or not self.streamingProducer):
            self.producerPaused = False
            producer.resumeProducing()  # type: ignore[attr-defined]
        return None
