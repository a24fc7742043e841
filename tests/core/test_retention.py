"""The past is kept for as long, or as far, as the policy says, and let go afterwards."""

from __future__ import annotations

import pytest

from broker.core.destination import Destination, queue, topic
from broker.core.message import unpack
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from tests.core.support import Bench, result, start, text


def kept(bench: Bench, destination: Destination) -> list[bytes]:
    """What can still be read of a log."""
    bodies: list[bytes] = []
    for lane in bench.broker._directory.logs[destination].lanes.values():
        seq = 0
        while batches := result(bench.memory.read(lane.id, seq, 1 << 20)):
            for batch in batches:
                bodies += [m.body for n, m in enumerate(unpack(batch.count, batch.data), batch.base) if n >= seq]
                seq = max(seq, batch.base + batch.count)
    return bodies


def pass_through(bench: Bench, *bodies: str) -> None:
    for body in bodies:
        result(bench.broker.publish(queue("q"), text(body)))
        assert bench.body("q") == body.encode()


def test_without_retention_what_is_settled_goes() -> None:
    bench = Bench()
    pass_through(bench, "1", "2")
    bench.turn(3)
    assert kept(bench, queue("q")) == []


@pytest.mark.parametrize("restarted", [False, True])
def test_seconds(restarted: bool) -> None:
    bench = Bench(policy=Policy(retain=20_000))
    pass_through(bench, "1", "2")
    bench.turn(10)
    pass_through(bench, "3")
    if restarted:
        bench.boot()
    bench.turn(5)
    assert kept(bench, queue("q")) == [b"1", b"2", b"3"]
    bench.turn(11)
    assert kept(bench, queue("q")) == [b"3"]
    bench.turn(11)
    assert kept(bench, queue("q")) == []
    assert bench.broker.queue_stats("q").ready == 0


def test_bytes_of_the_end() -> None:
    bench = Bench(policy=Policy(retain_bytes=3_000))
    for n in range(30):
        pass_through(bench, f"{n:01000}")
    bench.turn(20)
    left = kept(bench, queue("q"))
    assert left[-1] == b"%01000d" % 29
    assert 3 <= len(left) <= 5


def test_a_retained_topic_is_stored_although_nobody_reads_it() -> None:
    rules = [Rule("news.*", {"retain": 60_000})]
    bench = Bench(policy=Policies(Policy(), topic_rules=rules, topic_default=TopicPolicy()))
    told = result(bench.broker.publish(topic("news.a"), text("1")))
    assert not told.message_id.startswith("live.")
    assert result(bench.broker.publish(topic("other"), text("1"))).message_id.startswith("live.")
    bench.turn(30)
    assert kept(bench, topic("news.a")) == [b"1"]
    bench.turn(40)
    assert kept(bench, topic("news.a")) == []


def test_retention_switched_on_and_off_while_running() -> None:
    bench = Bench()
    pass_through(bench, "1")
    result(start(bench.broker.reload(Policies(Policy(retain=3_600_000)))))
    pass_through(bench, "2")
    bench.turn(100)
    assert b"2" in kept(bench, queue("q"))
    result(start(bench.broker.reload(Policies(Policy()))))
    bench.turn(10)
    assert kept(bench, queue("q")) == []
