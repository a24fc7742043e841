"""Requests as bytes arrive: twisted.web with a bound on what it keeps.

twisted.web keeps a body of any size and has no way to say no before it has come whole. Here a body is kept as far as a
message may reach; what goes a little further is read and dropped, so that the answer can be Linger's (400), and what
goes much further is refused at once (413).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES
from zope.interface import implementer

from broker.http import heads
from broker.http.channel import Channel
from broker.http.fields import Fields
from broker.http.problem import Problem

#: Bytes over the limit that are read and dropped before the connection is given up.
PATIENCE = 1024 * 1024

_SERVER = (b"Server", b"twisted-broker")


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
    requestHeaders: Fields

    #: Bytes of the body that came.
    received = 0
    #: Bytes of it that are kept.
    limit = 0
    #: True once it was answered before it had come whole.
    refused = False
    #: Called if the client goes before it was answered.
    left: Callable[[], None] | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.requestHeaders = Fields()

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; `length` is None for a body in chunks."""
        self.content = BytesIO()
        limits = self.channel.site.limits
        if length is not None and length <= limits.size:
            self.limit = limits.size  # no body may have less
            return
        kind = self.requestHeaders.said.content_type or ""
        path = self.channel.path.decode("latin-1").partition("?")[0]
        self.limit = limits.body(kind, path)
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
            return
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> None:
        """Have it answered. There is no tree of resources to go down, and nothing to say before: 30 us less."""
        self.site = self.channel.site
        self.render(self.site.resource)

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone."""
        super().connectionLost(reason)
        if self.left is not None:
            self.left()

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
        said = [(name, value) for name, values in self.responseHeaders.getAllRawHeaders() for value in values]
        said = [_SERVER, (b"Date", heads.date()), *said, *fields]
        if status in NO_BODY_CODES:
            body = b""
        else:
            said.append((b"Content-Length", b"%d" % len(body)))
        self.startedWriting = 1
        channel.send(self.clientproto, status, self.code_message, said, b"" if self.method == b"HEAD" else body)
        self.finish()
        if sent is not None:
            channel.when_sent(sent)

    def stream(self, fields: list[tuple[bytes, bytes]]) -> Flow:
        """Begin an answer without an end; what is written to the result goes out at once."""
        self.setResponseCode(200)
        for name, value in [_SERVER, *fields]:
            self.responseHeaders.addRawHeader(name, value)
        self.write(b"")
        return Flow(self)

    def processingFailed(self, reason: Failure) -> None:
        """Something went wrong outside of an endpoint: log it, and say no more than that."""
        self._log.failure("while answering {method} {path}", reason, method=self.method, path=self.path)
        if not self.startedWriting:
            self.answer(500, None, [(b"Content-Type", b"text/plain")], b"HTTP 500 Internal Server Error\n")
