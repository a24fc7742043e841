"""A store in trouble: what is true in memory goes first and alone; publishes fail soon; the log says it once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from broker.core.destination import queue
from broker.core.journal import QUIET, RETRY_AFTER
from broker.core.store import Committed, Group
from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, Holding, result, start, text


class Full(Holding):
    """A disk with room for facts, and none for messages."""

    def __init__(self) -> None:
        memory = MemoryStore()
        super().__init__(lambda: memory)
        self.full = False

    def commit(self, group: Group) -> Deferred[Committed]:
        if self.full and group.parts:
            failed: Deferred[Committed] = Deferred()
            failed.errback(StoreUnavailable("the disk is full"))
            return failed
        return super().commit(group)


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    lines: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(str(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)


def test_acks_find_room_among_publishes_that_find_none() -> None:
    disk = Full()
    bench = Bench(disk)
    for n in range(50):
        result(bench.broker.publish(queue("q"), text(str(n))))
    disk.full = True
    with logged() as lines:
        for n in range(50):
            delivery = result(start(bench.broker.take("q")))
            assert delivery is not None
            assert delivery.message.body == b"%d" % n
            refused = bench.broker.publish(queue("q"), text("too much"))
            acked = bench.broker.ack([delivery])
            with pytest.raises(StoreUnavailable):
                result(refused)
            bench.turn(0.1)
            result(acked)
            assert bench.broker.trouble, "it still takes no message"
        bench.turn(QUIET)
    assert not bench.broker.trouble
    assert lines.count("the store does not commit: {reason}") == 1
    assert lines.count("the store commits again") == 1
    disk.full = False
    result(bench.broker.publish(queue("q"), text("last")))
    bench.boot()
    assert [bench.body("q"), bench.body("q")] == [b"last", None]


def test_where_not_even_facts_are_stored_waiting_publishes_fail_with_them() -> None:
    bench = Bench(Holding(MemoryStore))
    assert isinstance(bench.memory, Holding)
    result(bench.broker.publish(queue("q"), text("1")))
    delivery = result(start(bench.broker.take("q")))
    assert delivery is not None
    bench.memory.hold = True
    acked = bench.broker.ack([delivery])
    first = bench.broker.publish(queue("q"), text("2"))  # waits behind the ack's commit
    bench.memory.fail_commit()
    with pytest.raises(StoreUnavailable) as failure:
        result(first)
    assert failure.value.retryable
    assert not acked.called
    bench.turn(RETRY_AFTER)
    bench.memory.release_commit()
    result(acked)
    bench.turn(QUIET)
    assert not bench.broker.trouble
