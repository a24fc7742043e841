"""What a queue holds in bytes, and how old its oldest message is, without looking at its messages."""

from __future__ import annotations

from broker.core.destination import queue, topic
from tests.core.support import Bench, result, start, text


def test_bytes_follow_what_comes_and_goes() -> None:
    bench = Bench()
    result(start(bench.broker.bind("bound", topic("t"))))
    assert bench.broker.queue_stats("q").bytes == 0
    for n in range(4):
        result(bench.broker.publish(queue("q"), text("x" * 100 * (n + 1), headers={"a": "bc"})))
        result(bench.broker.publish(topic("t"), text("y" * 50)))
    assert bench.broker.queue_stats("q").bytes == 1_000 + 4 * 3
    assert bench.broker.queue_stats("bound").bytes == 200
    assert bench.body("q") is not None
    assert bench.broker.queue_stats("q").bytes == 900 + 3 * 3
    taken = result(start(bench.broker.take("q")))
    assert taken is not None
    assert bench.broker.queue_stats("q").bytes == 900 + 3 * 3, "on loan it is still there"
    result(start(bench.broker.purge("q")))
    assert 0 < bench.broker.queue_stats("q").bytes < 900
    result(bench.broker.ack([taken]))
    assert bench.broker.queue_stats("q").bytes == 0
    assert bench.broker.stats.published_bytes == 1_000 + 200
    assert bench.broker.stats.delivered_bytes == 100 + 200


def test_the_oldest_message_gets_old() -> None:
    bench = Bench()
    assert bench.broker.queue_stats("q").oldest_ms == 0
    for _ in range(3):
        result(bench.broker.publish(queue("q"), text("x")))
        bench.turn(10)
    assert bench.broker.queue_stats("q").oldest_ms == 30_000
    taken = result(start(bench.broker.take("q")))
    assert taken is not None
    assert bench.broker.queue_stats("q").oldest_ms == 30_000
    result(bench.broker.ack([taken]))
    assert bench.broker.queue_stats("q").oldest_ms == 20_000
    assert bench.body("q")
    assert bench.body("q")
    assert bench.broker.queue_stats("q").oldest_ms == 0
