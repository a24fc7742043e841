"""Cursors: queues that read another's log, and settle what that settles (Siberite's)."""

from __future__ import annotations

import pytest

from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.policy import Policies, Policy, Rule
from broker.errors import BadValue
from tests.core.support import Bench, result, start, text


def filled(count: int = 5, policy: Policies | Policy = Policy(), bench: Bench | None = None) -> Bench:  # noqa: B008
    """Queue q with messages, and a cursor on it that has read none yet."""
    bench = bench or Bench(policy=policy)
    for n in range(count):
        result(bench.broker.publish(queue("q"), text(str(n))))
    result(start(bench.broker.bind("q.c", queue("q"), since=0, follows=True)))
    return bench


def take(bench: Bench, name: str) -> Delivery:
    delivery = result(start(bench.broker.take(name)))
    assert delivery is not None
    return delivery


def ready(bench: Bench, name: str = "q.c") -> int:
    return bench.broker.queue_stats(name).ready


def test_what_the_queue_settles_the_cursor_settles_too() -> None:
    bench = filled()
    assert [bench.body("q"), bench.body("q")] == [b"0", b"1"]
    assert (ready(bench), bench.broker.queue_stats("q.c").settled) == (3, 2)
    assert bench.body("q.c") == b"2"
    assert ready(bench, "q") == 3, "what the cursor settles, the queue keeps"
    bench.boot()
    assert (ready(bench), ready(bench, "q")) == (2, 3), "both were in one commit"
    assert [bench.body("q.c") for _ in range(3)] == [b"3", b"4", None]
    assert bench.body("q") == b"2"


def test_it_goes_on_after_a_restart_and_for_what_comes_later() -> None:
    bench = filled(1)
    bench.boot()
    result(bench.broker.publish(queue("q"), text("new")))
    assert [bench.body("q"), bench.body("q")] == [b"0", b"new"]
    assert ready(bench) == 0


def test_what_is_open_in_the_cursor_stays_until_that_is_over() -> None:
    bench = filled()
    acked, given = take(bench, "q.c"), take(bench, "q.c")
    assert [bench.body("q") for _ in range(3)] == [b"0", b"1", b"2"]
    assert bench.broker.queue_stats("q.c").on_loan == 2
    result(bench.broker.ack([acked]))
    bench.broker.nack([given])
    assert [bench.body("q.c") for _ in range(3)] == [b"3", b"4", None], "1 was settled meanwhile"


@pytest.mark.parametrize("how", ["purge", "settle", "reject", "transaction", "expire", "drop"])
def test_however_it_is_settled(how: str) -> None:
    rules = {"drop": {"max_messages": 5, "overflow": "drop_oldest"}}
    bench = filled(policy=Policies(Policy(), [Rule("q", rules.get(how, {}))]))
    if how == "purge":
        result(start(bench.broker.purge("q")))
    elif how == "settle":
        result(bench.broker.settle(take(bench, "q").id))
    elif how == "reject":
        result(bench.broker.reject([take(bench, "q")]))
    elif how == "transaction":
        transaction = bench.broker.begin()
        transaction.ack([take(bench, "q")])
        done = transaction.commit()
        result(done)
    elif how == "expire":
        _ = start(bench.broker.reload(Policies(Policy(), [Rule("q", {"ttl": 1_000})])))
        bench.turn(30)
    else:
        result(bench.broker.publish(queue("q"), text("6")))
    assert ready(bench) == {"purge": 0, "expire": 0, "drop": 5}.get(how, 4)
    bench.boot()
    assert ready(bench) == {"purge": 0, "expire": 0, "drop": 5}.get(how, 4)


def test_a_binding_that_no_longer_follows_keeps_everything() -> None:
    bench = filled()
    result(start(bench.broker.bind("q.c", queue("q"))))
    assert not bench.broker.follows("q.c", queue("q"))
    assert [bench.body("q"), bench.body("q")] == [b"0", b"1"]
    assert ready(bench) == 5


def test_the_queue_may_go_and_come_again() -> None:
    bench = filled(2)
    result(start(bench.broker.delete("q")))
    assert ready(bench) == 0, "what is dropped with it is settled"
    for n in (2, 3):
        result(bench.broker.publish(queue("q"), text(str(n))))
    assert bench.body("q") == b"2"
    assert [bench.body("q.c") for _ in range(2)] == [b"3", None]
    result(start(bench.broker.delete("q.c")))
    assert bench.body("q") == b"3"


def test_a_further_priority_is_followed() -> None:
    bench = filled(1)
    result(bench.broker.publish(queue("q"), text("urgent", priority=-1)))
    assert bench.body("q") == b"urgent"
    assert [bench.body("q.c"), bench.body("q.c")] == [b"0", None]


def test_a_topic_cannot_be_followed() -> None:
    bench = Bench()
    with pytest.raises(BadValue, match="only a queue can be followed"):
        result(start(bench.broker.bind("q.c", topic("t"), follows=True)))
