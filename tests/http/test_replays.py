"""Replays over HTTP: asked for, watched, changed, undone; and what is answered to what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from tests.auth.support import Known, everything
from tests.auth.test_http import Guarded
from tests.http.support import Response, World
from tests.http.test_streams import Reader

AGAIN = {"source": {"topic": "news"}, "target": {"channel": "again"}}


@pytest.fixture
def world() -> World:
    dying = Rule("work", {"dead_letter": "work.dead", "max_attempts": 1, "redrive_max": 1, "retain": 3_600_000})
    return World(policy=Policies(Policy(), [dying], topic_default=TopicPolicy(retain=3_600_000)))


def publish(world: World, *bodies: str, topic: str = "news") -> None:
    for body in bodies:
        assert world.ask("POST", f"/topics/{topic}", body.encode(), Content_Type="application/json").status == 202


def begin(world: World, query: str = "", **plan: Any) -> Response:
    answer = world.ask("POST", f"/replays{query}", json.dumps(AGAIN | plan).encode(), Content_Type="application/json")
    world.clock.advance(0)
    return answer


def show(world: World, id: int = 1) -> Any:
    return world.ask("GET", f"/replays/{id}").json


def bodies(world: World, channel: str = "again") -> list[Any]:
    found = world.ask("GET", f"/channels/{channel}/messages?state=ready").json["messages"]
    return [one["event"].get("data") for one in found]


def patch(world: World, said: dict[str, Any], id: int = 1) -> Response:
    return world.ask("PATCH", f"/replays/{id}", json.dumps(said).encode(), Content_Type="application/json")


def test_a_replay_is_begun_and_says_where_it_is_and_how_it_stands(world: World) -> None:
    publish(world, "1", "2", "3")
    answer = begin(world, match="data != 2", max=100, since="2023-11-14T00:00:00Z", until="+1h")
    assert (answer.status, answer.headers["location"]) == (202, "/replays/1")
    assert (answer.json["state"], answer.json["total"], answer.json["run"]) == ("running", 3, "1")
    said = show(world)
    assert (said["state"], said["examined"], said["matched"], said["copied"]) == ("done", 3, 2, 2)
    assert (said["source"], said["target"], said["mode"]) == ({"topic": "news"}, {"channel": "again"}, "copy")
    assert (said["since"], said["match"], said["max"], said["priority"]) == (
        "2023-11-14T00:00:00Z",
        "data != 2",
        100,
        10,
    )
    assert bodies(world) == [1, 3]
    (event, _) = world.ask("GET", "/channels/again/messages").json["messages"]
    assert (event["event"]["run"], event["event"]["source"]) == ("1", "/topic/news")
    assert [one["id"] for one in world.ask("GET", "/replays").json["replays"]] == [1]


def test_bounds_are_numbers_too(world: World) -> None:
    publish(world, "1", "2", "3")
    second = world.ask("GET", "/topics/news/messages").json["messages"][1]["position"]
    begin(world, since=second, until=second + 1)
    assert bodies(world) == [2]


def test_a_dry_run_says_what_would_come_and_changes_nothing(world: World) -> None:
    publish(world, *map(str, range(9)))
    answer = begin(world, "?dry_run=1", match="data > 2")
    assert (answer.status, answer.json["examined"], answer.json["matched"]) == (200, 9, 6)
    assert [one["event"]["data"] for one in answer.json["samples"]] == [3, 4, 5, 6, 7]
    assert (bodies(world), world.ask("GET", "/replays").json["replays"]) == ([], [])


def test_a_request_that_is_sent_again_begins_nothing(world: World) -> None:
    publish(world, "1", "2")

    def ask(key: str, **plan: Any) -> Response:
        body = json.dumps(AGAIN | plan).encode()
        answer = world.ask("POST", "/replays", body, Content_Type="application/json", Idempotency_Key=key)
        world.clock.advance(0)
        return answer

    assert [ask("a").json["id"], ask("a", since="-1d").json["id"], ask('"b"').json["id"]] == [1, 1, 2]
    assert bodies(world) == [1, 2, 1, 2]
    other = ask("a", match="data = 1")
    assert (other.status, other.reason) == (422, "This Idempotency-Key was used for another replay.")


def test_a_channels_history_comes_again(world: World) -> None:
    world.post("work", b"a")
    world.ask("DELETE", f"/messages/{world.get('work').id}")
    begin(world, source={"channel": "work", "history": True})
    assert (bodies(world), show(world)["source"]) == (["a"], {"channel": "work", "history": True})


def test_it_is_paused_resumed_hurried_and_cancelled(world: World) -> None:
    publish(world, *map(str, range(9)))
    begin(world, rate=1)
    assert patch(world, {"state": "paused"}).json["state"] == "paused"
    world.clock.advance(5)
    assert len(bodies(world)) < 5
    assert patch(world, {"state": "running", "rate": 2, "max": 3}).json["rate"] == 2
    for _ in range(20):
        world.clock.advance(0.5)
    assert (bodies(world), show(world)["state"]) == ([0, 1, 2], "done")
    refused = world.ask("PATCH", "/replays/1", b"{}", Content_Type="application/json", Accept="application/json")
    assert (refused.status, refused.json["type"]) == (409, "/problems/replay-over")
    begin(world, rate=1)
    assert world.ask("DELETE", "/replays/2").status == 204
    assert show(world, 2)["state"] == "cancelled"


def test_undo_leaves_nothing_waiting(world: World) -> None:
    publish(world, "1", "2", "3")
    begin(world)
    waiting = world.waiting("DELETE", "/replays/1?undo=1")
    world.clock.advance(0)
    answer = waiting.answer()
    assert (answer.status, answer.json["undone"], bodies(world)) == (200, 3, [])


def test_dead_letters_go_home_and_those_that_died_again_are_parked(world: World) -> None:
    def die(body: bytes) -> None:
        world.post("work", body)
        world.ask("POST", f"/messages/{world.get('work').id}/nack")
        world.clock.advance(0)

    die(b"x")
    unbounded = begin(world, source={"channel": "work.dead"}, target="origin")
    assert (unbounded.status, unbounded.reason) == (400, "a redrive has a bound: since, max, or all")
    begin(world, source={"channel": "work.dead"}, target="origin", all=True)
    said = show(world)
    assert (said["mode"], said["target"], said["copied"], said["parked"]) == ("move", "origin", 1, 0)
    world.ask("POST", f"/messages/{world.get('work').id}/nack")
    world.clock.advance(0)
    begin(world, source={"channel": "work.dead"}, target="origin", max=1)
    assert (show(world, 2)["copied"], show(world, 2)["parked"]) == (0, 1)
    assert (bodies(world, "work.dead"), bodies(world, "work")) == (["x"], [])
    begin(world, source={"channel": "work.dead"}, target={"channel": "work"}, mode="move")
    assert (bodies(world, "work.dead"), bodies(world, "work")) == ([], ["x"])
    waiting = world.waiting("DELETE", "/replays/3?undo=1")
    world.clock.advance(0)
    assert waiting.answer().json["undone"] == 1
    assert (bodies(world, "work.dead"), bodies(world, "work")) == (["x"], [])


def test_its_progress_is_a_stream_of_events_that_ends_with_it(world: World) -> None:
    publish(world, *map(str, range(4)))
    begin(world, rate=1)
    reader = Reader(world, "/replays/1", Accept="text/event-stream")
    (first,) = reader.events()
    assert (first["kind"], first["state"]) == ("progress", "running")
    seen = [first["copied"]]
    for _ in range(10):
        world.clock.advance(1)
        seen += [event["copied"] for event in reader.events()]
    assert seen == sorted(seen)
    assert seen[-1] == 4
    assert len(set(seen)) >= 4
    assert reader.connection.closing
    done = Reader(world, "/replays/1", Accept="text/event-stream")
    assert [event["state"] for event in done.events()] == ["done"]


def test_a_stream_of_a_replay_that_stands_still_says_that_we_are_there(world: World) -> None:
    publish(world, *map(str, range(4)))
    begin(world, rate=1)
    patch(world, {"state": "paused"})
    world.clock.advance(2)
    reader = Reader(world, "/replays/1", Accept="text/event-stream")
    reader.text()
    for _ in range(20):
        world.clock.advance(1)
    assert reader.text() == ":\n\n"
    reader.pause(True)
    world.ask("DELETE", "/replays/1")
    world.clock.advance(2)
    assert reader.text() == ""
    reader.pause(False)
    world.clock.advance(2)
    assert [event["state"] for event in reader.events()] == ["cancelled"]


@pytest.mark.parametrize(
    ("plan", "status", "detail"),
    [
        ({"source": {"channel": "none"}}, 404, "there is no queue none"),
        ({"source": {"topic": "none"}}, 404, "nothing of /topic/none is kept"),
        ({"source": {}}, 400, 'Invalid source: {"channel": NAME} or {"topic": NAME}.'),
        ({"source": {"topic": "a", "channel": "a"}}, 400, 'Invalid source: {"channel": NAME} or {"topic": NAME}.'),
        ({"target": {"channel": "a", "history": True}}, 400, 'Invalid target: {"channel": NAME} or {"topic": NAME}.'),
        ({"target": "home"}, 400, "Invalid replay: Invalid enum value 'home' - at `$.target`"),
        ({"match": "data ="}, 400, "bad filter at character 7: expected a string, a number, true, false or null"),
        ({"since": "yesterday"}, 400, "Invalid since: not a time, a stamp, or some time ago such as -7d."),
        ({"rate": -1}, 400, "Invalid replay: Expected `int` >= 0 - at `$.rate`"),
        ({"speed": 1}, 400, "Invalid replay: Object contains unknown field `speed`"),
        ({"mode": "move"}, 400, "only what waits in a queue can be moved; a log stays as it is"),
        (
            {"source": {"channel": "a", "history": True}, "target": "origin", "all": True},
            400,
            "Invalid source: what goes home waits in a channel; leave out history.",
        ),
    ],
)
def test_what_cannot_be_is_said(world: World, plan: dict[str, Any], status: int, detail: str) -> None:
    publish(world, "1")
    body = json.dumps(AGAIN | plan).encode()
    answer = world.ask("POST", "/replays", body, Content_Type="application/json", Accept="application/json")
    assert (answer.status, answer.json["detail"]) == (status, detail)
    if "filter" in detail:
        assert answer.json["errors"] == [{"detail": detail, "position": 7}]
    assert world.ask("GET", "/replays").json["replays"] == []


def test_a_replay_that_is_not_there_is_404_with_words(world: World) -> None:
    for method in ("GET", "DELETE", "PATCH"):
        answer = world.ask(method, "/replays/7", b"{}", Content_Type="application/json")
        assert (answer.status, answer.reason, answer.body) == (
            404,
            "there is no replay 7",
            b"HTTP 404 there is no replay 7\n",
        )
    assert world.ask("GET", f"/replays/{10**30}").status == 400


def test_a_replay_needs_the_rights_to_its_source_and_its_target() -> None:
    guarded = Guarded(
        Known(
            {
                "all": everything(),
                "reads": {"browse": "queue:in", "subscribe": "queue:in"},
                "half": {"browse": "queue:in", "publish": "queue:out", "create": "queue:out"},
                "blind": {"publish": "*", "create": "*"},
            }
        )
    )
    guarded.put("in")

    def ask(user: str, **plan: Any) -> int:
        said = {"source": {"channel": "in"}, "target": {"channel": "out"}, "rate": 1} | plan
        status = guarded.by(user, "POST", "/replays", json.dumps(said).encode()).status
        guarded.clock.advance(0)
        return status

    assert [ask(user) for user in ("reads", "blind", "half")] == [403, 403, 202]
    assert ask("half", mode="move") == 403
    assert ask("half", target="origin", all=True) == 403
    assert ask("all", target="origin", all=True) == 202
    assert [guarded.by(user, "GET", "/replays/1").status for user in ("reads", "blind", "all")] == [200, 404, 200]
    assert [guarded.by(user, "DELETE", "/replays/1").status for user in ("reads", "half")] == [403, 204]
    assert [len(guarded.by(user, "GET", "/replays").json["replays"]) for user in ("reads", "all")] == [2, 2]
    assert guarded.by("blind", "GET", "/replays").status == 403
