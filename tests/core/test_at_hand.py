"""Messages that can be taken without waiting for anything."""

from __future__ import annotations

from broker.core.destination import queue
from broker.core.policy import Policies, Policy, Rule
from tests.core.support import Bench, result, start, text


def filled(policy: Policies | Policy = Policy()) -> Bench:  # noqa: B008 - frozen
    bench = Bench(policy=policy)
    for body in "abc":
        result(bench.broker.publish(queue("q"), text(body)))
    return bench


def test_the_next_one_is_on_loan_like_any_other() -> None:
    bench = filled()
    assert bench.body("q") == b"a"
    delivery = bench.broker.at_hand("q")
    assert delivery is not None
    assert (delivery.message.body, delivery.on_loan) == (b"b", True)
    assert bench.broker.stats.delivered == 2
    result(bench.broker.ack([delivery]))
    assert bench.body("q") == b"c"


def test_several_are_taken_together_as_far_as_they_are_there() -> None:
    bench = filled()
    assert bench.body("q") == b"a"
    several = bench.broker.several_at_hand("q", 1, 100, leased=True, lease=5_000)
    several += bench.broker.several_at_hand("q", 9, 100, leased=True, lease=5_000)
    assert [delivery.message.body for delivery in several] == [b"b", b"c"]
    assert all(delivery.lease == 5_000 for delivery in several)
    assert bench.broker.stats.delivered == 3
    assert bench.broker.several_at_hand("q", 9, 100) == []
    assert bench.broker.several_at_hand("nobody", 9, 100) == []
    result(bench.broker.ack(several))


def test_no_more_of_several_are_taken_once_there_is_enough_of_them() -> None:
    bench = filled()
    result(bench.broker.publish(queue("q"), text("d")))
    assert bench.body("q") == b"a"
    assert [delivery.message.body for delivery in bench.broker.several_at_hand("q", 9, 2)] == [b"b", b"c"]


def test_there_is_none_where_there_is_no_queue_no_message_or_nothing_in_memory() -> None:
    bench = filled()
    assert bench.broker.at_hand("nobody") is None
    assert not bench.broker.exists("nobody")
    bench.boot()
    assert bench.broker.at_hand("q") is None, "it is to be read first"
    assert [bench.body("q") for _ in range(4)] == [b"a", b"b", b"c", None]
    assert bench.broker.at_hand("q") is None


def test_none_overtakes_those_who_wait() -> None:
    bench = Bench(policy=Policies(Policy(), [Rule("q", {"paused": True})]))
    result(bench.broker.publish(queue("q"), text("a")))
    waiting = start(bench.broker.take("q", wait=60))
    bench.turn()
    assert bench.broker.at_hand("q") is None
    _ = start(bench.broker.reload(Policies(Policy())))
    bench.turn()
    taken = result(waiting)
    assert taken is not None
    assert taken.message.body == b"a"


def test_who_waited_gets_a_share_at_once_and_the_others_theirs() -> None:
    bench = filled(Policy(paused=True))

    async def share() -> list[bytes]:
        first = await bench.broker.take("q", wait=60)
        assert first is not None
        return [one.message.body for one in bench.broker.with_share(first, 9, 100)]

    waiting = [start(share()) for _ in range(2)]
    result(bench.broker.publish(queue("q"), text("d")))
    assert bench.broker.contended("q")
    _ = start(bench.broker.reload(Policies(Policy())))
    bench.turn()
    assert [result(one) for one in waiting] == [[b"a", b"b"], [b"c", b"d"]]
    assert not bench.broker.contended("q")
    assert not bench.broker.contended("nobody")
    assert bench.broker.stats.delivered == 4


def test_an_expired_one_before_it_is_settled_on_the_way() -> None:
    bench = Bench()
    result(bench.broker.publish(queue("q"), text("old", ttl=1_000)))
    result(bench.broker.publish(queue("q"), text("new")))
    result(bench.broker.publish(queue("q"), text("newer")))
    first = result(start(bench.broker.take("q")))
    assert first is not None
    bench.broker.release([first])
    bench.clock.advance(1.5)
    found = bench.broker.at_hand("q")
    assert found is not None
    assert found.message.body == b"new"
    assert bench.broker.queue_stats("q").expired == 1


def test_nothing_is_ready_when_all_of_it_is_settled_or_on_loan() -> None:
    bench = filled()
    assert not bench.broker.nothing_ready("nobody")
    assert not bench.broker.nothing_ready("q")
    for _ in range(2):
        assert bench.body("q") is not None
    last = bench.broker.at_hand("q")
    assert last is not None
    assert bench.broker.nothing_ready("q")
    bench.broker.release([last])
    assert not bench.broker.nothing_ready("q")
    last = bench.broker.at_hand("q")
    assert last is not None
    result(bench.broker.ack([last]))
    assert bench.broker.nothing_ready("q")
