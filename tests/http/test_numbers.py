"""The numbers of queues: of one, or of those a pattern names."""

from __future__ import annotations

import msgspec
import pytest

from broker.core.stats import QueueStats
from broker.http import numbers
from tests.auth.support import Known
from tests.auth.test_http import Guarded
from tests.http.support import World


def names(world: World, query: str) -> list[str]:
    answer = world.ask("GET", f"/channels?detail=1{query}")
    assert answer.status == 200
    return [one["name"] for one in answer.json["channels"]]


def test_detail_brings_every_number_of_every_queue_that_exists() -> None:
    world = World()
    world.post("b")
    world.post("a/b%20c".replace("/", "%2F"))
    world.ask("DELETE", f"/messages/{world.post('empty').id}")
    answer = world.ask("GET", "/channels?detail=1").json
    assert [one["name"] for one in answer["channels"]] == ["a/b c", "b", "empty"]
    assert "after" not in answer
    for one in answer["channels"]:
        assert {"name": one["name"], **msgspec.structs.asdict(world.broker.queue_stats(one["name"]))} == one
        assert set(one) == {"name", *QueueStats.__struct_fields__}
    assert world.ask("GET", "/channels").json == {"channels": ["a/b c", "b"]}


def test_a_pattern_chooses() -> None:
    world = World()
    for name in ("orders.eu", "orders.us", "other"):
        world.post(name)
    assert names(world, "&queue=orders.*") == ["orders.eu", "orders.us"]
    assert names(world, "&queue=nothing") == []


def test_a_page_says_what_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for name in "edcba":
        world.post(name)
    first = world.ask("GET", "/channels?detail=1&limit=2").json
    assert ([one["name"] for one in first["channels"]], first["after"]) == (["a", "b"], "b")
    last = world.ask("GET", "/channels?detail=1&limit=3&after=b").json
    assert ([one["name"] for one in last["channels"]], "after" in last) == (["c", "d", "e"], False)
    monkeypatch.setattr(numbers, "PAGE", 4)
    assert names(world, "") == ["a", "b", "c", "d"]
    assert names(world, "&limit=1000000") == ["a", "b", "c", "d"]
    assert world.ask("GET", "/channels?detail=1&limit=0").status == 400
    assert world.ask("GET", "/channels?detail=1&limit=x").status == 400


def test_only_what_may_be_seen_is_there() -> None:
    world = Guarded(Known({"bob": {"browse": "queue:mine*"}, "eve": {}}))
    world.put("mine1", "mine2", "others")
    found = world.by("bob", "GET", "/channels?detail=1&limit=2").json
    assert ([one["name"] for one in found["channels"]], "after" in found) == (["mine1", "mine2"], False)
    assert world.by("eve", "GET", "/channels?detail=1").status == 403


def test_full_adds_every_number_to_linger_s_two() -> None:
    world = World()
    world.post("a")
    world.post("a")
    world.get("a")
    assert world.ask("GET", "/channels/a/stats").json == {"ready": 1, "hidden": 1}
    full = world.ask("GET", "/channels/a/stats?full=1").json
    assert (full["ready"], full["hidden"], full["on_loan"], full["published"]) == (1, 1, 1, 2)
    assert set(full) == {"hidden", "in_rate", "out_rate", "drain_eta", *QueueStats.__struct_fields__}


def test_stats_hold_ours_beside_linger_s() -> None:
    world = World()
    world.post("a")
    stats = world.ask("GET", "/stats").json
    assert (stats["broker"]["published"], stats["msg-add"], stats["broker"]["delivered"]) == (1, 1, 0)
    assert stats["fronts"] == {}
