"""What is particular to the store in memory; the rest is the contract's (tests/contract)."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.core.destination import queue
from broker.core.message import Message
from broker.core.store import Group
from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, result


def test_what_is_said_in_one_reactor_turn_shares_a_commit() -> None:
    clock = Clock()
    bench = Bench(MemoryStore(clock=clock))
    told = [bench.broker.publish(queue("q"), Message(body=b"%d" % n)) for n in range(10)]
    assert not any(one.called for one in told)
    clock.advance(0)
    clock.advance(0)
    assert all(one.called for one in told)
    assert bench.memory.commits == 2, "the first began one, the others were the next"


def test_a_store_that_is_closed_before_the_turn_is_over_has_not_committed() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    result(store.open())
    told = store.commit(Group())
    result(store.close())
    with pytest.raises(StoreUnavailable):
        result(told)
    clock.advance(0)
    assert store.commits == 0
