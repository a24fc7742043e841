"""Looking without taking: pages, single messages, topics' logs, consumers, rates."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.destination import queue
from broker.core.policy import Policies, Policy, Rule
from tests.http.support import Response, World

JSON = {"Content_Type": "application/json"}


def world(**rules: Any) -> World:
    policies = Policies(Policy(), [Rule("work", rules)], topic_rules=[Rule("kept", {"retain": 3_600_000})])
    return World(policy=policies)


def browse(on: World, query: str = "", of: str = "channels/work", **headers: str) -> Response:
    return on.ask("GET", f"/{of}/messages{query}", None, **headers)


def bodies(answer: Response) -> list[Any]:
    return [one["event"].get("data") for one in answer.json["messages"]]


def test_a_page_shows_what_is_there_and_takes_nothing() -> None:
    on = world()
    on.post("work", b'{"n":1}', "?group=g&linger=60", X_Message_Colour="blue", **JSON)
    (seen,) = browse(on).json["messages"]
    assert (seen["state"], seen["attempts"], seen["group"], seen["size"]) == ("ready", 0, "g", 7)
    assert seen["expires"] == "2023-11-14T22:14:20Z"
    assert (seen["headers"], seen["event"]["data"]) == ({"colour": "blue"}, {"n": 1})
    assert seen["event"]["time"] == "2023-11-14T22:13:20Z"
    assert on.ready("work") == (1, 0)
    assert seen["id"] == on.get("work").id


def test_pages_follow_one_another() -> None:
    on = world()
    for number in range(5):
        on.post("work", b"%d" % number, **JSON)
    first = browse(on, "?limit=3")
    assert bodies(first) == [0, 1, 2]
    rest = browse(on, f"?limit=3&after={first.json['after']}")
    assert (bodies(rest), "after" in rest.json) == ([3, 4], False)
    lines = browse(on, "?limit=3", Accept="application/x-ndjson")
    assert (lines.body.count(b"\n"), lines.headers["x-linger-after"]) == (3, str(first.json["after"]))


def test_states_times_and_filters_narrow_a_page() -> None:
    on = world(retain=3_600_000)
    for number in range(4):
        on.post("work", b"%d" % number, **JSON)
        on.clock.advance(60)
    on.post("work", b'"late"', "?delay=600", **JSON)
    got = on.get("work")
    on.ask("DELETE", f"/messages/{got.id}")
    on.get("work")
    assert bodies(browse(on, "?state=hidden")) == [1]
    assert bodies(browse(on, "?state=done")) == [0]
    assert bodies(browse(on, "?state=delayed")) == ["late"]
    assert bodies(browse(on, "?state=ready,hidden&since=-100s")) == [3]
    assert bodies(browse(on, "?until=-100s")) == [1, 2]
    assert bodies(browse(on, "?match=data%20%3E%201")) == [2, 3]
    assert bodies(browse(on, "?body=0")) == [None] * 4


def test_ids_are_shown_as_in_2015() -> None:
    on = world()
    ids = [on.post("work").id for _ in range(3)]
    on.get("work")
    assert browse(on, "?ids=1").json == {"messages": ids[1:], "hidden": ids[:1]}


@pytest.mark.parametrize("query", ["?state=odd", "?after=x", "?limit=0", "?since=then", "?match=data.x%20%3C"])
def test_a_wrong_question_is_400(query: str) -> None:
    answer = browse(world(), query, Accept="application/json")
    assert answer.status == 400
    if "match" in query:
        assert answer.json["errors"][0]["position"] == 9


def test_a_channel_that_is_not_there_has_an_empty_page() -> None:
    on = world()
    assert browse(on).json == {"messages": []}
    assert not on.broker.exists("work")


def test_a_topics_log_is_read_from_any_place() -> None:
    on = world()
    for number in range(3):
        on.ask("POST", "/topics/kept", b"%d" % number, **JSON)
        on.clock.advance(60)
    page = browse(on, "?limit=2", "topics/kept")
    assert bodies(page) == [0, 1]
    assert bodies(browse(on, f"?after={page.json['after']}", "topics/kept")) == [2]
    assert bodies(browse(on, "?since=-2m", "topics/kept")) == [1, 2]
    assert "id" not in page.json["messages"][0]


# -- one message


def test_a_message_says_where_it_stands_and_why() -> None:
    on = world()
    put = on.post("work", b"x", "?deliver=3")
    seen = on.ask("GET", f"/messages/{put.id}").json
    assert (seen["channel"], seen["state"]) == ("work", "ready")
    assert seen["waits_because"] == ["nobody asks for messages of the queue"]
    lease = on.get("work").headers["x-linger-lease"]
    seen = on.ask("GET", f"/messages/{put.id}").json
    assert (seen["state"], seen["due"]) == ("hidden", "2023-11-14T22:13:50Z")
    on.ask("POST", f"/messages/{put.id}/nack?reason=no&lease={lease}")
    assert on.ask("GET", f"/messages/{put.id}").json["reason"] == "no"
    on.ask("POST", "/channels/work/pause")
    assert "the queue is paused" in on.ask("GET", f"/messages/{put.id}").json["waits_because"]


def test_a_message_can_be_seen_raw_and_by_its_headers() -> None:
    on = world()
    put = on.post("work", b"raw", Content_Type="text/x-odd", X_Message_Colour="blue")
    raw = on.ask("GET", f"/messages/{put.id}", Accept="text/plain")
    assert (raw.body, raw.headers["content-type"], raw.headers["x-message-colour"]) == (b"raw", "text/x-odd", "blue")
    assert on.ask("HEAD", f"/messages/{put.id}").status == 200
    assert on.ask("GET", "/messages/1").status == 404
    assert on.ready("work") == (1, 0)


def test_a_delayed_message_can_be_looked_at() -> None:
    on = world()
    put = on.post("work", b"x", "?delay=60")
    seen = on.ask("GET", f"/messages/{put.id}").json
    assert (seen["channel"], seen["state"], seen["due"]) == ("work", "delayed", "2023-11-14T22:14:20Z")


# -- consumers and numbers


def test_consumers_are_those_who_ask_and_those_who_hold() -> None:
    on = world()
    assert on.ask("GET", "/consumers").json == {"consumers": []}
    waiting = on.waiting("GET", "/channels/idle")
    on.broker.subscribe(queue("work"), lambda delivery: None, prefetch=5)
    on.post("other")
    on.get("other")
    found = {one["channel"]: one for one in on.ask("GET", "/consumers").json["consumers"]}
    assert (found["idle"]["kind"], found["work"]["prefetch"]) == ("waiting request", 5)
    assert (found["other"]["kind"], found["other"]["unsettled"]) == ("leases", 1)
    assert [one["kind"] for one in on.ask("GET", "/channels/work/consumers").json["consumers"]] == ["subscription"]
    waiting.leave()


def test_full_stats_have_rates_and_say_when_it_will_be_empty() -> None:
    on = world()
    full = "/channels/work/stats?full=1"
    assert on.ask("GET", full).json["drain_eta"] == 0
    on.clock.advance(10)
    for _ in range(20):
        on.post("work")
    first = on.ask("GET", full).json
    assert (first["in_rate"], first["out_rate"], first["drain_eta"]) == (2.0, 0.0, None)
    on.clock.advance(10)
    for _ in range(10):
        on.ask("GET", "/channels/work?nowait&ack=auto")
    later = on.ask("GET", full).json
    assert (later["in_rate"], later["out_rate"], later["drain_eta"]) == (0.0, 1.0, 10.0)
    assert later["oldest_ms"] >= 9_000


# -- taking some of it away


@pytest.mark.parametrize(("state", "left"), [("ready", {"b", "c"}), ("hidden", {"a", "c"}), ("delayed", {"a", "b"})])
def test_only_what_is_in_one_state_is_drained(state: str, left: set[str]) -> None:
    on = world()
    on.post("work", b"b", "?priority=-1")
    on.post("work", b"a")
    on.post("work", b"c", "?delay=60")
    on.get("work")
    assert on.ask("DELETE", f"/channels/work?state={state}").status == 204
    assert set(bodies(browse(on))) == left
    assert on.ask("DELETE", "/channels/work?state=odd").status == 400


def test_a_channel_is_forgotten_with_what_it_reads() -> None:
    on = world()
    on.ask("PUT", "/channels/work/topics/news")
    on.post("work")
    assert on.ask("DELETE", "/channels/work?config=1").status == 204
    assert (on.ask("GET", "/channels").json, on.ask("GET", "/topics").json) == ({"channels": []}, {"topics": []})


def test_names_can_be_narrowed_by_how_they_begin() -> None:
    on = world()
    for name in ("a.1", "a.2", "b"):
        on.post(name)
    assert on.ask("GET", "/channels?prefix=a.").json == {"channels": ["a.1", "a.2"]}
