"""The gate of a listener: how many connections may come in, and what those are told that may not.

It stands before TLS, whose handshake costs more than all else about a connection. Who may not come in is told so in the
protocol's own terms where that is plain text, and closed on; nothing of it reaches the front. The kernel would answer a
close with a reset if there is something that we have not read, which destroys what was said; so we read on for a while,
of a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorSocket,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.auth.door import host_of
from broker.auth.limits import Arrivals
from broker.errors import BrokerError, OverLimit
from broker.hello import shown
from broker.listen import Way

#: Connections of one listener that are told at a time why they may not come in; further ones are closed on at once.
MAX_TOLD = 100
#: Seconds and bytes of what they say meanwhile that are read.
PATIENCE, MAX_DROPPED = 2.0, 64 * 1024
#: Seconds between two lines in the log.
PERIOD = 1.0

#: What a front tells whom it does not let in.
Words = Callable[[BrokerError], bytes]


@attrs.frozen
class Wrapped:
    """A way in with something between it and the front."""

    way: Way
    around: Callable[[IProtocolFactory], IProtocolFactory]
    #: Whether only programs on this machine come in here.
    local: bool

    @property
    def name(self) -> str:
        """As without it."""
        return self.way.name

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept connections from now on."""
        return self.way.open(reactor, self.around(factory))

    def close(self) -> None:
        """Give it up."""
        self.way.close()


@implementer(IProtocolFactory)
class Gate:
    """The connections that come to one listener of `front`. Without `words` nobody is told anything."""

    _log = Logger()

    def __init__(
        self, front: str, arrivals: Arrivals, clock: IReactorTime, words: Words | None, inner: IProtocolFactory
    ) -> None:
        self._inner = inner
        self._front = front
        self._arrivals = arrivals
        self._words = words
        self._quiet_until = 0.0
        self._unsaid = 0
        self.clock = clock
        #: Those that are being told.
        self.told: set[_Told] = set()

    def doStart(self) -> None:
        """The port is open."""
        self._inner.doStart()

    def doStop(self) -> None:
        """The port is closed."""
        for one in list(self.told):
            one.cut()
        self._inner.doStop()

    def buildProtocol(self, address: IAddress) -> IProtocol | None:
        """A client came."""
        try:
            leave = self._arrivals.enter(host_of(address))
        except OverLimit as error:
            self._say(address, error)
            if self._words is None or len(self.told) >= MAX_TOLD:
                return None
            return _Told(self, self._words(error))
        protocol = self._inner.buildProtocol(address)
        if protocol is None:
            leave()
            return None
        ended = protocol.connectionLost

        def lost(reason: Failure = connectionDone) -> None:
            leave()
            ended(reason)

        # Not a wrapper, which would be called with all that ever comes to learn of this one thing.
        protocol.connectionLost = lost  # type: ignore[method-assign]
        return protocol

    def _say(self, address: object, error: OverLimit) -> None:
        """A line in the log, once a second."""
        now = self.clock.seconds()
        if now < self._quiet_until:
            self._unsaid += 1
            return
        self._log.warn(
            "{front} client {peer} is refused: {reason}; {unsaid} others since the last such line",
            front=self._front,
            peer=shown(address),
            reason=error.reason,
            unsaid=self._unsaid,
        )
        self._quiet_until, self._unsaid = now + PERIOD, 0


class _Told(Protocol):
    """A connection that is told why it may not come in."""

    def __init__(self, gate: Gate, words: bytes) -> None:
        self._gate = gate
        self._words = words
        self._dropped = 0
        self._timer: IDelayedCall | None = None
        gate.told.add(self)

    def connectionMade(self) -> None:
        """It is here."""
        assert self.transport is not None
        self._timer = self._gate.clock.callLater(PATIENCE, self.cut)
        self.transport.write(self._words)
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """It had something to say."""
        self._dropped += len(data)
        if self._dropped > MAX_DROPPED:
            self.cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._gate.told.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def cut(self) -> None:
        """Enough."""
        transport = self.transport
        if transport is not None:
            transport.abortConnection()  # type: ignore[attr-defined]
