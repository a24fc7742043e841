"""What is configured over HTTP: keys of channels and topics, pauses, draining, definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

import broker.settings
from broker.core.destination import Destination, queue, topic
from broker.core.policy import Policies, Policy, Rule
from broker.errors import ConfigError
from broker.settings import Settings
from tests.http.support import Response, World, done

JSON = {"Content_Type": "application/json"}


def config(world: World, method: str, said: Any, of: str = "channels/work", **headers: str) -> Response:
    return world.ask(method, f"/{of}/config", json.dumps(said).encode(), **(JSON | headers))


def test_every_key_is_shown_with_what_holds() -> None:
    shown = World().ask("GET", "/channels/work/config").json
    assert (shown["config"]["lease"], shown["config"]["overflow"], shown["set"]) == (30_000, "reject", [])


def test_keys_that_are_put_hold_at_once_and_those_left_out_no_longer() -> None:
    world = World()
    put = config(world, "PUT", {"max_messages": 1, "lease": 2_000})
    assert (put.status, put.json["set"], put.json["config"]["lease"]) == (201, ["lease", "max_messages"], 2_000)
    world.post("work")
    assert world.post("work").status == 507
    assert config(world, "PUT", {"lease": 3_000}).status == 200
    assert world.post("work").status == 202
    assert world.get("work").headers["x-linger-timeout"] == "3"


def test_a_patch_changes_some_keys_and_forgets_those_that_are_null() -> None:
    world = World()
    config(world, "PUT", {"lease": 2_000, "ttl": 5_000})
    changed = config(world, "PATCH", {"ttl": None, "max_attempts": 4})
    assert changed.json["set"] == ["lease", "max_attempts"]
    assert config(world, "PATCH", {"lease": None, "max_attempts": None}).json["set"] == []


def test_who_has_read_something_older_changes_nothing() -> None:
    world = World()
    etag = world.ask("GET", "/channels/work/config").headers["etag"]
    assert config(world, "PATCH", {"ttl": 1_000}, If_Match=etag).status == 201
    late = config(world, "PATCH", {"ttl": 2_000}, If_Match=etag, Accept="application/json")
    assert (late.status, late.json["type"]) == (412, "/problems/precondition-failed")
    assert world.ask("GET", "/channels/work/config").json["config"]["ttl"] == 1_000


@pytest.mark.parametrize(
    "said",
    [{"leese": 1}, {"lease": "long"}, {"lease": -1}, {"overflow": "explode"}, {"jitter": 200}],
)
def test_a_wrong_key_changes_nothing_and_is_named(said: dict[str, Any]) -> None:
    world = World()
    wrong = config(world, "PUT", said | {"ttl": 9}, Accept="application/json")
    assert (wrong.status, wrong.json["type"]) == (422, "/problems/bad-configuration")
    assert next(iter(said)) in wrong.json["detail"]
    assert world.ask("GET", "/channels/work/config").json["set"] == []


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"ttl": 2_000, "max_ttl": 1_000}, "ttl"),
        ({"overflow": "drop_new"}, "overflow"),
        ({"dead_letter": "other"}, "circle"),
    ],
)
def test_what_contradicts_itself_or_others_is_refused(said: dict[str, Any], named: str) -> None:
    world = World()
    assert config(world, "PUT", {"dead_letter": "work"}, of="channels/other").status == 201
    wrong = config(world, "PUT", said, Accept="application/json")
    assert (wrong.status, named in wrong.json["detail"]) == (422, True), wrong.json
    assert apply(world, {"channels": {"work": said}}).status == 422
    assert world.ask("GET", "/channels/work/config").json["set"] == []


def test_a_channel_that_the_file_speaks_of_keeps_what_is_not_said_here() -> None:
    world = World(policy=Policies(Policy(), [Rule("work", {"ttl": 7_000, "lease": 9_000})]))
    put = config(world, "PUT", {"lease": 2_000}).json["config"]
    assert (put["ttl"], put["lease"]) == (7_000, 2_000)


def test_a_body_that_is_no_object_of_json_is_refused() -> None:
    world = World()
    assert config(world, "PUT", [1]).status == 400
    assert world.ask("PUT", "/channels/work/config", b"{", **JSON).status == 400
    assert world.ask("PUT", "/channels/work/config", b"a=1", Content_Type="text/plain").status == 415


def test_a_name_that_is_a_pattern_cannot_be_configured() -> None:
    assert config(World(), "PUT", {"ttl": 1}, of="channels/a*").status == 422


def test_topics_have_keys_of_their_own() -> None:
    world = World()
    assert config(world, "PUT", {"retain": 60_000}, of="topics/news").status == 201
    world.ask("POST", "/topics/news", b"x")
    assert len(world.ask("GET", "/topics/news/messages").json["messages"]) == 1
    assert config(world, "PUT", {"lease": 1}, of="topics/news").status == 422


def test_a_paused_channel_takes_and_gives_nothing_until_it_is_resumed() -> None:
    world = World()
    assert world.ask("POST", "/channels/work/pause").json["config"]["paused"] is True
    assert world.post("work").status == 202
    waiting = world.waiting("GET", "/channels/work")
    assert waiting.answers() == []
    assert world.get("work").status == 204, "it is as if nothing were there"
    assert world.ask("POST", "/channels/work/lease?wait=0").status == 204
    assert world.ask("HEAD", "/channels/work").status == 200, "a look is free"
    assert world.ask("POST", "/channels/work/resume").status == 200
    world.clock.advance(0)
    assert waiting.answer().status == 200


def test_a_draining_broker_takes_nothing_in_and_lets_everything_out() -> None:
    world = World()
    world.post("work")
    assert world.ask("POST", "/drain").json == {"draining": True}
    refused = world.post("work", Accept="application/json")
    assert (refused.status, refused.json["type"], refused.headers["retry-after"]) == (503, "/problems/draining", "1")
    got = world.get("work")
    assert world.ask("DELETE", f"/messages/{got.id}").status == 204
    assert world.ask("POST", "/resume").json == {"draining": False}
    assert world.post("work").status == 202


# -- definitions


DEFINED: dict[str, Any] = {
    "channels": {"work": {"ttl": 1_000}},
    "topics": {"news": {"retain": 60_000}},
    "bindings": [
        {
            "channel": "audit",
            "source": "topic:news",
            "priority": -1,
            "timeout": 5,
            "match": "size > 1",
            "follows": False,
        },
        {"channel": "second-look", "source": "queue:work", "match": "", "follows": True},
    ],
}


def apply(world: World, said: Any, query: str = "", **headers: str) -> Response:
    return world.ask("PUT", f"/definitions{query}", json.dumps(said).encode(), **(JSON | headers))


def test_definitions_are_applied_exported_and_applied_again_without_a_change() -> None:
    world = World()
    dry = apply(world, DEFINED, "?dry_run=1")
    assert (dry.json["applied"], [one["what"] for one in dry.json["changes"]]) == (
        False,
        ["config", "config", "bind", "bind"],
    )
    assert world.ask("GET", "/definitions").json == {"channels": {}, "topics": {}, "bindings": []}
    assert apply(world, DEFINED).json["applied"] is True
    exported = world.ask("GET", "/definitions").json
    assert (exported["channels"], exported["topics"]) == (DEFINED["channels"], DEFINED["topics"])
    bindings = [{key: value for key, value in one.items() if value is not None} for one in exported["bindings"]]
    assert bindings == DEFINED["bindings"]
    assert apply(world, exported).json["changes"] == []
    other = World()
    apply(other, exported)
    assert other.ask("GET", "/definitions").json == exported


def test_what_is_not_named_stays_unless_it_is_pruned() -> None:
    world = World()
    apply(world, DEFINED)
    assert apply(world, {}).json["changes"] == []
    pruned = apply(world, {"channels": {"work": {"ttl": 2_000}}}, "?prune=1").json["changes"]
    assert [one["what"] for one in pruned] == ["config", "config", "unbind", "unbind"]
    assert world.ask("GET", "/definitions").json == {"channels": {"work": {"ttl": 2_000}}, "topics": {}, "bindings": []}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"queues": {}}, 400),
        ({"channels": {"work": {"odd": 1}}}, 422),
        ({"channels": {"": {}}}, 400),
        ({"bindings": [{"channel": "a", "source": "b"}]}, 400),
        ({"bindings": [{"channel": "a", "source": "topic:b", "timeout": -1}]}, 400),
        ({"bindings": [{"source": "topic:b"}]}, 400),
    ],
)
def test_wrong_definitions_change_nothing(said: Any, status: int) -> None:
    world = World()
    assert apply(world, said | {"topics": {"news": {"retain": 1}}}).status == status
    assert world.ask("GET", "/definitions").json == {"channels": {}, "topics": {}, "bindings": []}


# -- the file


def test_what_was_saved_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(broker.settings, "deferToThread", maybeDeferred)
    file = Settings(str(tmp_path / "data.settings"))
    assert file.load() == {}
    said: dict[Destination, dict[str, Any]] = {
        queue("work"): {"ttl": 5},
        topic("news"): {"retain": 7},
        queue("b"): {"backoff": [1, 2]},
    }
    done(file.save(said))
    assert file.load() == {**said, queue("b"): {"backoff": (1, 2)}}
    assert [path.name for path in tmp_path.iterdir()] == ["data.settings"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"queue":{"a":{"odd":1}}}', b'{"thing":{"a":{}}}'])
def test_a_file_that_cannot_be_understood_ends_the_start(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ConfigError, match="s: "):
        Settings(str(tmp_path / "s")).load()
