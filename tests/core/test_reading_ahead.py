"""Reading ahead: what follows the last batch in memory is read while that one is being delivered."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail

from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.message import Message
from broker.core.store import Batch
from broker.core.supply import READ_BYTES
from broker.core.window import Budget
from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, result, start
from tests.support import flush_logged_errors

#: Messages, each a batch of its own; five of them are read at a time.
COUNT = 30
SIZE = READ_BYTES // 5 - 100


class Slow(MemoryStore):
    """A store whose reads wait until they are answered, or fail while it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.asked: list[tuple[Deferred[list[Batch]], tuple[int, int, int]]] = []

    def read(self, lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        if self.broken:
            return fail(StoreUnavailable("the disk cannot be read"))
        later: Deferred[list[Batch]] = Deferred()
        self.asked.append((later, (lane, seq, max_bytes)))
        return later

    @property
    def starts(self) -> list[int]:
        """From which numbers on reads wait to be answered."""
        return [place[1] for _, place in self.asked]

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for later, place in asked:
            later.callback(result(super().read(*place)))


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def bench(store: Slow) -> Bench:
    """A broker that has just started over a queue of which nothing is in memory."""
    bench = Bench(store)
    for number in range(COUNT):
        result(bench.broker.publish(queue("q"), Message(body=b"%05d" % number * (SIZE // 5))))
    bench.boot()
    first = start(bench.broker.take("q"))
    assert store.starts == [0]
    store.answer()
    assert number_of(result(first)) == 0
    return bench


def number_of(delivery: Delivery | None) -> int:
    assert delivery is not None
    return int(delivery.message.body[:5])


def take(bench: Bench) -> int:
    """The number of a message that is in memory."""
    return number_of(bench.broker.at_hand("q"))


def test_the_next_read_begins_with_the_last_batch_in_memory_and_nobody_waits_for_it(bench: Bench, store: Slow) -> None:
    for number in range(1, COUNT):
        assert store.asked == []
        assert take(bench) == number
        if number % 5 == 4 and number + 1 < COUNT:
            assert store.starts == [number + 1]
            store.answer()
            bench.turn()
    assert bench.broker.at_hand("q") is None
    assert bench.broker.queue_stats("q").on_loan == COUNT


def test_who_comes_before_the_read_is_answered_waits_for_it(bench: Bench, store: Slow) -> None:
    assert [take(bench) for _ in range(4)] == [1, 2, 3, 4]
    waiting = start(bench.broker.take("q", wait=5))
    assert store.starts == [5]
    store.answer()
    assert number_of(result(waiting)) == 5


def test_what_is_purged_meanwhile_is_not_delivered(bench: Bench, store: Slow) -> None:
    assert [take(bench) for _ in range(4)] == [1, 2, 3, 4]
    result(start(bench.broker.purge("q")))
    store.answer()
    assert bench.broker.at_hand("q") is None
    assert bench.broker.queue_stats("q").ready == 0


def test_a_read_ahead_that_fails_does_not_keep_what_is_in_memory(bench: Bench, store: Slow) -> None:
    assert [take(bench) for _ in range(3)] == [1, 2, 3]
    store.broken = True
    assert take(bench) == 4
    flush_logged_errors()
    store.broken = False
    waiting = start(bench.broker.take("q", wait=5))
    bench.turn()
    assert store.starts == [5]
    store.answer()
    assert number_of(result(waiting)) == 5


def test_nothing_is_read_ahead_while_memory_is_short(
    bench: Bench, store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "allowance", lambda budget, wanted: READ_BYTES)
    assert [take(bench) for _ in range(4)] == [1, 2, 3, 4]
    assert store.asked == []
    waiting = start(bench.broker.take("q", wait=5))
    assert store.starts == [5]
    store.answer()
    assert number_of(result(waiting)) == 5
