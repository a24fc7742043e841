"""Who gets which message when: order, leases, limits, long polls; Linger's own tests as behaviours."""

from __future__ import annotations

import pytest

from broker.core.destination import queue
from broker.core.message import Message
from broker.core.policy import Policy
from broker.errors import StoreUnavailable
from broker.http import call
from broker.storage.memory import MemoryStore
from tests.http.support import World, done


def test_priorities_then_arrival() -> None:
    world = World()
    for number in (0, 1, -1, 0):
        world.post("work", f"{number}".encode(), f"?priority={number}")
    assert [world.get("work").body for _ in range(4)] == [b"-1", b"0", b"0", b"1"]


def test_a_message_that_returns_is_back_at_its_place() -> None:
    world = World()
    first = world.post("work", query="?timeout=1")
    second = world.post("work", query="?timeout=10")
    assert world.get("work").id == first.id
    world.clock.advance(1)
    assert [world.get("work").id, world.get("work").id] == [first.id, second.id]


def test_a_lease_is_that_of_the_message() -> None:
    world = World()
    put = world.post("work", query="?timeout=1")
    assert world.get("work").id == put.id
    assert world.get("work").status == 204
    world.clock.advance(0.9)
    assert world.get("work").status == 204
    world.clock.advance(0.1)
    again = world.get("work")
    assert (again.id, again.headers["x-linger-delivered"], again.body) == (put.id, "2", b"a message")


def test_a_lease_is_else_that_of_the_policy() -> None:
    world = World(policy=Policy(lease=5_000))
    world.post("work")
    assert world.get("work").headers["x-linger-timeout"] == "5"
    world.clock.advance(5)
    assert world.get("work").status == 200


def test_a_message_past_its_time_is_not_delivered() -> None:
    world = World()
    world.post("work", query="?linger=1")
    world.clock.advance(1)
    assert world.get("work").status == 204
    assert world.ready("work") == (0, 0)


def test_the_delivery_limit_counts_when_the_last_lease_ends() -> None:
    world = World()
    put = world.post("work", query="?deliver=1&timeout=1")
    assert world.get("work").headers["x-linger-deliver"] == "1"
    assert world.ready("work") == (0, 1)
    assert world.ask("POST", f"/messages/{put.id}/touch").status == 204
    world.clock.advance(1)
    assert world.get("work").status == 204
    assert world.ready("work") == (0, 0)
    assert world.ask("DELETE", f"/messages/{put.id}").status == 404


def test_touched_three_times() -> None:
    world = World()
    put = world.post("work", query="?timeout=1")
    world.get("work")
    for _ in range(3):
        world.clock.advance(0.9)
        assert world.ask("POST", f"/messages/{put.id}/touch").status == 204
        assert world.get("work").status == 204
    world.clock.advance(1.2)
    assert world.get("work").id == put.id


def test_leases_outlive_a_restart() -> None:
    store = MemoryStore()
    first = World(store=store)
    put = first.post("work", query="?timeout=10")
    first.get("work")
    first.clock.advance(0)
    second = World(store=store)
    second.clock.advance(9)
    assert second.get("work").status == 204
    second.clock.advance(1)
    assert second.get("work").id == put.id


def test_a_walk_through_the_interface() -> None:
    world = World()
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert world.ask("GET", "/stats").json["current-messages"] == 0
    put = world.ask("POST", "/channels/work", b"msg=hello", **form)
    assert put.status == 202
    assert world.ask("PUT", "/channels/work/topics/news", b"").status == 204
    published = world.ask("POST", "/topics/news", b"msg=world", **form)
    assert (published.status, set(published.json)) == (202, {"work"})
    first = world.ask("GET", "/channels/work")
    assert (first.id, first.body) == (put.id, b"hello")
    assert world.ask("DELETE", f"/messages/{first.id}").status == 204
    assert world.ask("DELETE", "/channels/work/topics/news").status == 204
    assert world.ask("POST", "/topics/news", b"msg=x", **form).json == {}
    second = world.ask("GET", "/channels/work")
    assert (second.id, second.body) == (published.json["work"], b"world")
    assert world.ask("DELETE", f"/messages/{second.id}").status == 204
    assert world.ask("GET", "/stats").json["current-messages"] == 0


# -- long polls


def test_one_user_cannot_have_any_number_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "MAX_WAITING", 2)
    world = World()
    waiting = [world.waiting("GET", "/channels/work"), world.waiting("GET", "/channels/work/stream")]
    for path in ("/channels/work", "/topics/news/stream"):
        refused = world.ask("GET", path, Accept="application/json")
        assert (refused.status, refused.json["type"]) == (429, "/problems/too-many")
        assert refused.headers["retry-after"] == "1"
    assert world.post("other").status == 202
    for one in waiting:
        one.leave()
    assert world.waiting("GET", "/channels/work").answers() == []


def test_a_get_waits_for_a_message() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    world.clock.advance(100)
    assert waiter.answers() == []
    assert world.ask("GET", "/channels").json == {"channels": ["work"]}
    put = world.post("work", b"here")
    got = waiter.answer()
    assert (got.id, got.body) == (put.id, b"here")
    assert world.ready("work") == (0, 1)


def test_a_get_waits_for_two_minutes() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    world.clock.advance(119)
    assert waiter.answers() == []
    world.clock.advance(1)
    assert waiter.answer().status == 204
    assert not waiter.closing


@pytest.mark.parametrize("query", ["nowait", "nowait=", "nowait=0", "wait=0", "wait=20&nowait"])
def test_a_get_that_does_not_wait(query: str) -> None:
    assert World().ask("GET", f"/channels/work?{query}").status == 204


def test_a_get_that_waits_as_long_as_it_says() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work?wait=3")
    world.clock.advance(2)
    assert waiter.answers() == []
    world.clock.advance(1)
    assert waiter.answer().status == 204


@pytest.mark.parametrize("wait", ["", "-1", "121", "x", str(2**63)])
def test_a_wait_that_is_none(wait: str) -> None:
    assert World().ask("GET", f"/channels/work?wait={wait}").status == 400


def test_first_come_first_served() -> None:
    world = World()
    waiters = [world.waiting("GET", "/channels/work") for _ in range(3)]
    for number in range(3):
        world.post("work", f"{number}".encode())
    assert [waiter.answer().body for waiter in waiters] == [b"0", b"1", b"2"]


def test_a_message_that_returns_goes_to_who_waits() -> None:
    world = World()
    put = world.post("work", query="?timeout=1")
    world.get("work")
    waiter = world.waiting("GET", "/channels/work")
    world.clock.advance(1)
    world.clock.advance(0)
    assert waiter.answer().id == put.id


def test_a_client_that_leaves_loses_no_message() -> None:
    world = World()
    gone, stays = world.waiting("GET", "/channels/work"), world.waiting("GET", "/channels/work")
    gone.leave()
    world.post("work", b"one")
    assert stays.answer().body == b"one"
    gone = world.waiting("GET", "/channels/work")
    gone.leave()
    world.post("work", b"two")
    assert world.ready("work") == (1, 1)
    assert gone.transport.value() == b""
    assert world.get("work").headers["x-linger-delivered"] == "1"


def test_a_client_that_leaves_frees_its_channel_at_once() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    assert world.broker.queue_stats("work").waiters == 1
    waiter.leave()
    assert world.broker.queue_stats("work").waiters == 0
    assert world.ask("GET", "/channels").json == {"channels": []}


def test_a_client_that_leaves_with_a_second_request_in_the_pipe() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    waiter.ask("GET", "/channels/work")
    waiter.leave()
    world.post("work")
    assert world.ready("work") == (1, 0)


def test_answers_on_one_connection_keep_the_order_of_their_requests() -> None:
    world = World()
    connection = world.connect()
    connection.ask("GET", "/channels/work")
    connection.ask("GET", "/healthz")
    assert connection.answers() == []
    world.post("work", b"first")
    first, second = connection.answers()
    assert (first.body, second.body) == (b"first", b"ok\n")


# -- what is told, and when


def test_no_202_before_the_commit() -> None:
    world = World(store=MemoryStore(hold=True))
    producer = world.waiting("POST", "/channels/work", b"x")
    assert producer.answers() == []
    assert world.get("work").status == 204
    world.store.release_commit()
    assert producer.answer().status == 202


def test_no_202_of_a_topic_before_the_commit() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news")
    world.store.hold = True
    producer = world.waiting("POST", "/topics/news", b"x")
    assert producer.answers() == []
    world.store.release_commit()
    assert producer.answer().status == 202


def test_no_204_of_a_settlement_before_the_commit() -> None:
    world = World()
    put = world.post("work")
    world.store.hold = True
    consumer = world.waiting("DELETE", f"/messages/{put.id}")
    drain = world.waiting("DELETE", "/channels/work")
    binder = world.waiting("PUT", "/channels/work/topics/news")
    assert consumer.answers() == drain.answers() == binder.answers() == []
    while world.store.held is not None:
        world.store.release_commit()
    assert [c.answer().status for c in (consumer, drain, binder)] == [204, 204, 204]


def test_a_commit_that_fails_is_503_and_leaves_nothing() -> None:
    world = World(store=MemoryStore(hold=True))
    producer = world.waiting("POST", "/channels/work", b"x")
    world.store.fail_commit(StoreUnavailable("the disk is full"))
    failed = producer.answer()
    assert (failed.status, failed.body) == (503, b"HTTP 503 the disk is full\n")
    assert int(failed.headers["retry-after"]) > 0
    world.store.hold = False
    if world.store.held is not None:
        world.store.release_commit()
    world.clock.advance(2)
    assert world.get("work").status == 204
    assert world.post("work", b"y").status == 202
    assert world.get("work").body == b"y"


def test_a_producer_that_leaves_changes_nothing() -> None:
    world = World(store=MemoryStore(hold=True))
    producer = world.waiting("POST", "/channels/work", b"x")
    producer.leave()
    world.store.hold = False
    world.store.release_commit()
    assert world.get("work").body == b"x"
    assert producer.transport.value() == b""


# -- what other fronts put in


def test_an_empty_message_is_delivered_as_one() -> None:
    world = World()
    done(world.broker.publish(queue("work"), Message(content_type="application/octet-stream", flags=7)))
    got = world.get("work")
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "0")
    assert got.headers["content-type"] == "application/octet-stream"
    assert not [name for name in got.headers if "flag" in name]


def test_headers_go_in_and_out() -> None:
    world = World()
    world.post("work", ce_id="o-17", X_Message_Colour="blue", Authorization="none")
    got = world.get("work")
    assert (got.headers["ce-id"], got.headers["x-message-colour"]) == ("o-17", "blue")
    world.post("work")
    seen = done(world.broker.peek("work"))
    assert seen.message.headers == {}
    world.ask("DELETE", "/channels/work")
    world.post("work", ce_id="o-17", X_Message_Colour="blue", Authorization="none")
    seen = done(world.broker.peek("work"))
    assert seen.message.headers == {"ce-id": "o-17", "colour": "blue"}


def test_a_large_message_of_another_front() -> None:
    world = World()
    body = bytes(range(256)) * 4096
    done(world.broker.publish(queue("work"), Message(body=body, headers={"bad name": "x", "good": "line\nend"})))
    got = world.get("work")
    assert got.body == body
    assert not [name for name in got.headers if name.startswith("x-message")]
