"""The memcache front of one listener: its connections, what they share, and their end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from broker.auth.door import Door
from broker.core.broker import Broker
from broker.core.survey import Surveyor
from broker.errors import NothingToReload
from broker.memcache import stats
from broker.memcache.connection import MemcacheProtocol
from broker.memcache.dialect import DEFAULT, Dialect
from broker.memcache.keys import Keys
from broker.status import ServerStatus


class MemcacheFactory(Factory):
    """A listener's connections.

    `max_message_size` (bytes) bounds a body; the broker's own limit if it is None. `flush_all`: whether that command
    empties every queue, or does nothing and answers the same; a listener beyond loopback wants it off. `door` knows who
    may come in and what he may do; without one everybody may do everything. `reload` reads the broker's files again;
    `shutdown` ends the broker, and without it nobody can from here. `status` is that of all listeners together. Who
    says nothing for `idle_timeout` seconds is closed on (0: never). Who comes when there are `refuse_writes_above` or
    `refuse_reads_above` connections already may not write, or read (0: no limit).
    """

    noisy = False

    def __init__(
        self,
        broker: Broker,
        *,
        max_message_size: int | None = None,
        flush_all: bool = True,
        dialect: Dialect = DEFAULT,
        door: Door | None = None,
        reload: Callable[[str], Awaitable[object]] | None = None,
        shutdown: Callable[[str], None] | None = None,
        status: ServerStatus | None = None,
        idle_timeout: float = 0.0,
        refuse_writes_above: int = 0,
        refuse_reads_above: int = 0,
    ) -> None:
        self.broker = broker
        self.door = door or Door(broker)
        self.max_message_size = broker.policy.max_message_size if max_message_size is None else max_message_size
        self.flush_all = flush_all
        self.shutdown = shutdown
        self.status = status or ServerStatus(broker.clock, enforce=broker.status.become)
        self.idle_timeout = idle_timeout
        self.refuse_writes_above = refuse_writes_above
        self.refuse_reads_above = refuse_reads_above
        self._reload = reload
        self.dialect = dialect
        self.keys = Keys(dialect)
        self.counters = stats.Counters()
        self.surveyor = Surveyor(broker)
        self._connections: dict[MemcacheProtocol, None] = {}
        self._closed: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> MemcacheProtocol:
        """A client came."""
        return MemcacheProtocol(self)

    async def reload(self, asked: str) -> None:
        """Read the broker's files again, for whoever asked."""
        if self._reload is None:
            raise NothingToReload
        await self._reload(asked)

    def peers(self) -> list[str]:
        """Where each connection comes from, the oldest first."""
        return [connection.peer for connection in self._connections]

    def connected(self, connection: MemcacheProtocol) -> None:
        """Count it."""
        self._connections[connection] = None
        self.counters.curr_connections += 1
        self.counters.total_connections += 1

    def disconnected(self, connection: MemcacheProtocol) -> None:
        """It is gone."""
        self._connections.pop(connection, None)
        self.counters.curr_connections -= 1
        if self._closed is not None and not self._connections:
            closed, self._closed = self._closed, None
            closed.callback(None)

    async def close(self) -> None:
        """Give back what is on loan, answer what is owed, and close every connection; how long that may take is the
        caller's to say. No connection may come any more."""
        self.status.stop()
        for connection in list(self._connections):
            connection.give_back()
        if self._connections:
            self._closed = Deferred()
            await self._closed
