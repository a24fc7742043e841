"""The STOMP front of one listener, or several."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory

from broker.auth.door import Door
from broker.core.broker import Broker
from broker.stomp.connection import StompProtocol
from broker.stomp.heads import Heads
from broker.stomp.messages import Tails
from broker.stomp.temporary import forget_leftovers
from broker.stomp.wire import Limits
from broker.stomp.wishes import Terms

#: Seconds in which CONNECT must come; RabbitMQ's.
LOGIN_TIMEOUT = 10.0
#: After the last frame of ours: seconds in which we still read from a client that does not close.
LINGER = 2.0


class StompFactory(ServerFactory):
    """STOMP for one listener.

    `max_message_size` (bytes) is the largest body; 0: the broker's policy. `login_timeout` and `linger` are seconds.
    `door` knows who may come in and what he may do; without one everybody may do everything.
    """

    noisy = False

    def __init__(
        self,
        broker: Broker,
        *,
        max_message_size: int = 0,
        clock: IReactorTime | None = None,
        terms: Terms = Terms(),  # noqa: B008 - frozen
        login_timeout: float = LOGIN_TIMEOUT,
        linger: float = LINGER,
        door: Door | None = None,
    ) -> None:
        self.broker = broker
        self.door = door or Door(broker)
        self.clock = clock or broker.clock
        self.limits = Limits(body=max_message_size or broker.policy.max_message_size or Limits().body)
        self.terms = terms
        self.login_timeout = login_timeout
        self.linger = linger
        self.tails = Tails(terms.flavour)
        #: Header blocks that come again and again, by version.
        self.heads: dict[str, Heads] = {}
        self.connections: set[StompProtocol] = set()
        #: By their client-id, where no two may have the same.
        self.clients: dict[str, StompProtocol] = {}
        self._closed: Deferred[None] | None = None

    def startFactory(self) -> None:
        """A port is open."""
        forget_leftovers(self.broker)

    def buildProtocol(self, addr: IAddress | None) -> StompProtocol:
        """A protocol for a new connection."""
        return StompProtocol(self)

    def shut_down(self) -> None:
        """Close all connections, after the replies they are owed; what is on loan goes back uncounted."""
        for connection in list(self.connections):
            connection.shut_down()

    async def close(self) -> None:
        """`shut_down`, and wait until every connection is gone. No connection may come any more."""
        self.shut_down()
        if self.connections:
            self._closed = Deferred()
            await self._closed

    def disconnected(self, connection: StompProtocol) -> None:
        """It is gone."""
        self.connections.discard(connection)
        if self.clients.get(connection.client) is connection:
            del self.clients[connection.client]
        if self._closed is not None and not self.connections:
            closed, self._closed = self._closed, None
            closed.callback(None)
