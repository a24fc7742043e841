"""The broker while the process runs: opened, asked how it is, told to reload, closed, in order.

What it consists of was wired before (`broker.service.build`), and the ports it listens on were taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import cast

import attrs
from twisted.application import service
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
from twisted.logger import Logger

from broker import __version__
from broker.audit import Audit, nothing
from broker.auth.door import Door
from broker.auth.users import HashingThreads, Users
from broker.core.broker import Broker
from broker.core.level import Level
from broker.core.stats import FrontStats
from broker.debug import Levels
from broker.errors import BrokerError, ConfigError
from broker.hello import shown
from broker.http import tapped as http_tapped
from broker.http.administration import Upgrade, no_upgrade
from broker.listen import Bound, Connections, Described, Place, Way
from broker.listeners import NAMES
from broker.lock import Lock
from broker.memcache import tapped as memcache_tapped
from broker.notify import Notifier
from broker.reload import Reloading
from broker.settings import Settings
from broker.status import ServerStatus
from broker.stomp import tapped as stomp_tapped
from broker.succession import Estate, Left
from broker.tap import Connection, Taps, Watch
from broker.unix import UnixPath, UnixWay

#: What shows what passes over a connection of each front.
WATCHES: dict[str, Watch] = {
    "memcache": memcache_tapped.watch,
    "stomp": stomp_tapped.watch,
    "http": http_tapped.watch,
}
#: What open requests get to end when the broker stops (s). Whoever reads its replies more slowly is cut off.
GRACE = 5.0

#: The part of the log in which operators look for the service.
_log = Logger("broker.service")


class IBrokerReactor(IReactorCore, IReactorFDSet, IReactorFromThreads, IReactorSocket, IReactorTime):
    """What the broker needs of a reactor."""


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
