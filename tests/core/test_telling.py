"""Subscribers of topics that are told of messages, without a loan."""

from __future__ import annotations

import attrs

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import topic
from broker.core.topic import Live
from tests.core.support import Bench, result, text
from tests.support import flush_logged_errors


@attrs.define
class Told:
    """A subscriber, what it was told, and what was delivered to it."""

    bench: Bench
    takes: bool = True
    got: list[str] = attrs.field(factory=list)
    loans: list[Delivery] = attrs.field(factory=list)
    subscription: Subscription = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.subscription = self.bench.broker.subscribe(topic("t.#"), self._deliver, prefetch=10, tell=self._tell)

    def _tell(self, lives: list[Live]) -> bool:
        if self.takes:
            self.got += [live.message.body.decode() for live in lives]
        return self.takes

    def _deliver(self, delivery: Delivery) -> None:
        self.got.append(f"loan of {delivery.message.body.decode()}")
        self.loans.append(delivery)


def publish(bench: Bench, *bodies: str) -> list[str]:
    """Publish to topic t.u; the messages' ids."""
    return [result(bench.broker.publish(topic("t.u"), text(body))).message_id for body in bodies]


def test_it_is_told_at_once_and_there_is_nothing_to_settle() -> None:
    bench = Bench()
    one = Told(bench)
    publish(bench, "a", "b")
    assert one.got == ["a", "b"]
    stats = bench.broker.stats
    assert (stats.delivered, stats.delivered_bytes, stats.settled) == (2, 2, 2)
    assert one.subscription.unsettled == {}


def test_it_learns_the_message_its_id_and_its_topic() -> None:
    bench = Bench()
    seen: list[Live] = []

    def tell(lives: list[Live]) -> bool:
        seen.extend(lives)
        return True

    bench.broker.subscribe(topic("*.u"), lambda _: None, prefetch=1, tell=tell)
    (id,) = publish(bench, "a")
    assert [(live.message.body, live.message_id, live.source) for live in seen] == [(b"a", id, topic("t.u"))]


def test_what_it_does_not_take_now_is_lent_and_what_follows_waits_behind_it() -> None:
    bench = Bench()
    one = Told(bench, takes=False)
    publish(bench, "a")
    one.takes = True
    publish(bench, "b")
    assert one.got == ["loan of a", "loan of b"]
    result(bench.broker.ack(one.loans))
    publish(bench, "c")
    assert one.got == ["loan of a", "loan of b", "c"]


def test_one_that_is_paused_gets_all_in_order_later() -> None:
    bench = Bench()
    one = Told(bench)
    bench.broker.pause(one.subscription)
    publish(bench, "a", "b")
    assert one.got == []
    bench.broker.resume(one.subscription)
    publish(bench, "c")
    assert one.got == ["loan of a", "loan of b", "loan of c"]


def test_one_that_ended_is_told_nothing() -> None:
    bench = Bench()
    one = Told(bench)
    bench.broker.unsubscribe(one.subscription)
    publish(bench, "a")
    assert one.got == []


def test_one_that_fails_harms_no_other() -> None:
    bench = Bench()

    def fail(lives: list[Live]) -> bool:
        raise ZeroDivisionError

    bench.broker.subscribe(topic("t.u"), lambda _: None, prefetch=1, tell=fail)
    one = Told(bench)
    publish(bench, "a")
    assert one.got == ["a"]
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
