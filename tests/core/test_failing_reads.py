"""What happens when the store cannot be read, and other rare turns."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail

from broker.core import leases, scan
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.message import array_header
from broker.core.store import Batch
from broker.core.usage import KEEP
from broker.errors import BadName, StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, result, start, text
from tests.support import flush_logged_errors


class Unreadable(MemoryStore):
    """A store whose reads fail while `broken`, and wait while `slow`."""

    broken = False
    slow = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Deferred[list[Batch]], tuple[int, int, int]]] = []

    def read(self, lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        if self.broken:
            return fail(StoreUnavailable("the disk cannot be read"))
        if self.slow:
            later: Deferred[list[Batch]] = Deferred()
            self.waiting.append((later, (lane, seq, max_bytes)))
            return later
        return super().read(lane, seq, max_bytes)

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for later, place in waiting:
            later.callback(result(super().read(*place)))


@pytest.fixture
def store() -> Unreadable:
    return Unreadable()


@pytest.fixture
def bench(store: Unreadable) -> Bench:
    """A broker that has just started over a queue of three messages, none of them in memory."""
    bench = Bench(store)
    for body in "abc":
        result(bench.broker.publish(queue("q"), text(body)))
    bench.boot()
    return bench


def test_who_does_not_wait_is_told_that_it_cannot_be_read(bench: Bench, store: Unreadable) -> None:
    store.broken = True
    for ask in (bench.broker.take, bench.broker.peek):
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            result(start(ask("q")))
    store.broken = False
    taken = start(bench.broker.take("q"))
    bench.turn()
    delivery = result(taken)
    assert delivery is not None
    assert delivery.message.body == b"a"


def test_who_waits_is_served_when_it_can_be_read_again(bench: Bench, store: Unreadable) -> None:
    store.broken = True
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=9)
    bench.turn(2)
    assert got == []
    store.broken = False
    bench.turn(1)
    assert [delivery.message.body for delivery in got] == [b"a", b"b", b"c"]


def test_a_read_that_ends_after_everything_changed_is_asked_for_again(bench: Bench, store: Unreadable) -> None:
    store.slow = True
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=9)
    bench.turn()
    assert len(store.waiting) == 1
    assert result(start(bench.broker.purge("q"))) == 3
    result(bench.broker.publish(queue("q"), text("d")))
    store.slow = False
    store.answer()
    bench.turn()
    assert [delivery.message.body for delivery in got] == [b"d"]


def test_messages_that_are_not_in_the_store_are_passed_over(bench: Bench, store: Unreadable) -> None:
    store._batches.clear()
    taken = start(bench.broker.take("q"))
    bench.turn()
    assert result(taken) is None
    result(bench.broker.publish(queue("q"), text("d")))
    assert bench.body("q") == b"d"


def test_stopping_tells_those_who_look(bench: Bench, store: Unreadable) -> None:
    from broker.errors import Stopping

    store.slow = True
    looking = start(bench.broker.peek("q"))
    result(start(bench.broker.stop()))
    with pytest.raises(Stopping):
        result(looking)
    store.answer()


def test_freeing_goes_on_after_a_failure(store: Unreadable, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(store)
    trim = store.trim
    monkeypatch.setattr(store, "trim", lambda budget, keep: fail(StoreUnavailable("not now")))
    result(bench.broker.publish(queue("q"), text("x")))
    assert bench.body("q") == b"x"
    bench.turn(1)
    monkeypatch.setattr(store, "trim", trim)
    result(bench.broker.publish(queue("q"), text("y")))
    assert bench.body("q") == b"y"
    bench.turn(1)
    assert result(store.read(1, 0, 1)) == []


def test_many_messages_given_back_are_read_again_when_their_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_RETURNED", 2)
    bench = Bench()
    for number in range(6):
        result(bench.broker.publish(queue("q"), text(str(number))))
    held = [result(start(bench.broker.take("q"))) for _ in range(6)]
    bench.broker.nack([delivery for delivery in reversed(held) if delivery])
    bench.turn()
    bodies = []
    for _ in range(6):
        taken = start(bench.broker.take("q"))
        bench.turn()
        delivery = result(taken)
        assert delivery is not None
        bodies.append(delivery.message.body)
    assert bodies == [b"%d" % number for number in range(6)]


def test_a_message_given_back_can_be_touched_or_settled_out_of_turn() -> None:
    bench = Bench()
    for body in "abc":
        result(bench.broker.publish(queue("q"), text(body)))
    held = [result(start(bench.broker.take("q"))) for _ in range(3)]
    ids = [delivery.id for delivery in held if delivery]
    bench.broker.nack([delivery for delivery in held if delivery])
    result(start(bench.broker.touch(ids[1])))
    result(bench.broker.settle(ids[2]))
    assert [bench.body("q"), bench.body("q")] == [b"a", None]
    bench.turn(30)
    assert bench.body("q") == b"b"


def test_a_touch_does_not_limit_a_loan_that_lasts_as_long_as_its_connection() -> None:
    bench = Bench()
    result(bench.broker.publish(queue("q"), text("x")))
    delivery = result(start(bench.broker.take("q")))
    assert delivery is not None
    result(start(bench.broker.touch(delivery.id, 1000)))
    bench.turn(3600)
    assert delivery.on_loan


def test_an_alarm_moves_to_an_earlier_end() -> None:
    bench = Bench()
    for body in "ab":
        result(bench.broker.publish(queue("q"), text(body)))
    late = result(start(bench.broker.take("q", leased=True, lease=60_000)))
    soon = result(start(bench.broker.take("q", leased=True, lease=1_000)))
    assert late is not None
    assert soon is not None
    bench.turn(1)
    assert (late.on_loan, soon.on_loan) == (True, False)


def test_a_bounded_number_of_loans_ends_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_MAX_LAPSES", 2)
    bench = Bench()
    for body in "abcde":
        result(bench.broker.publish(queue("q"), text(body)))
        assert result(start(bench.broker.take("q", leased=True, lease=1000))) is not None
    bench.turn(1)
    assert bench.broker.queue_stats("q").ready == 5
    bench.turn(KEEP)


@pytest.mark.parametrize("name", ["", "x" * 251, "a\nb", "a\x7f", "a\x85", "\ud800"])
def test_names_no_front_may_use(name: str) -> None:
    with pytest.raises(BadName):
        queue(name)


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_array_headers_of_every_length(count: int) -> None:
    import msgspec

    assert msgspec.msgpack.decode(array_header(count) + b"\x00" * count) == [0] * count


def test_a_read_that_fails_as_nobody_expects_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    result(bench.broker.publish(queue("q"), text("x")))
    monkeypatch.setattr(bench.memory, "read", lambda *_: fail(IndexError("a mistake")))
    waiting = start(bench.broker.take("q", wait=30))
    bench.turn()
    assert flush_logged_errors(IndexError)
    monkeypatch.undo()
    bench.turn(2)
    taken = result(waiting)
    assert taken is not None
    assert taken.message.body == b"x"
