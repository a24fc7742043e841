"""What one reactor turn may look at, and move, however much there is."""

from __future__ import annotations

import pytest

from broker.core import moving, ration
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.message import OVERHEAD, Message
from broker.core.policy import Policy
from broker.core.ration import Ration
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, looked_at_in_each_turn, result


def fill(bench: Bench, name: str, count: int, size: int = 10, ttl: int = 0) -> None:
    for n in range(count):
        result(bench.broker.publish(queue(name), Message(body=b"%d" % n + bytes(size), ttl=ttl)))


def test_a_ration_is_used_up_by_number_or_by_bytes_and_one_message_is_always_allowed() -> None:
    asked: list[bool] = []
    one = Ration()
    one.exhausted = lambda: asked.append(True)
    assert [one.take(10) for _ in range(ration.MAX_MESSAGES)] == [True] * ration.MAX_MESSAGES
    assert (one.over, asked) == (False, [])
    assert not one.take(10)
    assert (one.over, asked) == (True, [True])
    one.renew()
    assert not one.over
    assert one.take(10 * ration.MAX_BYTES)
    assert not one.take(1)
    one.renew()
    assert one.take(ration.MAX_BYTES - 1)
    assert one.take(1)
    assert not one.take(1)


def test_queues_that_have_much_to_look_at_share_the_ration_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    names = ["a", "b", "c"]
    for name in names:
        fill(bench, name, 700, ttl=200)
        fill(bench, name, 1)
    bench.turn(0.5)  # the sweep comes after a second
    looked = looked_at_in_each_turn(monkeypatch)
    got: list[Delivery] = []
    for name in names:
        bench.broker.subscribe(queue(name), got.append, prefetch=1)
    bench.turn()
    assert sorted(delivery.reader.queue.name for delivery in got) == names
    assert sum(looked) == 2_100
    assert max(looked) <= ration.MAX_MESSAGES
    # Whoever has had his turn waits until the others have had theirs.
    assert len(looked) <= 2_100 // ration.MAX_MESSAGES + 2


@pytest.mark.parametrize(("size", "most"), [(10, moving.MAX_MESSAGES), (2_000, moving.MAX_BYTES // 2_000)])
def test_only_so_many_messages_are_on_their_way_to_another_queue_at_a_time(size: int, most: int) -> None:
    store = MemoryStore()
    bench = Bench(store, Policy(max_attempts=1, dead_letter="dead"))
    fill(bench, "q", 1_200, size)
    got: list[Delivery] = []
    bench.broker.subscribe(queue("q"), got.append, prefetch=1_200)
    bench.turn()
    assert len(got) == 1_200
    groups: list[tuple[int, int]] = []
    commit = store._commit

    def noted(group):  # type: ignore[no-untyped-def]
        parts = [message for part in group.parts.values() for message in part]
        groups.append((len(parts), sum(message.size - OVERHEAD for message in parts)))
        return commit(group)

    store._commit = noted  # type: ignore[method-assign]
    store.hold = True
    bench.broker.nack(got)
    while bench.broker.queue_stats("dead").ready < 1_200:
        bench.turn()
        store.release_commit()
    assert sum(count for count, _ in groups) == 1_200
    assert most - 1 <= max(count for count, _ in groups) <= most
    assert bench.broker.queue_stats("q").ready == 0
    store.hold = False
