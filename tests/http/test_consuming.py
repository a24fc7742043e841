"""Loans over HTTP: their tokens, their lengths, and how they end; several at once."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
import pytest

from broker.core.policy import Policies, Policy, Rule
from broker.errors import StoreUnavailable
from broker.http import consuming
from broker.storage.memory import MemoryStore
from tests.http.support import Response, World

JSON = {"Content_Type": "application/json"}


def took(world: World, channel: str = "work", query: str = "?nowait") -> tuple[int, str]:
    """Take a message; its id and its lease."""
    got = world.ask("GET", f"/channels/{channel}{query}")
    assert got.status == 200
    return got.id, got.headers["x-linger-lease"]


def end(world: World, id: int, how: str, lease: str) -> Response:
    """Ack, touch or nack under a lease."""
    method, path = {"ack": ("DELETE", ""), "touch": ("POST", "/touch"), "nack": ("POST", "/nack")}[how]
    return world.ask(method, f"/messages/{id}{path}?lease={lease}")


@pytest.mark.parametrize("how", ["ack", "touch", "nack"])
def test_a_stale_lease_ends_nothing(how: str) -> None:
    world = World()
    world.post("work", query="?timeout=5")
    id, old = took(world)
    world.clock.advance(5)
    again, new = took(world)
    assert (again, new != old) == (id, True)
    assert end(world, id, how, old).status == 409
    assert world.ready("work") == (0, 1)
    assert end(world, id, how, new).status == 204


def test_a_lease_that_ran_out_is_lost_even_if_nobody_else_has_the_message() -> None:
    world = World()
    world.post("work", query="?timeout=5")
    id, lease = took(world)
    world.clock.advance(5)
    lost = world.ask("DELETE", f"/messages/{id}?lease={lease}", Accept="application/json")
    assert (lost.status, lost.json["type"]) == (409, "/problems/lease-lost")
    assert world.ready("work") == (1, 0)


def test_a_lease_is_the_same_after_a_touch_and_after_a_restart() -> None:
    store = MemoryStore()
    first = World(store=store)
    first.post("work")
    id, lease = took(first)
    assert end(first, id, "touch", lease).status == 204
    first.clock.advance(0)
    second = World(store=store)
    assert end(second, id, "ack", "1234").status == 409
    assert end(second, id, "ack", lease).status == 204


def test_a_message_that_is_gone_is_404_whatever_the_lease() -> None:
    world = World()
    world.post("work")
    id, lease = took(world)
    assert end(world, id, "ack", lease).status == 204
    assert [end(world, id, how, lease).status for how in ("ack", "touch", "nack")] == [404] * 3


def test_the_consumer_chooses_the_lease() -> None:
    world = World()
    world.post("work", query="?timeout=60")
    got = world.ask("GET", "/channels/work?nowait&timeout=2")
    assert got.headers["x-linger-timeout"] == "2"
    world.clock.advance(2)
    id, lease = took(world)
    assert world.ask("POST", f"/messages/{id}/touch?timeout=3&lease={lease}").status == 204
    world.clock.advance(2.9)
    assert world.get("work").status == 204
    world.clock.advance(0.1)
    assert world.get("work").id == id


def test_a_wait_may_be_preferred_in_a_header() -> None:
    world = World()
    waiting = world.waiting("GET", "/channels/work", Prefer="respond-async, wait=7")
    world.clock.advance(6.9)
    assert waiting.answers() == []
    world.clock.advance(0.1)
    assert waiting.answer().status == 204


# -- nack


def test_a_nack_counts_hides_and_says_why() -> None:
    world = World()
    world.post("work")
    id, lease = took(world)
    assert world.ask("POST", f"/messages/{id}/nack?delay=30&reason=upstream+503&lease={lease}").status == 204
    assert world.get("work").status == 204
    seen = world.ask("GET", f"/messages/{id}").json
    assert (seen["state"], seen["attempts"], seen["reason"]) == ("delayed", 1, "upstream 503")
    world.clock.advance(30)
    assert world.get("work").headers["x-linger-delivered"] == "2"


def test_a_message_given_back_for_free_failed_not() -> None:
    world = World()
    world.post("work", query="?deliver=1")
    id, _ = took(world)
    assert world.ask("POST", f"/messages/{id}/nack?free=1").status == 204
    assert world.get("work").headers["x-linger-delivered"] == "1"


def test_a_dead_message_goes_to_the_dead_letter_queue() -> None:
    world = World(policy=Policies(Policy(), [Rule("work", {"dead_letter": "work.dead"})]))
    world.post("work", b"bad")
    id, _ = took(world)
    assert world.ask("POST", f"/messages/{id}/nack?dead=1").status == 204
    dead = world.get("work.dead")
    assert (dead.body, dead.headers["x-message-dead-letter-reason"]) == (b"bad", "rejected")
    assert world.ready("work") == (0, 0)


def test_what_is_not_on_loan_cannot_be_given_back() -> None:
    world = World()
    put = world.post("work")
    assert world.ask("POST", f"/messages/{put.id}/nack").status == 409
    assert world.ask("POST", f"/messages/{put.id}/nack?delay=x").status == 400
    assert world.ask("POST", "/messages/1/nack").status == 404


# -- ack=auto


@pytest.mark.parametrize("settles", ["before", "after"])
def test_with_ack_auto_a_message_is_gone_once_it_is_sent(settles: str) -> None:
    world = World(policy=Policies(Policy(), [Rule("work", {"get_settles": settles})]))
    world.post("work")
    got = world.ask("GET", "/channels/work?nowait&ack=auto")
    assert (got.status, "x-linger-lease" in got.headers) == (200, False)
    assert world.ready("work") == (0, 0)
    assert world.ask("GET", "/channels/work?nowait&ack=maybe").status == 400


def test_get_settles_before_waits_for_the_disk_and_after_does_not() -> None:
    for settles, answered in (("before", 0), ("after", 1)):
        world = World(policy=Policies(Policy(), [Rule("work", {"get_settles": settles})]))
        world.post("work")
        world.post("work")
        world.get("work")
        world.store.hold = True
        waiting = world.waiting("GET", "/channels/work?nowait&ack=auto")
        assert len(waiting.answers()) == answered, settles


# -- several at once


def lease(world: World, body: bytes, **headers: str) -> Response:
    return world.ask("POST", "/channels/work/lease", body, **(JSON | headers))


def test_several_messages_are_leased_at_once() -> None:
    world = World()
    for number in range(3):
        world.post("work", b'{"n":%d}' % number, **JSON)
    got = lease(world, b'{"max": 2, "timeout": 60}')
    first, second = got.json["messages"]
    assert [one["event"]["data"] for one in (first, second)] == [{"n": 0}, {"n": 1}]
    assert (first["timeout"], first["delivered"], first["channel"]) == (60, 1, "work")
    assert world.ready("work") == (1, 2)
    assert end(world, first["id"], "ack", first["lease"]).status == 204
    rest = lease(world, b'{"max": 50}', Accept="application/x-ndjson")
    assert rest.body.count(b"\n") == 1


def test_a_batch_waits_for_its_first_message_only() -> None:
    world = World()
    waiting = world.waiting("POST", "/channels/work/lease?wait=20&limit=5", b"")
    world.post("work", b"one")
    world.clock.advance(0)
    assert [one["event"]["data"] for one in waiting.answer().json["messages"]] == ["one"]


@pytest.mark.parametrize(("waiting", "shares"), [(1, [[0, 1, 2, 3, 4, 5]]), (2, [[0, 1, 2], [3, 4, 5]]), (4, [[0]])])
def test_those_who_wait_for_batches_share_what_comes(waiting: int, shares: list[list[int]]) -> None:
    world = World()
    connections = [world.waiting("POST", "/channels/work/lease?wait=20&limit=50", b"") for _ in range(waiting)]
    world.ask("POST", "/channels/work/messages", b"[0,1,2,3,4,5]", **JSON)
    got = [[one["event"]["data"] for one in connection.answer().json["messages"]] for connection in connections]
    assert got[: len(shares)] == shares
    assert list(chain.from_iterable(got)) == list(range(6))


def test_a_limit_of_bytes_holds_for_what_comes_while_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "MAX_BATCH_BYTES", 4)
    world = World()
    waiting = world.waiting("POST", "/channels/work/lease?wait=20&limit=50", b"")
    world.ask("POST", "/channels/work/messages", b"[0,1,2,3,4,5]", **JSON)
    assert len(waiting.answer().json["messages"]) == 4
    assert world.ready("work") == (2, 4)


def test_a_large_batch_is_taken_in_several_turns() -> None:
    world = World()
    for _ in range(250):
        world.post("work")
    connection = world.connect()
    connection.ask("POST", "/channels/work/lease", b'{"max": 1000}', {"Content-Type": "application/json"})
    assert (connection.answers(), world.broker.queue_stats("work").on_loan) == ([], 100)
    world.clock.advance(0)
    assert len(connection.answer().json["messages"]) == 250


def test_nothing_to_lease_is_204() -> None:
    assert lease(World(), b'{"max": 5}').status == 204


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"max": 0}', 400), (b'{"max": "x"}', 400), (b'{"wait": 121}', 400)],
)
def test_a_wrong_batch_is_refused(body: bytes, status: int) -> None:
    world = World()
    world.post("work")
    answer = lease(world, body, Accept="application/json")
    assert (answer.status, answer.json["type"]) == (status, "/problems/bad-parameter")
    assert world.ready("work") == (1, 0)


def test_a_batch_whose_answer_was_lost_comes_again() -> None:
    world = World()
    for number in range(3):
        world.post("work", b"%d" % number)
    asked = b'{"max": 2, "attempt": "a-1"}'
    first, again = lease(world, asked), lease(world, asked)
    assert [one["id"] for one in first.json["messages"]] == [one["id"] for one in again.json["messages"]]
    assert world.ready("work") == (1, 2)
    end(world, first.json["messages"][0]["id"], "ack", first.json["messages"][0]["lease"])
    assert len(lease(world, asked).json["messages"]) == 1
    assert len(lease(world, b'{"max": 2, "attempt": "a-2"}').json["messages"]) == 1


def test_workers_that_say_who_they_are_are_shown_with_what_they_hold() -> None:
    world = World()
    for _ in range(3):
        world.post("work")
    lease(world, b'{"max": 2, "worker": "host/7", "code": "v42"}')
    world.ask("GET", "/channels/work?nowait&worker=host/8")
    found = {one.get("worker"): one for one in world.ask("GET", "/channels/work/consumers").json["consumers"]}
    assert (found["host/7"]["code"], found["host/7"]["unsettled"], found["host/8"]["unsettled"]) == ("v42", 2, 1)
    world.clock.advance(30)
    found = {one.get("worker"): one for one in world.ask("GET", "/consumers").json["consumers"]}
    assert found["host/7"]["unsettled"] == 0
    assert found["host/7"]["last_seen"] == "2023-11-14T22:13:20Z"


# -- commit


def commit(world: World, *ops: Any, query: str = "", **headers: str) -> Response:

    return world.ask("POST", f"/commit{query}", msgspec.json.encode({"ops": ops}), **(JSON | headers))


def test_consume_and_produce_in_one_transaction() -> None:
    world = World()
    for number in range(4):
        world.post("raw", b"%d" % number)
    (a, la), (b, lb), (c, lc), (d, _) = [took(world, "raw") for _ in range(4)]
    before = world.store.commits
    event = {"id": "0.0", "source": "/parse", "type": "doc", "data": {"n": 1}}
    done = commit(
        world,
        {"ack": {"id": a, "lease": la}},
        {"nack": {"id": b, "lease": lb, "delay": 9, "reason": "later"}},
        {"touch": {"id": c, "lease": lc, "timeout": 90}},
        {"publish": {"channel": "docs", "event": event}},
        {"nack": {"id": d, "free": True}},
    )
    assert [one["status"] for one in done.json["results"]] == [204, 204, 204, 202, 204]
    assert world.store.commits == before + 1
    made = world.get("docs")
    assert (made.id, made.body, made.headers["ce-id"]) == (done.json["results"][3]["id"], b'{"n":1}', "0.0")
    assert world.get("raw").id == d
    states = {one["id"]: one["state"] for one in world.ask("GET", "/channels/raw/messages").json["messages"]}
    assert states == {b: "delayed", c: "hidden", d: "hidden"}


def test_one_lost_lease_and_nothing_is_done() -> None:
    world = World()
    world.post("raw")
    world.post("raw")
    (a, la), (b, _) = took(world, "raw"), took(world, "raw")
    refused = commit(
        world,
        {"ack": {"id": a, "lease": la}},
        {"publish": {"channel": "docs", "body": "x"}},
        {"ack": {"id": b, "lease": "stale"}},
        Accept="application/json",
    )
    assert (refused.status, refused.json["type"], refused.json["failed"]) == (409, "/problems/lease-lost", [2])
    assert refused.json["errors"][0]["pointer"] == "/ops/2"
    assert (world.ready("raw"), world.ready("docs")) == ((0, 2), (0, 0))
    assert commit(world, {"ack": {"id": a, "lease": la}}).status == 200


def test_a_full_target_and_nothing_is_done() -> None:
    world = World(policy=Policies(Policy(), [Rule("docs", {"max_messages": 1})]))
    world.post("docs")
    world.post("raw")
    id, lease = took(world, "raw")
    full = commit(world, {"ack": {"id": id, "lease": lease}}, {"publish": {"channel": "docs", "body": "x"}})
    assert (full.status, full.headers["retry-after"]) == (507, "1")
    assert world.ready("raw") == (0, 1)
    assert commit(world, {"ack": {"id": id, "lease": lease}}).status == 200


def test_two_that_together_are_too_many_are_refused_together() -> None:
    world = World(policy=Policies(Policy(), [Rule("docs", {"max_messages": 1})]))
    world.post("raw")
    id, lease = took(world, "raw")
    publish = {"publish": {"channel": "docs", "body": "x"}}
    assert commit(world, {"ack": {"id": id, "lease": lease}}, publish, publish).status == 507
    assert (world.ready("raw"), world.ready("docs")) == ((0, 1), (0, 0))
    assert commit(world, {"ack": {"id": id, "lease": lease}}, publish).status == 200


def test_without_atomic_each_has_its_own_outcome() -> None:
    world = World()
    world.post("raw")
    id, lease = took(world, "raw")
    done = commit(
        world,
        {"ack": {"id": 1}},
        {"ack": {"id": id, "lease": lease}},
        {"publish": {"topic": "news", "body": "x"}},
        query="?atomic=0",
    )
    assert [one["status"] for one in done.json["results"]] == [404, 204, 202]
    assert done.json["results"][0]["type"] == "/problems/not-found"


def test_acks_in_a_row_share_a_commit_and_each_has_its_own_outcome() -> None:
    world = World()
    for _ in range(3):
        world.post("raw")
    (a, la), (b, lb), (c, lc) = (took(world, "raw") for _ in range(3))
    ops = [
        {"ack": {"id": a, "lease": la}},
        {"ack": {"id": 1}},
        {"ack": {"id": b, "lease": "stale"}},
        {"ack": {"id": a, "lease": la}},
        {"ack": {"id": c, "lease": lc}},
    ]
    world.store.hold = True
    body = msgspec.json.encode({"ops": ops})
    client = world.waiting("POST", "/commit?atomic=0", body, content_type="application/json")
    assert client.answers() == []
    world.store.release_commit()
    assert [one["status"] for one in client.answer().json["results"]] == [204, 404, 409, 409, 204]
    world.store.hold = False
    assert world.ready("raw") == (0, 1)
    assert commit(world, {"ack": {"id": b, "lease": lb}}).status == 200


def test_acks_in_a_row_whose_commit_fails_are_on_loan_as_before() -> None:
    world = World()
    world.post("raw")
    id, lease = took(world, "raw")
    ops = [{"ack": {"id": 1}}, {"ack": {"id": id, "lease": lease}}]
    world.store.hold = True
    body = msgspec.json.encode({"ops": ops})
    client = world.waiting("POST", "/commit?atomic=0", body, content_type="application/json")
    world.store.fail_commit(StoreUnavailable("the disk is full"))
    assert [one["status"] for one in client.answer().json["results"]] == [404, 503]
    world.store.hold = False
    if world.store.held is not None:
        world.store.release_commit()
    world.clock.advance(2)
    assert world.ready("raw") == (0, 1)
    assert commit(world, {"ack": {"id": id, "lease": lease}}).status == 200


def test_a_queue_that_reads_another_by_its_name_does_so_though_it_has_messages_of_its_own() -> None:
    world = World()
    world.post("orders+audit", b"own")
    assert world.get("orders+audit").body == b"own"
    world.post("orders", b"of all")
    assert world.get("orders+audit").body == b"of all"


@pytest.mark.parametrize(
    ("op", "pointer"),
    [
        ({}, "/ops/0"),
        ({"ack": {"id": 1}, "touch": {"id": 1}}, "/ops/0"),
        ({"ack": {}}, "/ops/0/ack"),
        ({"ack": {"id": "x"}}, "/ops/0/ack/id"),
        ({"juggle": {}}, "/ops/0"),
    ],
)
def test_what_is_no_operation_is_named_with_its_place(op: Any, pointer: str) -> None:
    answer = commit(World(), op, Accept="application/json")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)


@pytest.mark.parametrize(
    "post",
    [
        {"body": "x"},
        {"channel": "a", "topic": "b", "body": "x"},
        {"channel": "a"},
        {"channel": "a", "body": ""},
        {"channel": "a", "body": "x", "delay": -1},
        {"channel": "a", "event": {"id": "1"}},
        {"channel": "", "body": "x"},
        {"channel": "a", "body": "x", "priority": 2**63},
    ],
)
def test_a_publish_that_cannot_be_is_refused(post: Any) -> None:
    world = World()
    assert commit(world, {"publish": post}).status == 400
    assert world.ready("a") == (0, 0)


def test_a_crash_before_the_commit_leaves_neither_and_after_it_both() -> None:
    for committed in (False, True):
        world = World()
        world.post("raw")
        id, lease = took(world, "raw")
        world.store.hold = not committed
        sent = world.waiting(
            "POST",
            "/commit",
            b'{"ops":[{"ack":{"id":%d,"lease":"%b"}},{"publish":{"channel":"docs","body":"x"}}]}'
            % (id, lease.encode()),
            **JSON,
        )
        assert [answer.status for answer in sent.answers()] == [200] * committed
        world.store.hold = False
        after = World(store=world.store)
        assert (after.ready("raw"), after.ready("docs")) == (((0, 0), (1, 0)) if committed else ((0, 1), (0, 0)))
