"""Requests as bytes arrive: twisted.web with a bound on what it keeps, and an orderly end.

twisted.web keeps a body of any size and has no way to say no before it has come whole. Here a body is kept as far as a
message may reach; what goes a little further is read and dropped, so that the answer can be Linger's (400), and what
goes much further is refused at once (413).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from zope.interface import implementer

from broker.auth.door import Access
from broker.hello import TLS_HELLO, refuse
from broker.http.fields import Fields
from broker.http.metadata import content_type
from broker.http.problem import Problem, render

if TYPE_CHECKING:
    from broker.http.server import Site

#: Bytes over the limit that are read and dropped before the connection is given up.
PATIENCE = 1024 * 1024
#: Seconds a refused client may go on sending before it is cut off; while it sends, it cannot read why.
LINGERING = 10.0
#: Seconds in which a request must have come whole. 8 MiB do at 30 kB/s.
SLOWEST = 300
#: Seconds between two looks at what is still in the send buffer.
_GLANCE = 0.005


class Channel(http.HTTPChannel):
    """One connection. HTTP/1.1 only."""

    _log = Logger()

    site: Site
    transport: Any
    #: Requests answered.
    answered = 0
    #: The request line of the request that comes in; None between requests.
    head: bytes | None = None
    #: True once the connection is.
    gone = False
    #: A line was too long, or the request too slow: nothing is read any more.
    overlong = False
    #: When the request that comes in began to.
    _begun = 0.0
    _cut: IDelayedCall | None = None
    #: What he may do who sent the last request.
    _access: Access | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        #: What to call if the answers in our send buffer never leave it.
        self._expected: list[Callable[[], None]] = []
        if ITCPTransport.providedBy(self.transport):
            # a client may wait two minutes without a byte; one that vanished must be noticed some time
            self.transport.setTcpKeepAlive(True)
        self.site.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        for lost in self._expected if self.unsent else ():
            lost()
        self._expected.clear()
        if self._cut is not None and self._cut.active():
            self._cut.cancel()
        super().connectionLost(reason)
        if self._access is not None:
            self._access.leave(self._removed)
        self.site.disconnected(self)
        self._log.info("{peer} left after {answered} requests", peer=self.getPeer(), answered=self.answered)

    def identified(self, access: Access) -> None:
        """A request was sent by whom `access` is of; the connection is his then. `OverLimit` if he has too many."""
        before = self._access
        if before is None or before.user is not access.user:
            access.enter(self._removed)
            self._access = access
            if before is not None:
                before.leave(self._removed)

    def _removed(self) -> None:
        """Its user is no user any more: what he waits for, or reads, ends. What he asks from now on is 401."""
        if self.requests:
            self.transport.abortConnection()

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        return super().checkPersistence(request, version) and not self.site.stopping

    def pauseProducing(self) -> None:
        """The client does not take our answers: begin nothing more of what it asked, and read no more, until it does.

        twisted.web goes on with what it has read, and with reading if it was in the middle of an answer.
        """
        super().pauseProducing()
        self.paused = True
        self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """The client has taken our answers."""
        super().resumeProducing()
        if self.closing:
            return  # a stream that was too slow has ended
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        """Something came; what comes drop by drop, so that the connection is never idle, is cut off all the same."""
        if self.head and not self.overlong and self.site.clock.seconds() - self._begun > SLOWEST:
            self.overlong = True
            self.setRawMode()
            self.refuse(Problem(408, "too-slow", f"The request did not come whole in {SLOWEST} seconds."))
        if self.head is None and not self.answered and data.startswith(TLS_HELLO) and not self.requests:
            refuse(self.transport, self._log, "HTTP")
            return
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """A line of the head: the first one is the request line."""
        if self.head is None or not self.head:
            self.head, self._begun = line, self.site.clock.seconds()
        super().lineReceived(line)

    @property
    def path(self) -> bytes:
        """The path of the request that comes in, with its query."""
        return (self.head or b"  ").split(b" ", 2)[1]

    def allContentReceived(self) -> None:
        self.head = None
        super().allContentReceived()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Too long a line to be read whole; twisted.web would close without a word."""
        if self.requests and self.head is None:
            self.loseConnection()  # an earlier answer is still owed, and must come first
            return
        self.setRawMode()
        self.overlong = True
        first = not self.head
        status = 414 if first else 431
        what = "The request line" if first else "A header line"
        self.refuse(Problem(status, "too-long", f"{what} is longer than {self.MAX_LENGTH} bytes."))

    def rawDataReceived(self, data: bytes) -> None:
        """The body; of who was refused nothing is read any more."""
        if not self.overlong:
            super().rawDataReceived(data)

    def requestDone(self, request: http.Request) -> None:
        self.answered += 1
        super().requestDone(request)

    def refuse(self, problem: Problem) -> None:
        """Answer a request that has not come whole, and close once the client has stopped sending."""
        headers = self.requests[-1].requestHeaders if self.requests else None
        accept = ",".join((headers.getRawHeaders("accept") if headers is not None else None) or [])
        answer = render(problem, accept)
        fields = [*answer.headers, (b"Content-Length", b"%d" % len(answer.body)), (b"Connection", b"close")]
        self.transport.writeSequence(
            [
                b"HTTP/1.1 %d %s\r\n" % (answer.status, answer.reason),
                *(b"%s: %s\r\n" % field for field in fields),
                b"\r\n",
                answer.body,
            ]
        )
        self.cut_later()
        if ITCPTransport.providedBy(self.transport):
            # It sees the end at once, and may finish what it sends. TLS cannot close one half, and hands the attribute
            # of the socket below it through: ask the class.
            if hasattr(type(self.transport), "loseWriteConnection"):
                self.transport.loseWriteConnection()
            else:
                self.loseConnection()

    @property
    def closing(self) -> bool:
        """True once we have said that we close."""
        return bool(getattr(self.transport, "disconnecting", False))

    @property
    def unsent(self) -> bool:
        """True while something is in our send buffer."""
        transport = self.transport
        return bool(getattr(transport, "dataBuffer", b"") or getattr(transport, "_tempDataBuffer", ()))

    def expect(self, lost: Callable[[], None] | None) -> None:
        """An answer is about to be written; `lost` is called if the connection ends before it is out."""
        if not self.unsent:
            self._expected.clear()
        if lost is not None:
            self._expected.append(lost)

    def when_sent(self, call: Callable[[bool], None]) -> None:
        """Call with True once all that was written has left our send buffer, with False if the client went before."""
        if not self.unsent:
            call(True)  # also if the connection was closed since, as one is that does not persist
        elif self.gone:
            call(False)
        else:
            self.callLater(_GLANCE, lambda: self.when_sent(call))

    def cut_later(self) -> None:
        """Give the client some time to take the rest, and go then."""
        self._cut = self.callLater(LINGERING, self.transport.abortConnection)

    def end(self) -> None:
        """Close as soon as nothing is owed; who was refused is owed nothing."""
        if self.requests and self._cut is None:
            self.persistent = 0
        elif not self.closing:
            self.loseConnection()


@implementer(IPushProducer)
class Flow:
    """An endless answer on its way: tells whoever writes it when the client takes no more."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.flow: Callable[[bool], None] = lambda goes_on: None
        request.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Send a part."""
        self._request.write(data)

    def end(self) -> None:
        """It is over, and the connection with it; a client that takes nothing is not waited for long."""
        channel = self._request.channel
        self._request.unregisterProducer()
        channel.persistent = 0
        self._request.finish()
        if channel.unsent:
            channel.cut_later()

    def pauseProducing(self) -> None:
        """Our send buffer is full."""
        self.flow(False)

    def resumeProducing(self) -> None:
        """The client has taken it."""
        self.flow(True)

    def stopProducing(self) -> None:
        """The client is gone; its request says so to all others."""


class Request(server.Request):
    """One request, with its body as far as it is worth keeping."""

    channel: Channel
    content: BytesIO

    #: Bytes of the body that came.
    received = 0
    #: Bytes of it that are kept.
    limit = 0
    #: True once it was answered before it had come whole.
    refused = False

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.requestHeaders = Fields()

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; `length` is None for a body in chunks."""
        self.content = BytesIO()
        kind = content_type(self.requestHeaders.getAllRawHeaders()) or ""
        path = self.channel.path.decode("latin-1").partition("?")[0]
        self.limit = self.channel.site.limits.body(kind, path)
        if length is not None and length > self.limit + PATIENCE:
            # "100 Continue" would ask for it
            self.requestHeaders.removeHeader(b"Expect")
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Some more of the body."""
        if self.refused:
            return
        self.received += len(data)
        if self.received <= self.limit:
            self.content.write(data)
        elif self.received <= self.limit + PATIENCE:
            self.content = BytesIO()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self.refused = True
        self.content = BytesIO()
        size = self.channel.site.limits.size
        self.channel.refuse(Problem(413, "too-large", f"The maximum allowed message size is {size} bytes."))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        if self.refused:
            self.channel.loseConnection()
        else:
            super().requestReceived(command, path, version)

    def header(self, name: str) -> str | None:
        """The last header of this name, as text."""
        value: str | None = self.getHeader(name)
        return value

    def answer(
        self,
        status: int,
        reason: bytes | None,
        fields: list[tuple[bytes, bytes]],
        body: bytes,
        sent: Callable[[bool], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        """Answer, whole. `sent` is called once it has left our send buffer, or with False if it never will.

        `lost` is called only if it never will.
        """
        channel = self.channel
        channel.expect(lost)
        self.setResponseCode(status, reason)
        for name, value in fields:
            self.responseHeaders.addRawHeader(name, value)
        if status not in http.NO_BODY_CODES:
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()
        if sent is not None:
            channel.when_sent(sent)

    def stream(self, fields: list[tuple[bytes, bytes]]) -> Flow:
        """Begin an answer without an end; what is written to the result goes out at once."""
        self.setResponseCode(200)
        for name, value in fields:
            self.responseHeaders.addRawHeader(name, value)
        self.write(b"")
        return Flow(self)

    def processingFailed(self, reason: Failure) -> None:
        """Something went wrong outside of an endpoint: log it, and say no more than that."""
        self._log.failure("while answering {method} {path}", reason, method=self.method, path=self.path)
        if not self.startedWriting:
            self.answer(500, None, [(b"Content-Type", b"text/plain")], b"HTTP 500 Internal Server Error\n")
