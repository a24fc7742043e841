"""The HTTP server: takes requests apart, calls endpoints, puts answers together, and stops in order."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import server
from twisted.web.resource import Resource

from broker.auth.door import Access, Door, host_of
from broker.core.broker import Broker
from broker.core.survey import Surveyor
from broker.errors import BrokerError, Stopping
from broker.http import guard, problem, rights, routes
from broker.http.about import About
from broker.http.administration import Administration, Reload
from broker.http.call import Answer, Call, Limits
from broker.http.channels import Channels
from broker.http.counts import Counts
from broker.http.messages import Messages
from broker.http.metrics import Metrics
from broker.http.problem import Problem
from broker.http.request import Channel, Request
from broker.http.routes import Endpoint, Match
from broker.http.topics import Topics

#: Seconds without a byte after which a connection that owes us one is closed. Waiting for our answer does not count.
IDLE = 60

Endpoints = dict[Endpoint, Callable[[Call], Awaitable[Answer]]]


def make_site(
    broker: Broker,
    *,
    max_message_size: int | None = None,
    unready: Callable[[], str] = lambda: "",
    hosts: Collection[str] = (),
    identity: str = "",
    database: str | None = None,
    clock: IReactorTime | None = None,
    door: Door | None = None,
    reload: Reload | None = None,
) -> Site:
    """The factory of the HTTP front.

    `max_message_size` is in bytes; None means Linger's own limit of 256,000 characters or bytes. `unready` says
    for ``/readyz`` why no messages are taken now; empty: they are. `hosts` are further names under which the server may
    be spoken to and from whose pages. What `identity` and `database` say is shown by ``/`` and ``/stats``; without an
    identity there is a new one each start. `door` knows who may come in and what he may do; without one everybody may
    do everything. `reload` reads the broker's files again.
    """
    limits = Limits(max_message_size)
    counts = Counts()
    surveyor = Surveyor(broker)
    channels, topics, messages = Channels(broker, counts, surveyor), Topics(broker), Messages(broker)
    about = About(
        broker,
        surveyor,
        counts,
        unready=unready,
        identity=identity or uuid.uuid4().hex,
        database=database,
        size=limits.size,
    )
    endpoints: Endpoints = {
        Endpoint.WELCOME: about.welcome,
        Endpoint.CHANNELS: channels.names,
        Endpoint.TAKE: channels.take,
        Endpoint.PEEK: channels.peek,
        Endpoint.PUBLISH: channels.publish,
        Endpoint.PURGE: channels.purge,
        Endpoint.CHANNEL_STATS: channels.stats,
        Endpoint.CHANNEL_TOPICS: channels.topics,
        Endpoint.SUBSCRIBE: channels.subscribe,
        Endpoint.UNSUBSCRIBE: channels.unsubscribe,
        Endpoint.TOPICS: topics.names,
        Endpoint.PUBLISH_TO_TOPIC: topics.publish,
        Endpoint.TOPIC_CHANNELS: topics.channels,
        Endpoint.TOUCH: messages.touch,
        Endpoint.SETTLE: messages.settle,
        Endpoint.RELOAD: Administration(reload).reload,
        Endpoint.STATS: about.stats,
        Endpoint.METRICS: Metrics(surveyor).metrics,
        Endpoint.HEALTH: about.health,
        Endpoint.READY: about.readiness,
    }
    names = frozenset(host.lower() for host in hosts)
    return Site(endpoints, limits, names, clock or broker.clock, door or Door(broker))


class Site(server.Site):
    """All connections of one listener or several."""

    _log = Logger()

    protocol = Channel  # type: ignore[assignment]  # it is called without arguments either way
    requestFactory = Request

    def __init__(
        self, endpoints: Endpoints, limits: Limits, hosts: Collection[str], clock: IReactorTime, door: Door
    ) -> None:
        super().__init__(_Root(self), reactor=clock, timeout=IDLE, parsePOSTFormSubmission=False)
        self.endpoints = endpoints
        self.limits = limits
        self.hosts = hosts
        self.door = door
        self.stopping = False
        #: Long polls; ended first when we stop.
        self.waits: set[Deferred[Any]] = set()
        #: The connections that are open.
        self.channels: set[Channel] = set()

    def connected(self, channel: Channel) -> None:
        """A connection is there."""
        self.channels.add(channel)

    def disconnected(self, channel: Channel) -> None:
        """A connection is gone."""
        self.channels.discard(channel)

    def drain(self) -> None:
        """Serve nothing more but ``/healthz`` and ``/readyz``; connections end once they owe nothing.

        Who waits gets 503: an early 204 would make Linger's client believe its connection broken. Called when the last
        port is closed; it may be called earlier.
        """
        self.stopping = True
        for waiting in list(self.waits):
            waiting.cancel()
        for channel in list(self.channels):
            channel.end()

    def startFactory(self) -> None:
        """The first port is open. No access log is: a line per request is too much, as is a tick per second for it."""
        self.stopping = False

    def stopFactory(self) -> None:
        """The last port is closed."""
        self.drain()

    def log(self, request: Any) -> None:
        """A request was answered."""
        self._log.debug("{method} {path}: {status}", method=request.method, path=request.path, status=request.code)

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/2 would need bounds of its own."""
        return [b"http/1.1"]


class _Root(Resource):
    """Where twisted.web hands a request over; the route table does the rest."""

    isLeaf = True
    _log = Logger()

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site

    def render(self, request: Request) -> int:
        """Answer, now or later."""
        _ = Deferred.fromCoroutine(self._serve(request)).addErrback(request.processingFailed)
        return server.NOT_DONE_YET

    async def _serve(self, request: Request) -> None:
        gone = False

        def leave(reason: object) -> None:
            nonlocal gone
            gone = True
            if call is not None:
                call.leave()

        call: Call | None = None
        _ = request.notifyFinish().addErrback(leave)
        method, path = request.method.decode("ascii"), _path(request)
        answer: Answer | None = None
        try:
            match = self._match(request, method, path)
            access = await self._access(request, match.endpoint)
            if gone:
                return  # while its password was verified
            call = self._call(request, method, match, access)
            rights.check(call)
            answer = await self._site.endpoints[match.endpoint](call)
        except Problem as raised:
            trouble = raised
        except BrokerError as error:
            trouble = problem.of(error)
        except Exception:
            self._log.failure("while answering {method} {path}", method=method, path=path)
            trouble = Problem(500, "internal")
        if gone:
            return
        request.setHeader(b"Server", b"twisted-broker")
        if self._site.stopping:
            request.setHeader(b"Connection", b"close")
        if answer is not None:
            request.answer(answer.status, None, answer.fields, answer.body)
        else:
            rendered = problem.render(trouble, request.header("accept") or "", path)
            challenges = rights.CHALLENGES if rendered.status == 401 else []
            request.answer(rendered.status, rendered.reason, rendered.headers + challenges, rendered.body)

    def _match(self, request: Request, method: str, path: str) -> Match:
        site = self._site
        bound = getattr(request.getHost(), "host", "")  # a Unix socket has none
        guard.check(request.header("host"), request.header("origin"), bound, site.hosts)
        return routes.resolve(method, path)

    async def _access(self, request: Request, endpoint: Endpoint) -> Access:
        """What the sender may do."""
        if endpoint in rights.PROBES:
            return self._site.door.nobody
        fields = request.requestHeaders.getRawHeaders("authorization") or []
        return await rights.identify(self._site.door, fields, host_of(request.getClientAddress()))

    def _call(self, request: Request, method: str, match: Match, access: Access) -> Call:
        site = self._site
        if site.stopping and match.endpoint not in rights.PROBES:
            raise Stopping("The broker is stopping.")
        return Call(
            method=method,
            match=match,
            access=access,
            query=request.uri.partition(b"?")[2],
            headers=list(request.requestHeaders.getAllRawHeaders()),
            body=request.content.getvalue(),
            received=request.received,
            limits=site.limits,
            waits=site.waits,
        )


def _path(request: Request) -> str:
    """The path as it came; without scheme and host, if a proxy's client sent them (RFC 9112, 3.2.2)."""
    path = request.path.decode("latin-1")
    if path.startswith(("http://", "https://")):
        path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    return path
