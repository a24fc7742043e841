"""Looking at messages without taking them; what a transaction does beside acking and publishing."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core import browsing
from broker.core.browsing import Page, State
from broker.core.delivery import Delivery
from broker.core.destination import Destination, queue, topic
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.errors import NotFound, QueueFull
from tests.core.support import Bench, result, start, text

ALL = tuple(State)


def bench(**rules: object) -> Bench:
    return Bench(policy=Policies(Policy(), [Rule("q", rules)], topic_default=TopicPolicy(retain=60_000)))


def put(on: Bench, body: str, name: str = "q", **fields: Any) -> int:
    return int(result(on.broker.publish(queue(name), text(body, **fields))).deliveries[name])


def taken(on: Bench, name: str = "q") -> Delivery:
    waiting = start(on.broker.take(name, leased=True))
    on.turn()
    delivery = result(waiting)
    assert isinstance(delivery, Delivery)
    return delivery


def browse(on: Bench, of: Destination | None = None, **how: Any) -> Page:
    waiting = start(on.broker.browse(of or queue("q"), **how))
    on.turn()
    page = result(waiting)
    assert isinstance(page, Page)
    return page


def bodies(page: Page) -> list[str]:
    return [seen.message.body.decode() for seen in page.seen]


def test_messages_are_seen_in_the_order_of_their_coming_whatever_their_priority() -> None:
    on = bench()
    for body, priority in (("a", 0), ("b", -1), ("c", 0), ("d", 5)):
        put(on, body, priority=priority)
    page = browse(on)
    assert (bodies(page), page.after) == (["a", "b", "c", "d"], None)
    assert taken(on).message.body == b"b"


def test_a_page_says_where_to_go_on() -> None:
    on = bench()
    for body in "abcde":
        put(on, body, priority=ord(body) % 2)
    pages, after = [], 0
    while True:
        page = browse(on, after=after, limit=2)
        pages.append(bodies(page))
        if page.after is None:
            break
        after = page.after
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_each_state_is_told_and_can_be_asked_for() -> None:
    on = bench(retain=60_000)
    for body in "abcd":
        put(on, body)
    put(on, "late", delay=30_000)
    result(on.broker.ack([taken(on)]))
    failed = taken(on)
    on.broker.nack([failed], reason="no luck", delay=5_000)
    taken(on)
    on.turn()
    states = {seen.message.body.decode(): seen.state for seen in browse(on, states=ALL).seen}
    assert states == {
        "a": State.DONE,
        "b": State.DELAYED,
        "c": State.ON_LOAN,
        "d": State.READY,
        "late": State.DELAYED,
    }
    for state, found in ((State.DONE, "a"), (State.ON_LOAN, "c"), (State.READY, "d")):
        assert bodies(browse(on, states=[state])) == [found]
    (held,) = [seen for seen in browse(on).seen if seen.message.body == b"b"]
    assert (held.attempts, held.reason, held.failed_at) == (1, "no luck", on.broker.now())


def test_what_is_in_memory_only_is_seen_too() -> None:
    on = bench(durable=False)
    for body in "abc":
        put(on, body)
    on.broker.release([taken(on)])
    taken(on)
    page = browse(on)
    assert [(seen.message.body, seen.state) for seen in page.seen] == [
        (b"a", State.ON_LOAN),
        (b"b", State.READY),
        (b"c", State.READY),
    ]


def test_a_topics_log_is_read_from_any_position() -> None:
    on = bench()
    news = topic("news")
    for body in "abc":
        result(on.broker.publish(news, text(body)))
    first = browse(on, news, limit=1)
    assert first.after == first.seen[0].message.stamp
    assert bodies(browse(on, news, after=first.after)) == ["b", "c"]
    assert bodies(browse(on, news, until=browse(on, news).seen[2].message.stamp)) == ["a", "b"]
    assert browse(on, topic("nothing")).seen == []


def test_a_search_in_vain_ends_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "MAX_EXAMINED", 3)
    on = bench()
    for body in "abcdx":
        put(on, body)

    def accepts(message: Any, of: Destination) -> bool:
        return bool(message.body == b"x")

    page = browse(on, accepts=accepts)
    assert (page.seen, page.after is None) == ([], False)
    assert bodies(browse(on, after=page.after, accepts=accepts)) == ["x"]


def test_browsing_after_a_restart_reads_what_is_stored() -> None:
    on = bench()
    for body in "abc":
        put(on, body)
    on.broker.nack([taken(on)], reason="crashed on it")
    on.turn()
    on.boot()
    page = browse(on)
    assert bodies(page) == ["a", "b", "c"]
    assert (page.seen[0].reason, page.seen[0].attempts) == ("crashed on it", 1)


def why(on: Bench, id: int) -> list[str]:
    return list(result(start(on.broker.look(id)))[1])


def test_why_a_message_is_not_delivered() -> None:
    on = bench(max_on_loan=1)
    first, second = put(on, "a"), put(on, "b")
    assert why(on, second) == ["nobody asks for messages of the queue"]
    loan = taken(on)
    assert why(on, first) == ["it is on loan, until its lease ends"]
    assert "its limit (max_on_loan)" in why(on, second)[0]
    on.broker.nack([loan], delay=4_000)
    assert why(on, first) == ["it is held back after a failed delivery for 4000 ms more"]
    late = put(on, "late", delay=9_000)
    assert why(on, late) == ["it is delayed for 9000 ms more"]
    result(on.broker.settle(second))
    with pytest.raises(NotFound):
        why(on, second)


def test_why_a_paused_queue_or_a_busy_group_delivers_nothing() -> None:
    on = bench(groups=True)
    put(on, "a", group="g")
    second = put(on, "b", group="g")
    taken(on)
    assert why(on, second)[0] == "its group g is busy: another message of it is on loan"
    paused = bench(paused=True)
    assert why(paused, put(paused, "a"))[0] == "the queue is paused"


# -- leases


def test_every_loan_with_an_end_has_a_token_of_its_own_which_a_restart_keeps() -> None:
    on = bench()
    put(on, "a")
    first = taken(on)
    on.broker.release([first])
    second = taken(on)
    assert first.token
    assert second.token not in ("", first.token)
    result(start(on.broker.touch(second.id)))
    on.turn()
    on.boot()
    kept = on.broker.find(second.id)
    assert kept is not None
    assert kept.token == second.token


# -- transactions


def test_a_transaction_gives_back_touches_and_tells_what_became_of_its_publishes() -> None:
    on = bench()
    for body in "abc":
        put(on, body)
    failed, freed, touched = taken(on), taken(on), taken(on)
    on.turn(10)
    transaction = on.broker.begin()
    transaction.nack([failed], reason="later", delay=7_000)
    transaction.release([freed])
    transaction.touch([touched], 50_000)
    transaction.publish(queue("out"), text("made"))
    result(transaction.commit())
    assert list(transaction.published[0].deliveries) == ["out"]
    assert touched.due == on.broker.now() + 50_000_000
    assert (why(on, failed.id), freed.on_loan) == (["it is held back after a failed delivery for 7000 ms more"], False)
    on.turn()
    on.boot()
    assert why(on, failed.id) == ["it is held back after a failed delivery for 7000 ms more"]
    assert why(on, touched.id) == ["it is on loan, until its lease ends"]
    assert taken(on).message.body == b"b"


def test_a_transaction_that_is_refused_changes_no_loan() -> None:
    on = Bench(policy=Policies(Policy(), [Rule("full", {"max_messages": 1})]))
    put(on, "in the way", "full")
    put(on, "a")
    loan = taken(on)
    due = loan.due
    transaction = on.broker.begin()
    transaction.touch([loan], 90_000)
    with pytest.raises(QueueFull):
        transaction.publish(queue("full"), text("no room"))
    transaction.abort()
    assert (loan.on_loan, loan.due, loan.claimed) == (True, due, False)
