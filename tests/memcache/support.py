"""A memcache client over a fake wire, beside a real broker in memory."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from broker.core.broker import Broker
from broker.core.policy import Policies, Policy
from broker.memcache.dialect import DEFAULT, Dialect
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore

NOW = 1_700_000_000


class Client:
    """One connection: what it sends, and what came back since it was last asked."""

    def __init__(self, factory: MemcacheFactory, *, reads: bool = True) -> None:
        self.clock = cast(Clock, factory.broker.clock)
        self.transport = StringTransport()
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        #: Whether it takes what is sent to it at once, so that the server's send buffer is empty again.
        self.reads = reads

    def send(self, data: bytes) -> bytes:
        """Send, and return what is answered."""
        self.protocol.dataReceived(data)
        self.clock.advance(0)
        return self.received()

    def received(self) -> bytes:
        """What came; nothing, if it does not take what is sent."""
        return self.take() if self.reads else b""

    def take(self) -> bytes:
        """Take what was sent, and what is sent when that is out, until nothing more comes."""
        data = b""
        while True:
            data += self.transport.value()
            self.transport.clear()
            if self.transport.producer is None:
                return data
            self.transport.producer.resumeProducing()
            if not self.transport.value():
                return data

    @property
    def closed(self) -> bool:
        """True once the server has closed."""
        return bool(self.transport.disconnecting)

    def go(self) -> None:
        """The client goes away."""
        self.protocol.connectionLost(Failure(ConnectionDone()) if self.closed else connectionDone)


class FrontTest(SynchronousTestCase):
    """Tests of the front against a broker in memory."""

    policy: Policy | Policies = Policy(max_message_size=100_000)
    dialect: Dialect = DEFAULT

    def setUp(self) -> None:
        self.clock = Clock()
        self.setUp_with(MemoryStore())

    def setUp_with(self, store: MemoryStore) -> None:
        """A broker over this store, and a client of it."""
        self.store = store
        self.broker = Broker(self.store, self.clock, policy=self.policy, wall=lambda: NOW + self.clock.seconds())
        self.successResultOf(Deferred.fromCoroutine(self.broker.start()))
        self.factory = MemcacheFactory(self.broker, dialect=self.dialect)
        self.client = Client(self.factory)

    def says(self, sent: bytes, answer: bytes) -> None:
        """The client sends this and gets that."""
        self.clock.advance(0)
        self.assertEqual(self.client.send(sent), answer)
        self.clock.advance(0)

    def says_to_another(self, sent: bytes, answer: bytes) -> None:
        """A client that comes for this, and goes then, sends this and gets that."""
        other = Client(self.factory)
        self.assertEqual(other.send(sent), answer)
        other.go()
        self.clock.advance(0)

    def put(self, queue: str, *bodies: bytes) -> None:
        """Put messages into a queue."""
        for body in bodies:
            self.says(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(body), body), b"STORED\r\n")

    def ready(self, queue: str) -> int:
        """How many messages wait in it."""
        return self.broker.queue_stats(queue).ready
