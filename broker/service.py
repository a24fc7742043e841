"""``twistd broker``: its options, and the one page on which the broker is wired, opened and closed, in order.

`makeService` checks all it can and ends the process with one line if something is wrong, in the foreground and before
going to the background alike. The store is opened afterwards, in `BrokerService.startService`, so that no database
handle crosses the daemon's fork, and nothing is accepted before it is open.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import attrs
from twisted.application import service
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorSocket,
    IReactorTime,
)
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import FilteringLogObserver, ILogObserver, Logger
from twisted.python import usage
from twisted.scripts._twistd_unix import UnixAppLogger
from twisted.web.http import Request

from broker import __version__, busy
from broker.audit import Audit, nothing
from broker.auth.door import Door
from broker.auth.limits import Arrivals
from broker.auth.users import HashingThreads, Users
from broker.config import MEMORY, Config, HttpListener, MemcacheListener, StompListener, Where
from broker.core.broker import Broker
from broker.core.level import Level
from broker.core.stats import FrontStats
from broker.core.store import IStore
from broker.debug import Levels, on_quit
from broker.errors import BrokerError, ConfigError
from broker.gate import Gate, Wrapped
from broker.hello import shown
from broker.http import guard
from broker.http import tapped as http_tapped
from broker.http.administration import Upgrade, no_upgrade
from broker.http.problem import Problem
from broker.http.server import Site, make_site
from broker.listen import Bound, Connections, Described, InUse, Place, Way, parse
from broker.lock import Lock
from broker.logs import begin_anew, bounded, in_json
from broker.memcache import tapped as memcache_tapped
from broker.memcache.dialect import DIALECTS
from broker.memcache.server import MemcacheFactory
from broker.notify import Notifier
from broker.options import Options
from broker.proxy import Proxied, Trusted
from broker.reactor import install
from broker.reload import Reloading
from broker.settings import Settings
from broker.status import ServerStatus, StatusFile
from broker.stomp import tapped as stomp_tapped
from broker.stomp.flavour import FLAVOURS
from broker.stomp.server import StompFactory
from broker.stomp.upgrade import WebSockets
from broker.stomp.wishes import Terms
from broker.storage.memory import MemoryStore
from broker.storage.sqlite import SQLiteStore
from broker.succession import Estate, Left, take
from broker.tap import Connection, Taps, Watch
from broker.tls import Certificates, Secured, check_place
from broker.tracing import TracedBroker, Tracing, provider, wanted
from broker.unix import UnixPath, UnixWay
from broker.upgrade import Generations

#: The fronts, in the order they open, and the ports they have on 127.0.0.1 unless told otherwise.
DEFAULT_PORTS = {"memcache": 22122, "stomp": 61613, "http": 8989}
NAMES = {"memcache": "memcache", "stomp": "STOMP", "http": "HTTP"}
#: What shows what passes over a connection of each.
WATCHES: dict[str, Watch] = {
    "memcache": memcache_tapped.watch,
    "stomp": stomp_tapped.watch,
    "http": http_tapped.watch,
}
#: What open requests get to end when the broker stops (s). Whoever reads its replies more slowly is cut off.
GRACE = 5.0

#: New objects until Python looks for garbage in cycles; its own 700 come with every second commit. Messages are in no
#: cycle, so that nearly nothing is found: 15 to 20 % of the processor time of memcache.
GARBAGE = 20_000

_log = Logger()


class IBrokerReactor(IReactorCore, IReactorFDSet, IReactorFromThreads, IReactorSocket, IReactorTime):
    """What the broker needs of a reactor."""


def makeService(options: Options) -> Generations:
    """twistd's entry. Ends the process with a line on standard error and status 1 if the broker cannot start."""
    stock = install()
    if stock:
        _log.info("Twisted's own reactor: {why}", why=stock)
    from twisted.internet import reactor as installed

    reactor = cast(IBrokerReactor, installed)
    gc.set_threshold(GARBAGE)
    before = take()

    def renew(config: Config, estate: Estate | None, is_quiet: bool) -> BrokerService:
        tell = _teller(options.parent, config) if estate is None else _told
        broker = build(
            config, reactor=reactor, tell=(lambda line: None) if is_quiet else tell, estate=estate, levels=levels
        )
        broker.on_failure = lambda: _end(reactor)
        if options["config"] is not None:
            broker.reloading.configure(config, options.config)
        return broker

    try:
        options.absolute()
        config = options.config()
        levels = Levels(config.log_level)
        generations = Generations(reactor, config, options.parent, renew, lambda: _end(reactor))
        if before is None:
            generations.begin(renew(config, None, False))
        else:
            generations.follow(before)
    except ConfigError as error:
        sys.exit(f"broker: {error.reason}")
    if options.parent is not None:
        _steady(installed)
        generations.log_observer = lambda: _observer(options.parent, config, reactor, levels)
        on_quit(reactor)
    # Their default actions would end the process. nohup's wish to ignore one stands.
    for number, asked in ((signal.SIGHUP, generations.reload), (signal.SIGUSR2, generations.signalled)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_, asked=asked: reactor.callFromThread(asked))
    return generations


def _steady(reactor: object) -> None:
    """Let timers count what passes: Twisted's go by the wall clock, and stand still for an hour if that is set back."""
    if not isinstance(reactor, ReactorBase) or type(reactor).callLater is not ReactorBase.callLater:
        return
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def _observer(of_twistd: usage.Options, config: Config, reactor: IBrokerReactor, levels: Levels) -> ILogObserver:
    """twistd's own log as `config` wants it; twistd itself would write everything, and as text."""
    # The one private name of Twisted here: it knows --logfile and --syslog.
    observer = bounded(UnixAppLogger(of_twistd)._getLogObserver())
    # Its own way would end the process without a log file, and lose lines where logrotate has moved it.
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_IGN:
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(begin_anew, observer))
    return FilteringLogObserver(in_json(observer) if config.log_format == "json" else observer, [levels])


def _teller(of_twistd: usage.Options | None, config: Config) -> Callable[[str], None]:
    """How to tell whoever starts the broker something: print it, but not between the objects of a log in JSON."""
    if of_twistd is not None and config.log_format == "json":
        if of_twistd["syslog"]:
            raise ConfigError("log_format: syslog takes text only; log to a file or to standard output, or in text")
        if of_twistd["nodaemon"] and of_twistd["logfile"] in (None, "", "-"):
            return _told
    return _print


def _told(line: str) -> None:
    _log.info("{line}", line=line.removeprefix("broker: "))


def _print(line: str) -> None:
    print(line, flush=True)


def _end(reactor: IBrokerReactor) -> None:
    """Stop the reactor and see to it that the process ends with status 1, for which twistd has no other way."""

    def exit_late() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(exit_late)
    reactor.callWhenRunning(reactor.stop)


def build(
    config: Config,
    *,
    reactor: IBrokerReactor,
    store: IStore | None = None,
    tell: Callable[[str], None] = _print,
    estate: Estate | None = None,
    levels: Levels | None = None,
) -> BrokerService:
    """Check the surroundings, take what the broker needs of them, and wire it. Raises `ConfigError`.

    With `store` the configuration's data file is not looked at. `tell` is given lines for whoever starts the broker.
    `estate` is what an earlier broker has left. `levels` say what is logged.
    """
    estate = estate or Estate([])
    wishes = _wishes(config, reactor)
    hashing = HashingThreads(reactor)
    users = None
    if config.users is not None:
        users = Users(
            config.users,
            run=hashing.run,
            now=reactor.seconds,
            allow_anonymous=config.allow_anonymous,
            bounds=config.limits,
        )
    arrivals = Arrivals(config.limits, reactor.seconds)
    audit = None if config.audit is None else Audit(config.audit, wall=time.time, later=reactor.callFromThread)
    with contextlib.ExitStack() as taken:  # given back if anything below fails
        lock = None
        if store is None and config.data == MEMORY:
            store = MemoryStore(clock=reactor)
        elif store is None:
            _check_data(config.data)
            lock = estate.locked(config.data) or Lock(config.data)
            taken.callback(lock.release)
            store = SQLiteStore(config.data, sync=config.sync)
        settings = Settings(f"{config.data}.settings" if lock is not None else None)
        make = partial(TracedBroker, Tracing(provider)) if wanted() else Broker
        broker = make(store, reactor, policy=config.policies, configured=settings.load())
        result = BrokerService(broker, reactor, lock, users, hashing, audit)
        result.settings = settings
        result.reloading.bounded.append(arrivals.change)
        result.levels = levels or Levels(config.log_level)
        result.status = _status(config, reactor, broker, kept=lock is not None)
        broker.stats.fronts = result.front_stats
        for wish in wishes:
            way: Way
            try:
                way = bound = estate.bound(wish.front, wish.place) or wish.place.bind()
            except InUse as error:
                if wish.named:
                    raise
                tell(f"broker: warning: {NAMES[wish.front]} is off, {error.reason}")
                continue
            taken.callback(way.close)
            result.bound.append((wish.front, wish.place, bound))
            if wish.trusted is not None:
                # Wherever it listens, those who come to the proxy come in.
                way = Wrapped(way, partial(Proxied, wish.trusted, reactor), local=False)
            if not (way.local or users is not None or config.allow_anonymous):
                raise ConfigError(
                    f"{NAMES[wish.front]} on {way.name} is open to anybody on the network; name --users (users = FILE) "
                    "or, if that is meant, say --allow-anonymous (allow_anonymous = true)"
                )
            named = isinstance(wish.place, Described) or way.name.startswith("unix:")
            scheme = "http://" if wish.front == "http" and not named else ""
            words = busy.words(wish.front, wish.said) if wish.certificates is None else None
            way = Wrapped(way, partial(Gate, NAMES[wish.front], arrivals, reactor, words), way.local)
            if wish.certificates is not None:
                result.reloading.certificates.append(wish.certificates)
                secure, scheme = "https" if wish.front == "http" else "tls", ""
                way = Secured(way, wish.certificates, reactor, secure, result.door.at(NAMES[wish.front]).admits)
            result.fronts.append(_front(wish, way, config, result))
            tell(f"broker: {NAMES[wish.front]} on {scheme}{way.name}")
        if not result.fronts:
            raise ConfigError("it would listen nowhere: every front is off or its port is in use")
        taken.pop_all()
    if config.users is not None:
        tell(f"broker: users in {config.users}")
    if lock is not None:
        tell(f"broker: data in {config.data} (sync {config.sync})")
    elif config.data == MEMORY:
        tell("broker: data in memory only, forgotten when the broker ends")
    return result


def _status(config: Config, reactor: IBrokerReactor, broker: Broker, *, kept: bool) -> ServerStatus:
    """What the broker does for clients, as it was when it ended."""
    grace = config.status_grace / 1000
    if not kept:
        return ServerStatus(reactor, grace, enforce=broker.status.become)
    file = StatusFile(f"{config.data}.status")
    level = file.read()
    if level is not Level.UP:
        _log.warn("the server's status is {status}, as it was when the broker ended", status=level.name)
    return ServerStatus(
        reactor, grace, level, lambda level: deferToThread(file.write, level), enforce=broker.status.become
    )


def _front(wish: Wish, way: Way, config: Config, of: BrokerService) -> Front:
    """What speaks to whoever comes in by `way`."""
    size = config.max_message_size
    match wish.front:
        case "memcache":
            told = wish.said if isinstance(wish.said, MemcacheListener) else MemcacheListener(0)
            memcache = MemcacheFactory(
                of.broker,
                max_message_size=size,
                flush_all=told.flush_all == "on" or (told.flush_all is None and way.local),
                dialect=DIALECTS[told.dialect],
                door=of.door.at(NAMES[wish.front]),
                reload=of.reloading.reload,
                shutdown=of.end if told.shutdown == "on" else None,
                status=of.status,
                idle_timeout=told.idle_timeout / 1000,
                refuse_writes_above=told.refuse_writes_above,
                refuse_reads_above=told.refuse_reads_above,
            )
            return Front(wish.front, way, Connections(memcache), lambda: Deferred.fromCoroutine(memcache.close()))
        case "stomp":
            said = wish.said if isinstance(wish.said, StompListener) else StompListener(0)
            stomp = StompFactory(
                of.broker,
                max_message_size=size,
                clock=of.reactor,
                terms=Terms(
                    flavour=FLAVOURS[said.flavour],
                    lenient_ack=said.lenient_ack,
                    user_id=said.user_id,
                    send_timeout=said.send_timeout,
                    heart_beat_min=said.heart_beat_min,
                    heart_beat_max=said.heart_beat_max,
                    heart_beat_grace=said.heart_beat_grace,
                ),
                login_timeout=said.login_timeout / 1000,
                door=of.door.at(NAMES[wish.front]),
            )
            return Front(wish.front, way, Connections(stomp), stomp.shut_down)
        case _:
            site = make_site(
                of.broker,
                max_message_size=config.http_max_message_size,
                unready=of.unready,
                hosts=config.http_host,
                database=None if config.data == MEMORY else config.data,
                clock=of.reactor,
                door=of.door.at(NAMES[wish.front]),
                reload=of.reloading.reload,
                upgrade=lambda asked: of.upgrade(asked),
                save=of.settings.save,
                levels=of.levels,
                status=of.status,
                taps=of.taps,
            )
            site.noisy = False
            pages = StompFactory(of.broker, max_message_size=size, clock=of.reactor, door=of.door.at(NAMES[wish.front]))
            site.resource = WebSockets(site.resource, pages, lambda request: _unwelcome(site, request))

            def end() -> None:
                site.drain()
                pages.shut_down()

            return Front(wish.front, way, Connections(site), end)


def _unwelcome(site: Site, request: Request) -> int:
    """The status with which a WebSocket is refused; 0: it may come in. A page's origin is checked as for all else."""
    bound = getattr(request.getHost(), "host", "")  # a Unix socket has none
    try:
        guard.check(request.getHeader("host"), request.getHeader("origin"), bound, site.hosts)
    except Problem as problem:
        return problem.status
    return 503 if site.stopping else 0


@attrs.frozen
class Wish:
    """A listener somebody wants, or, when nobody `named` one, that is there by default."""

    front: str
    place: Place
    named: bool
    #: What more is said of it.
    said: MemcacheListener | StompListener | HttpListener | None = None
    #: With what it speaks TLS; None: it speaks plain.
    certificates: Certificates | None = None
    #: The proxies that say who their client is; None: there are none.
    trusted: Trusted | None = None


def _wishes(config: Config, reactor: IReactorSocket) -> list[Wish]:
    wishes = []
    for front, default in DEFAULT_PORTS.items():
        said: list[Where | MemcacheListener | StompListener | HttpListener] | None = getattr(config, front)
        for one in [default] if said is None else said:
            where, more = (one, None) if isinstance(one, int | str) else (one.listen, one)
            place = parse(where, reactor)
            if place is not None:
                certificates, trusted = _certificates(front, place, more), _trusted(front, more)
                wishes.append(Wish(front, place, said is not None, more, certificates, trusted))
    return wishes


def _certificates(
    front: str, place: Place, said: MemcacheListener | StompListener | HttpListener | None
) -> Certificates | None:
    """What the listener shows, read now; None: it speaks plain."""
    if said is None or said.tls is None:
        return None
    check_place(place)
    try:
        return Certificates(said.tls, [b"http/1.1"] if front == "http" else None)
    except ConfigError as error:
        raise ConfigError(f"{NAMES[front]} on {said.listen}: {error.reason}") from None


def _trusted(front: str, said: MemcacheListener | StompListener | HttpListener | None) -> Trusted | None:
    """The proxies that the listener believes."""
    if said is None or not said.proxy:
        return None
    try:
        return Trusted(said.proxy)
    except ConfigError as error:
        raise ConfigError(f"{NAMES[front]} on {said.listen}: {error.reason}") from None


def _check_data(path: str) -> None:
    """Raise `ConfigError` if the data file could not be opened or made."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigError(f"the data directory {directory} does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"the data directory {directory} is not writable")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"the data file {path} is not a file")
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"the data file {path} is not readable and writable")


@attrs.frozen
class Front:
    """One listener: the way in, who came by it, and how the front ends."""

    name: str
    way: Way
    connections: Connections
    #: Has the front give back what is on loan, end what waits, answer what is owed, and close each connection then.
    end: Callable[[], object]


class BrokerService(service.Service):
    """The broker while the process runs: opens the store, then the ways in; closes them in order.

    `on_failure` is called when it cannot come up after all; until then, and after `stopService`, `ready` is False.
    """

    def __init__(
        self,
        broker: Broker,
        reactor: IBrokerReactor,
        lock: Lock | None,
        users: Users | None,
        hashing: HashingThreads,
        audit: Audit | None = None,
    ) -> None:
        self.broker = broker
        self._audit = audit
        record = nothing if audit is None else audit.record
        #: What the fronts ask who somebody is, and what he may do.
        self.door = Door(broker, users, record)
        self.reactor = reactor
        self.fronts: list[Front] = []
        self.ready = False
        self.on_failure: Callable[[], None] = lambda: None
        self.reloading = Reloading(broker, users)
        self.reloading.record = record
        #: Where what is configured while it runs is kept.
        self.settings = Settings()
        #: What of each part is logged.
        self.levels = Levels()
        #: What can be traced.
        self.taps = Taps(reactor, broker.watching.watch, self._clients)
        #: What the broker does for clients at the moment.
        self.status = ServerStatus(reactor)
        #: systemd, or whoever else wants to know how the broker is.
        self.notifier = Notifier(reactor, self.unready, {})
        #: Every listener: its front, what was asked for, and what it has; all but Twisted's own can be left to others.
        self.bound: list[tuple[str, Place, Bound | UnixWay | Described]] = []
        #: Another broker comes after this one: what it is left stays open.
        self.handing_on = False
        #: Hands on to a new process, for whoever is named; its id. Raises `NotUpgraded`.
        self.upgrade: Upgrade = no_upgrade
        #: Why it could not be opened.
        self.failure = ""
        self._lock = lock
        self._hashing = hashing
        self._ports: list[tuple[Front, IListeningPort]] = []
        #: Fires, never fails, when it is either ready or has called `on_failure`.
        self.opening: Deferred[None] = succeed(None)

    def unready(self) -> str:
        """Why no messages are taken now; empty: they are."""
        if self.ready:
            if self.status.level is not Level.UP:
                if self.status.level is Level.DRAINING:
                    return "the broker drains: it takes no new messages"
                return f"the server's status is {self.status.level.name}"
            return f"the store does not commit: {self.broker.trouble}" if self.broker.trouble else ""
        return "the broker is starting" if self.running and not self.opening.called else "the broker is stopping"

    def front_stats(self) -> dict[str, FrontStats]:
        """The connections of each front."""
        found: dict[str, FrontStats] = {}
        for front in self.fronts:
            known, its = found.get(front.name, FrontStats()), front.connections
            found[front.name] = FrontStats(known.connections + its.count(), known.connections_opened + its.total)
        return found

    def _clients(self) -> Iterator[tuple[Watch, Connection, str]]:
        """The connections, each with what watches it and where it comes from."""
        for front in self.fronts:
            for one in front.connections.open():
                yield WATCHES[front.name], cast(Connection, one), shown(cast(Connection, one).transport.getPeer())

    def end(self, asked: str) -> None:
        """Stop the whole process, for whoever `asked`."""
        _log.info("{asked}: shutdown", asked=asked)
        self.reactor.stop()

    def estate(self) -> Estate:
        """What another broker may have of it, while this one has it too."""
        left = [Left(f, str(asked), way.fileno()) for f, asked, way in self.bound if not isinstance(way, Described)]
        return Estate(left, None if self._lock is None else self._lock.fileno())

    def let_go(self) -> None:
        """Keep nothing of that; the broker was handed on, or never begun."""
        for front in self.fronts:
            front.way.close()
        if self._lock:
            self._lock.release()

    def startService(self) -> None:
        """Take the store into use, then accept connections."""
        super().startService()
        if self._lock:
            self._lock.name_holder()  # the process has gone to the background since
        self._hashing.start()
        if self._audit is not None:
            self._audit.start()
        self.notifier = Notifier(self.reactor, self.unready)
        self.opening = Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        _log.info("broker {version} starts, process {pid}", version=__version__, pid=os.getpid())
        try:
            await self.broker.start()
            for front in self.fronts:
                try:
                    port = await front.way.open(self.reactor, front.connections)
                except (CannotListenError, OSError) as error:
                    raise ConfigError(f"cannot listen on {front.way.name}: {error}") from None
                self._ports.append((front, port))
                _log.info("{front} accepts connections on {where}", front=NAMES[front.name], where=front.way.name)
        except BrokerError as error:
            _log.critical("cannot start: {reason}", reason=error.reason)
            self._fail(error.reason)
        except Exception:
            _log.failure("cannot start")
            self._fail("see the log")
        else:
            self.ready = True
            _log.info("ready")
            self.notifier.ready()

    def _fail(self, why: str) -> None:
        self.failure = why
        self.notifier.failed(why)
        self.on_failure()

    def stopService(self) -> Deferred[None]:
        """Accept nothing more, finish what was begun, write it to disk, close. Fires when the data are free."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        _log.info("handing on" if self.handing_on else "stopping")
        self.ready = False
        if not self.handing_on:
            self.notifier.stopping()
        self.status.stop()
        await self.opening
        # The HTTP port closes last: /readyz says meanwhile that no new work should come here. If another broker comes,
        # that is asked.
        await self._stop_ports(lambda name: self.handing_on or name != "http")
        endings = [Deferred.fromCoroutine(self._carefully(front.end)) for front in self.fronts]
        await self._connections_end()
        for ending in endings:
            await ending
        await self._carefully(self._hashing.stop)
        await self._carefully(lambda: Deferred.fromCoroutine(self.broker.stop()))
        await self._stop_ports(lambda name: True)
        for front in self.fronts:
            front.connections.cut()  # who came to ask /readyz meanwhile
        if self._audit is not None:
            await deferToThread(self._audit.stop)
        if not self.handing_on:
            self.let_go()
            for _, asked, way in self.bound:
                if isinstance(asked, UnixPath) and (
                    isinstance(way, Bound) or (isinstance(way, UnixWay) and way.is_made)
                ):
                    asked.remove()
            self.notifier.close()
        _log.info("handed on" if self.handing_on else "stopped")

    async def _stop_ports(self, which: Callable[[str], bool]) -> None:
        for front, port in list(self._ports):
            if which(front.name):
                self._ports.remove((front, port))
                await self._carefully(port.stopListening)
                if not self.handing_on:
                    front.way.close()

    async def _connections_end(self) -> None:
        deadline = self.reactor.seconds() + GRACE
        while left := sum(front.connections.count() for front in self.fronts):
            if self.reactor.seconds() > deadline:
                _log.warn("{count} clients did not read their replies in time", count=left)
                for front in self.fronts:
                    front.connections.cut()
                return
            await deferLater(self.reactor, 0.01)

    async def _carefully(self, step: Callable[[], object]) -> None:
        """One step of the end; if it fails, the next ones are still taken."""
        try:
            await maybeDeferred(step)
        except BrokerError as error:
            _log.error("while stopping: {reason}", reason=error.reason)
        except Exception:
            _log.failure("while stopping")

    def reload(self) -> None:
        """SIGHUP: read users and policies again, if there are files to read."""
        _ = Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        if self.ready:
            self.notifier.reloading()
        await self.reloading.hang_up()
        if self.ready:
            self.notifier.ready()
