"""The HTTP server: takes requests apart, calls endpoints, puts answers together, and stops in order."""

from __future__ import annotations

import uuid
from collections import Counter
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
from broker.debug import Levels
from broker.errors import BrokerError, Stopping
from broker.http import guard, problem, rights, routes
from broker.http.about import About
from broker.http.administration import Administration, Reload, Upgrade, no_upgrade
from broker.http.call import Answer, Call, Cancellable, Limits, Stream
from broker.http.channel import Channel
from broker.http.channels import Channels
from broker.http.commit import Commit
from broker.http.consuming import Consuming
from broker.http.counts import Counts
from broker.http.debugging import Debugging
from broker.http.lineage import Lineage
from broker.http.looking import Looking
from broker.http.metrics import Metrics
from broker.http.openapi import OpenAPI
from broker.http.problem import Problem
from broker.http.problems import Problems
from broker.http.publishing import Publishing
from broker.http.replays import Replays
from broker.http.request import Request
from broker.http.routes import Endpoint, Match
from broker.http.settings import Save, Settings
from broker.http.sources import Sources
from broker.http.streams import Streams
from broker.http.topics import Topics
from broker.http.workers import Workers
from broker.status import ServerStatus
from broker.tap import Taps

#: Seconds without a byte after which a connection that owes us one is closed. Waiting for our answer does not count.
IDLE = 60

Endpoints = dict[Endpoint, Callable[[Call], Awaitable[Answer | Stream]]]


async def _forget(said: object) -> None:
    """Keep nothing: what is configured is gone when the broker ends."""


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
    upgrade: Upgrade = no_upgrade,
    save: Save = _forget,
    levels: Levels | None = None,
    status: ServerStatus | None = None,
    taps: Taps | None = None,
) -> Site:
    """The factory of the HTTP front.

    `max_message_size` is in bytes; None means Linger's own limit of 256,000 characters or bytes. `unready` says
    for ``/readyz`` why no messages are taken now; empty: they are. `hosts` are further names under which the server may
    be spoken to and from whose pages. What `identity` and `database` say is shown by ``/`` and ``/stats``; without an
    identity there is a new one each start. `door` knows who may come in and what he may do; without one everybody may
    do everything. `reload` reads the broker's files again; `upgrade` has a new process take over; `save` keeps what is
    configured here. `levels` say what is logged, `status` is that of all listeners,
    `taps` are what can be traced.
    """
    limits = Limits(max_message_size)
    counts = Counts()
    surveyor = Surveyor(broker)
    channels, topics, sources = Channels(broker, counts, surveyor), Topics(broker), Sources(broker)
    workers = Workers()
    consuming, looking = Consuming(broker, counts, workers), Looking(broker, surveyor, workers)
    publishing = Publishing(broker)
    levels = levels or Levels()
    status = status or ServerStatus(broker.clock, enforce=broker.status.become)
    streams, settings = Streams(broker), Settings(broker, save, status)
    replays = Replays(broker)
    administration = Administration(reload, upgrade)
    debugging = Debugging(levels, taps or Taps(broker.clock, broker.watching.watch), clock or broker.clock)
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
        Endpoint.TAKE: consuming.take,
        Endpoint.PEEK: consuming.peek,
        Endpoint.PUBLISH: publishing.publish,
        Endpoint.PURGE: channels.purge,
        Endpoint.CHANNEL_STATS: channels.stats,
        Endpoint.CHANNEL_TOPICS: sources.topics,
        Endpoint.SUBSCRIBE: sources.bind,
        Endpoint.UNSUBSCRIBE: sources.unbind,
        Endpoint.SOURCES: sources.sources,
        Endpoint.BIND: sources.bind,
        Endpoint.UNBIND: sources.unbind,
        Endpoint.BROWSE: looking.messages,
        Endpoint.PUBLISH_BATCH: publishing.batch,
        Endpoint.LEASE: consuming.lease,
        Endpoint.STREAM: streams.channel,
        Endpoint.CHANNEL_CONSUMERS: looking.consumers,
        Endpoint.CHANNEL_CONFIG: settings.show,
        Endpoint.SET_CHANNEL_CONFIG: settings.put,
        Endpoint.CHANGE_CHANNEL_CONFIG: settings.patch,
        Endpoint.PAUSE: settings.pause,
        Endpoint.RESUME: settings.resume,
        Endpoint.TOPICS: topics.names,
        Endpoint.PUBLISH_TO_TOPIC: publishing.publish_to_topic,
        Endpoint.TOPIC_CHANNELS: topics.channels,
        Endpoint.TOPIC_LOG: looking.log,
        Endpoint.TOPIC_STREAM: streams.topic,
        Endpoint.TOPIC_CONFIG: settings.show,
        Endpoint.SET_TOPIC_CONFIG: settings.put,
        Endpoint.CHANGE_TOPIC_CONFIG: settings.patch,
        Endpoint.MESSAGE: looking.message,
        Endpoint.SETTLE: consuming.settle,
        Endpoint.TOUCH: consuming.touch,
        Endpoint.NACK: consuming.nack,
        Endpoint.COMMIT: Commit(broker).commit,
        Endpoint.LINEAGE: Lineage(broker, surveyor).show,
        Endpoint.CONSUMERS: looking.consumers,
        Endpoint.REPLAYS: replays.all,
        Endpoint.BEGIN_REPLAY: replays.create,
        Endpoint.REPLAY: replays.show,
        Endpoint.CHANGE_REPLAY: replays.change,
        Endpoint.END_REPLAY: replays.cancel,
        Endpoint.DEFINITIONS: settings.export,
        Endpoint.APPLY_DEFINITIONS: settings.apply,
        Endpoint.DRAIN: settings.drain,
        Endpoint.RESUME_ALL: settings.resume_all,
        Endpoint.OPENAPI: OpenAPI().show,
        Endpoint.PROBLEM: Problems().show,
        Endpoint.RELOAD: administration.reload,
        Endpoint.UPGRADE: administration.upgrade,
        Endpoint.STATUS: settings.status,
        Endpoint.SET_STATUS: settings.set_status,
        Endpoint.DEBUG: debugging.show,
        Endpoint.SET_LOG_LEVEL: debugging.set_level,
        Endpoint.STACK: debugging.stack,
        Endpoint.TRACE: debugging.trace,
        Endpoint.STATS: about.stats,
        Endpoint.METRICS: Metrics(surveyor).metrics,
        Endpoint.HEALTH: about.health,
        Endpoint.READY: about.readiness,
    }
    names = frozenset(host.lower() for host in hosts)
    return Site(endpoints, limits, names, clock or broker.clock, door or Door(broker), levels)


class Site(server.Site):
    """All connections of one listener or several."""

    _log = Logger()

    protocol = Channel  # type: ignore[assignment]  # it is called without arguments either way
    requestFactory = Request

    def __init__(
        self,
        endpoints: Endpoints,
        limits: Limits,
        hosts: Collection[str],
        clock: IReactorTime,
        door: Door,
        levels: Levels,
    ) -> None:
        super().__init__(_Root(self), reactor=clock, timeout=IDLE, parsePOSTFormSubmission=False)
        self.clock = clock
        self.endpoints = endpoints
        self.limits = limits
        self.hosts = hosts
        self.door = door
        self.levels = levels
        self._namespace = self._log.namespace  # each look at a logger makes one
        self.stopping = False
        #: Long polls; ended first when we stop.
        self.waits: set[Cancellable] = set()
        #: How many requests wait for each user.
        self.waiting_of: Counter[str] = Counter()
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
        """A request was answered. A line that nobody reads cost 6 us."""
        if self.levels.debugs(self._namespace):
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

        def leave() -> None:
            nonlocal gone
            gone = True
            if call is not None:
                call.leave()

        call: Call | None = None
        request.left = leave
        method, path = request.method.decode("ascii"), _path(request)
        answer: Answer | Stream | None = None
        trouble: Problem | None = None
        try:
            match = self._match(request, method, path)
            access = await self._access(request, match.endpoint)
            if gone:
                return  # while its password was verified
            request.channel.identified(access)
            call = self._call(request, method, match, access)
            rights.check(call)
            answer = await self._site.endpoints[match.endpoint](call)
            if isinstance(answer, Stream):
                call.admit()
        except Problem as raised:
            answer, trouble = None, raised
        except BrokerError as error:
            trouble = problem.of(error)
        except Exception:
            self._log.failure("while answering {method} {path}", method=method, path=path)
        if gone:
            if isinstance(answer, Answer) and answer.sent is not None:
                answer.sent(False)
            if isinstance(answer, Answer) and answer.lost is not None:
                answer.lost()
            return
        if self._site.stopping:
            request.setHeader(b"Connection", b"close")
        if isinstance(answer, Stream) and call is not None:
            await self._stream(request, call, answer)
        elif isinstance(answer, Answer):
            request.answer(answer.status, None, answer.fields, answer.body, answer.sent, answer.lost)
        else:
            rendered = problem.render(trouble or Problem(500, "internal"), request.header("accept") or "", path)
            challenges = rights.CHALLENGES if rendered.status == 401 else []
            request.answer(rendered.status, rendered.reason, rendered.headers + challenges, rendered.body)

    async def _stream(self, request: Request, call: Call, stream: Stream) -> None:
        """Write an endless answer until it ends, the client goes, or we stop."""
        sink = request.stream(stream.fields)
        try:
            await call.wait(stream.run(sink))
        except (Stopping, Problem):
            pass  # what was written stands; the connection ends
        except BrokerError as error:
            self._log.error("a stream ended: {reason}", reason=error.reason)
        if not call.gone:
            sink.end()

    def _match(self, request: Request, method: str, path: str) -> Match:

        def check() -> None:
            bound = getattr(request.getHost(), "host", "")  # a Unix socket has none
            guard.check(request.header("host"), request.header("origin"), bound, self._site.hosts)

        request.channel.welcome(request.requestHeaders, check)
        return routes.resolve(method, path)

    async def _access(self, request: Request, endpoint: Endpoint) -> Access:
        """What the sender may do."""
        if endpoint in rights.PROBES:
            return self._site.door.nobody
        if self._site.door.open and (anybody := request.channel.access) is not None:
            return anybody  # as before
        fields = request.requestHeaders.getRawHeaders("authorization") or []
        address = host_of(request.getClientAddress())
        return await rights.identify(self._site.door, fields, address, request.channel.transport)

    def _call(self, request: Request, method: str, match: Match, access: Access) -> Call:
        site = self._site
        if site.stopping and match.endpoint not in rights.PROBES:
            raise Stopping("The broker is stopping.")
        return Call(
            method=method,
            match=match,
            access=access,
            query=request.uri.partition(b"?")[2],
            said=request.requestHeaders.said,
            body=request.content.getvalue(),
            received=request.received,
            limits=site.limits,
            waits=site.waits,
            waiting_of=site.waiting_of,
        )


def _path(request: Request) -> str:
    """The path as it came; without scheme and host, if a proxy's client sent them (RFC 9112, 3.2.2)."""
    path = request.path.decode("latin-1")
    if path.startswith(("http://", "https://")):
        path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    return path
