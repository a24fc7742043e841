"""Channels: put in, take, settle, look; every route and its errors."""

from __future__ import annotations

import pytest

from broker.core.policy import Policy
from tests.http.support import World


def test_what_is_put_in_comes_out() -> None:
    world = World()
    put = world.post(
        "work", b"\x00\xff body", "?priority=-3&timeout=60&deliver=5&linger=600", Content_Type="application/x-odd"
    )
    assert (put.status, put.headers["content-type"]) == (202, "application/json; charset=UTF-8")
    got = world.ask("GET", "/channels/work")
    assert (got.status, got.body) == (200, b"\x00\xff body")
    sent = {name: value for name, value in got.headers.items() if name.startswith(("x-", "content"))}
    assert sent.pop("x-linger-lease")
    assert sent == {
        "content-type": "application/x-odd",
        "content-length": "7",
        "x-linger-channel": "work",
        "x-linger-msg-id": str(put.json["id"]),
        "x-linger-priority": "-3",
        "x-linger-timeout": "60",
        "x-linger-deliver": "5",
        "x-linger-delivered": "1",
        "x-linger-received": "0",
        "x-linger-linger": "600",
        "x-linger-topic": "",
    }


def test_the_defaults() -> None:
    world = World()
    world.post("work")
    got = world.get("work")
    numbers = [got.headers[f"x-linger-{name}"] for name in ("priority", "timeout", "deliver", "linger")]
    assert numbers == ["0", "30", "0", "0"]
    assert got.headers["content-type"] == "text/plain"


def test_the_seconds_since_it_came() -> None:
    world = World()
    world.post("work")
    world.clock.advance(12.7)
    assert world.get("work").headers["x-linger-received"] == "12"


def test_nothing_there() -> None:
    world = World()
    empty = world.get("work")
    assert (empty.status, empty.body, empty.headers["x-linger-channel"]) == (204, b"", "work")
    assert "content-type" not in empty.headers
    assert "content-length" not in empty.headers


def test_a_get_that_does_not_wait_makes_no_channel() -> None:
    world = World()
    world.get("work")
    assert world.ask("GET", "/channels").json == {"channels": []}


def test_channels_are_listed_in_order() -> None:
    world = World()
    for name in ("b", "a%2Fb", "%E2%82%AC"):
        world.post(name)
    assert world.ask("GET", "/channels").json == {"channels": ["a/b", "b", "\u20ac"]}


def test_ready_and_hidden() -> None:
    world = World()
    assert world.ready("work") == (0, 0)
    for _ in range(3):
        world.post("work")
    world.get("work")
    assert world.ready("work") == (2, 1)


def test_a_drain_removes_what_is_ready_and_what_is_hidden() -> None:
    world = World()
    world.ask("PUT", "/channels/work/topics/news")
    hidden, _ = world.post("work"), world.post("work")
    world.get("work")
    assert world.ask("DELETE", "/channels/work").status == 204
    assert world.ready("work") == (0, 0)
    assert world.ask("DELETE", f"/messages/{hidden.id}").status == 404
    assert world.ask("GET", "/channels/work/topics").json == {"topics": ["news"]}


def test_a_drain_of_an_unknown_channel() -> None:
    world = World()
    answer = world.ask("DELETE", "/channels/nothing")
    assert (answer.status, answer.body) == (204, b"")


def test_a_drain_leaves_who_waits() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    world.ask("DELETE", "/channels/work")
    assert waiter.answers() == []
    world.post("work", b"after")
    assert waiter.answer().body == b"after"


# -- settling and touching


def test_settled_by_id() -> None:
    world = World()
    put = world.post("work")
    world.get("work")
    gone = world.ask("DELETE", f"/messages/{put.id}")
    assert (gone.status, gone.body) == (204, b"")
    assert world.ready("work") == (0, 0)
    again = world.ask("DELETE", f"/messages/{put.id}")
    assert (again.status, again.reason, again.body) == (404, "Message not found.", b"")


def test_a_message_that_waits_can_be_settled() -> None:
    world = World()
    put = world.post("work")
    assert world.ask("DELETE", f"/messages/{put.id}").status == 204
    assert world.get("work").status == 204


def test_a_late_settlement_ends_the_next_loan_too() -> None:
    world = World()
    put = world.post("work", query="?timeout=1")
    world.get("work")
    world.clock.advance(1)
    assert world.get("work").id == put.id
    assert world.ask("DELETE", f"/messages/{put.id}").status == 204
    world.clock.advance(1)
    assert world.get("work").status == 204


@pytest.mark.parametrize(("verb", "path"), [("DELETE", "/messages/{}"), ("POST", "/messages/{}/touch")])
def test_unknown_messages(verb: str, path: str) -> None:
    world = World()
    for number in (0, 1, 999, 1 << 33, 2**63 - 1):
        answer = world.ask(verb, path.format(number))
        assert (answer.status, answer.reason, answer.body) == (404, "Message not found.", b"")
    for number in (2**63, 10**40):
        assert world.ask(verb, path.format(number)).status == 400
    for word in ("abc", "-1", ""):
        assert world.ask(verb, path.format(word)).status == 404


def test_a_touch_begins_the_lease_anew() -> None:
    world = World()
    put = world.post("work", query="?timeout=10")
    world.get("work")
    world.clock.advance(9)
    assert world.ask("POST", f"/messages/{put.id}/touch").status == 204
    world.clock.advance(9)
    assert world.get("work").status == 204
    world.clock.advance(1)
    assert world.get("work").headers["x-linger-delivered"] == "2"


def test_a_touch_hides_a_message_that_waits_and_counts_no_delivery() -> None:
    world = World()
    put = world.post("work", query="?timeout=10")
    assert world.ask("POST", f"/messages/{put.id}/touch").status == 204
    assert world.ready("work") == (0, 1)
    world.clock.advance(10)
    assert world.get("work").id == put.id


# -- a channel that is full


def test_a_full_channel_is_507_with_lingers_words() -> None:
    world = World(policy=Policy(max_messages=2))
    world.post("work")
    world.post("work")
    world.get("work")  # what is hidden counts
    full = world.post("work")
    reason = "Channel work is at the high-level mark with 2 messages"
    assert (full.status, full.reason, full.body) == (507, reason, f"HTTP 507 {reason}\n".encode())
    assert int(full.headers["retry-after"]) > 0
    assert world.post("other").status == 202


def test_a_full_channel_with_a_name_no_status_line_can_hold() -> None:
    world = World(policy=Policy(max_messages=1))
    world.post("%E2%82%AC")
    assert "%E2%82%AC" in world.post("%E2%82%AC").reason


# -- looking without taking


def test_head_shows_what_get_would_bring_and_takes_nothing() -> None:
    world = World()
    put = world.post("work", b"12345", "?timeout=7", Content_Type="text/csv")
    for _ in range(2):
        seen = world.ask("HEAD", "/channels/work")
        assert (seen.status, seen.body, seen.headers["content-length"]) == (200, b"", "5")
        assert (seen.id, seen.headers["content-type"]) == (put.id, "text/csv")
        assert (seen.headers["x-linger-timeout"], seen.headers["x-linger-delivered"]) == ("7", "1")
    assert world.ready("work") == (1, 0)
    got = world.get("work")
    assert {**got.headers, "date": ""} == {**seen.headers, "date": "", "x-linger-lease": got.headers["x-linger-lease"]}


def test_head_of_an_empty_channel_does_not_wait() -> None:
    world = World()
    assert world.ask("HEAD", "/channels/work").status == 204
    assert world.ask("GET", "/channels").json == {"channels": []}


@pytest.mark.parametrize("path", ["/", "/channels", "/topics", "/stats", "/channels/work/stats", "/healthz", "/readyz"])
def test_head_elsewhere_is_get_without_the_body(path: str) -> None:
    world = World()
    head, get = world.ask("HEAD", path), world.ask("GET", path)
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", get.headers["content-type"])
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/messages/1/touch", "/topics/news", "/channels/work/topics/news"])
def test_head_where_there_is_no_get(path: str) -> None:
    answer = World().ask("HEAD", path)
    assert (answer.status, answer.body) == (405, b"")


# -- the server itself


def test_the_welcome() -> None:
    world = World()
    welcome = world.ask("GET", "/")
    assert welcome.headers["content-type"] == "application/json; charset=UTF-8"
    assert welcome.json["Linger"] == "Welcome"
    assert welcome.json["id"] == "d0c5"
    assert set(welcome.json) == {"Linger", "version", "id", "hostname", "links"}
    assert all(world.ask("GET", path).status == 200 for path in welcome.json["links"].values())


def test_an_identity_of_its_own() -> None:
    assert World(identity="").ask("GET", "/").json["id"] != World(identity="").ask("GET", "/").json["id"]


def test_stats_are_true() -> None:
    world = World()
    before = world.ask("GET", "/stats").json
    assert before["current-messages"] == before["current-channels"] == 0
    assert before["db-file"] == ":memory:"
    assert before["db-size"] == -1
    assert "msg-add" not in before
    world.ask("PUT", "/channels/work/topics/news")
    world.ask("PUT", "/channels/other/topics/news")
    world.ask("DELETE", "/channels/other/topics/news")
    world.ask("POST", "/topics/news", b"x")
    for query in ("?timeout=1&deliver=1", "?linger=1", ""):
        world.post("a", query=query)
    first = world.get("a")
    world.ask("POST", f"/messages/{first.id}/touch")
    world.clock.advance(2)
    world.get("a")
    world.ask("DELETE", f"/messages/{world.get('work').id}")
    world.ask("DELETE", "/channels/b")
    stats = world.ask("GET", "/stats").json
    expected = {
        "current-topics": 1,
        "current-subscriptions": 1,
        "current-channels": 2,
        "current-messages": 1,
        "current-messages-ready": 0,
        "current-messages-hidden": 1,
        "current-uptime": 2,
        "start": 1_700_000_000,
        "msg-max-size": 256_000,
        "msg-add": 4,
        "msg-get": 3,
        "delivered": 3,
        "msg-delete": 1,
        "msg-timeouts": 1,
        "msg-retention": 1,
        "msg-touch": 1,
        "publish": 1,
        "channel-drain": 1,
        "subscription-add": 2,
        "subscription-delete": 1,
    }
    assert {key: stats[key] for key in expected} == expected
    assert {"pid", "rusage-utime", "rusage-stime", "version", "id", "hostname"} <= set(stats)


def test_stats_count_by_priority_and_know_the_highest_id() -> None:
    world = World()
    assert world.ask("GET", "/stats").json["msg-max-id"] is None
    for priority in (-1, -1, 5, 0):
        last = world.post("a", query=f"?priority={priority}")
    stats = world.ask("GET", "/stats").json
    assert (stats["current-messages-urgent"], stats["current-messages-niced"]) == (2, 1)
    assert stats["msg-max-id"] == last.json["id"]


def test_the_size_of_the_data_file(tmp_path: object) -> None:
    path = f"{tmp_path}/data"
    with open(path, "wb") as file:
        file.write(b"12345")
    stats = World(database=path).ask("GET", "/stats").json
    assert (stats["db-file"], stats["db-size"]) == (path, 5)
    assert World(database=path + "-not").ask("GET", "/stats").json["db-size"] == 0


def test_health_and_readiness() -> None:
    answers = iter(["the store does not commit: the disk is full", ""])
    world = World(unready=lambda: next(answers))
    unready = world.ask("GET", "/readyz")
    assert (unready.status, unready.headers["content-type"]) == (503, "application/problem+json")
    assert unready.json == {
        "type": "/problems/not-ready",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the store does not commit: the disk is full",
        "instance": "/readyz",
        "retry_after": 1,
    }
    ready = world.ask("GET", "/readyz")
    assert (ready.status, ready.body) == (200, b"ready\n")
    assert world.ask("GET", "/healthz").status == 200
