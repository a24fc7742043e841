"""What a dialect costs: function calls of a set and a get, beside the default's."""

from __future__ import annotations

import cProfile

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.memcache.dialect import DIALECTS
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.core.support import no_collection
from tests.memcache.support import NOW, Client

ROUNDS = 100
#: Calls beyond the default's; the rest of a dialect is looked up where the default's is.
MOST = 1.02


def calls(name: str) -> int:
    """Function calls of so many sets and gets."""
    clock = Clock()
    broker = Broker(MemoryStore(), clock, wall=lambda: NOW + clock.seconds())
    assert Deferred.fromCoroutine(broker.start()).called
    client = Client(MemcacheFactory(broker, dialect=DIALECTS[name]))
    answer = client.send(b"set work 0 0 5\r\nhello\r\nget work\r\n")  # what is only done once
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(ROUNDS):
        client.protocol.dataReceived(b"set work 0 0 5\r\nhello\r\n")
        clock.advance(0)
        client.protocol.dataReceived(b"get work\r\n")
        clock.advance(0)
        producer = client.transport.producer
        assert producer is not None
        producer.resumeProducing()
    profile.disable()
    assert client.transport.value() == answer * ROUNDS
    client.go()
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "default"])
def test_a_dialect_costs_two_per_cent_at_most(name: str) -> None:
    with no_collection():
        default, its = calls("default"), calls(name)
    print(f"{name}: {its / ROUNDS:.1f} calls per set and get, default {default / ROUNDS:.1f}")
    assert its <= default * MOST
