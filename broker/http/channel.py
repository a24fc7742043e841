"""A connection as bytes arrive: twisted.web with an orderly end, and a short way for what is common.

A request that comes in one piece with nothing unusual about it is read here; everything else goes through twisted.web,
line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress, IDelayedCall, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from broker.auth.door import Access
from broker.hello import TLS_HELLO, refuse
from broker.http import heads
from broker.http.problem import Problem, render

if TYPE_CHECKING:
    from broker.http.server import Site

#: Seconds a refused client may go on sending before it is cut off; while it sends, it cannot read why.
LINGERING = 10.0
#: Seconds in which a request must have come whole. 8 MiB do at 30 kB/s.
SLOWEST = 300
#: Seconds between two looks at what is still in the send buffer.
_GLANCE = 0.005
#: Heads of which a connection knows that they are for us: of a POST, of a GET and a DELETE, and of a POST of JSON.
_WELCOME = 3
#: Bytes of a body that are copied to be in one write with their head.
_TOGETHER = 16 * 1024


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
    #: Notices when nothing comes for long.
    _alarm: IDelayedCall | None = None
    #: Since when nothing came.
    _idle_since = 0.0
    #: False: every line goes through twisted.web, so that somebody may see it.
    short_way = True
    #: What he may do who sent the last request.
    access: Access | None = None

    def connectionMade(self) -> None:
        #: Asked of the kernel once, not for each request.
        self._peer, self._host = self.transport.getPeer(), self.transport.getHost()
        super().connectionMade()
        #: Fields of the last requests that were for us, by their identity.
        self._welcome: dict[int, Headers] = {}
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
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.access is not None:
            self.access.leave(self._removed)
        self.site.disconnected(self)
        self._log.info("{peer} left after {answered} requests", peer=self.getPeer(), answered=self.answered)

    def getPeer(self) -> IAddress:
        """Whose connection this is."""
        return self._peer

    def getHost(self) -> IAddress:
        """Where it came in."""
        return self._host

    def welcome(self, fields: Headers, check: Callable[[], None]) -> None:
        """Have `check` raise what is against these fields. Those that are shared by many requests it sees once."""
        if self._welcome.get(id(fields)) is fields:
            return
        check()
        if len(self._welcome) == _WELCOME:
            self._welcome.clear()
        self._welcome[id(fields)] = fields

    def identified(self, access: Access) -> None:
        """A request was sent by whom `access` is of; the connection is his then. `OverLimit` if he has too many."""
        before = self.access
        if before is None or before.user is not access.user:
            access.enter(self._removed)
            self.access = access
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
        if self.line_mode and self.head is None and self._came_whole(data):
            return
        if self.head and not self.overlong and self.site.clock.seconds() - self._begun > SLOWEST:
            self.overlong = True
            self.setRawMode()
            self.refuse(Problem(408, "too-slow", f"The request did not come whole in {SLOWEST} seconds."))
        if self.head is None and not self.answered and data.startswith(TLS_HELLO) and not self.requests:
            refuse(self.transport, self._log, "HTTP")
            return
        super().dataReceived(data)

    def _came_whole(self, data: bytes) -> bool:
        """True if `data` was one whole request, which is being answered then: 45 us less than line by line."""
        end = data.find(b"\r\n\r\n", 0, heads.LONGEST)
        if end < 0 or self._buffer or self._busyReceiving or self.paused or not self.persistent or self.closing:
            return False
        line, _, block = data[:end].partition(b"\r\n")
        asked, head = heads.request_line(line), heads.read(block)
        if asked is None or head is None or len(data) != end + 4 + head.length or not self.short_way:
            return False
        request = self.site.requestFactory(self)
        self.requests.append(request)
        request.requestHeaders = head.fields
        self.persistent = not self.site.stopping
        self.head = line
        request.gotLength(head.length)
        self.head = None
        if head.length:
            request.handleContentChunk(data[end + 4 :])
        # from here on as in allContentReceived
        if self.timeOut:
            self._savedTimeOut = self.setTimeout(None)
        self._handlingRequest = True
        self.setRawMode()
        request.requestReceived(asked[0], asked[1], b"HTTP/1.1")
        return True

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
        if self._dataBuffer or self._waitingForTransport or not self.persistent or request is not self.requests[0]:
            super().requestDone(request)
            return
        # the same where nothing came meanwhile, so that reading was not paused: 4 us less
        del self.requests[0]
        self._handlingRequest = False
        if self._savedTimeOut:
            self.setTimeout(self._savedTimeOut)
        self.setLineMode()

    # -- idle time: one timer for a connection, that looks when it is due, is 12 us less than one for each request

    def setTimeout(self, period: int | None) -> int | None:
        """Close after so many seconds in which nothing comes; None: however long that lasts. What held before."""
        before, self.timeOut = self.timeOut, period
        self.resetTimeout()
        if period is not None and self._alarm is None:
            self._alarm = self.callLater(period, self._ring)
        return before

    def resetTimeout(self) -> None:
        """Something came."""
        self._idle_since = self.site.clock.seconds()

    def _ring(self) -> None:
        self._alarm = None
        if self.timeOut is None:
            return
        left = self._idle_since + self.timeOut - self.site.clock.seconds()
        if left > 0:
            self._alarm = self.callLater(left, self._ring)
        else:
            self.timeoutConnection()

    # -- answers

    def send(
        self, version: bytes, status: int, reason: bytes, fields: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """A whole answer, in one write: 25 us less than through the headers of twisted.web."""
        head = heads.written(version, status, reason, fields)
        if len(body) <= _TOGETHER:
            self.transport.write(head + body)
        else:
            self.transport.writeSequence([head, body])

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """The head of an answer that goes out in pieces."""
        if not headers.hasHeader(b"Date"):
            headers.setRawHeaders(b"Date", [heads.date()])
        super().writeHeaders(version, code, reason, headers)

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
