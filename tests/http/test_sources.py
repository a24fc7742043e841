"""What a channel reads beside its own messages."""

from __future__ import annotations

import pytest

from broker.core.policy import Policies, Policy, Rule
from tests.http.support import World

KEPT = Policies(Policy(), [Rule("orders", {"retain": 3_600_000})], topic_rules=[Rule("news", {"retain": 3_600_000})])


def test_a_channel_reads_another() -> None:
    world = World()
    path = "/channels/audit/sources/queue:orders"
    assert world.ask("PUT", f"{path}?priority=-2&timeout=7&deliver=3&linger=60&match=size%20%3E%203").status == 204
    assert world.ask("GET", "/channels/audit/sources").json == {
        "sources": [
            {
                "kind": "queue",
                "name": "orders",
                "priority": -2,
                "timeout": 7,
                "linger": 60,
                "deliver": 3,
                "match": "size > 3",
            }
        ]
    }
    for body in (b"long one", b"no"):
        world.post("orders", body)
    got = world.get("audit")
    assert (got.body, got.headers["x-linger-priority"], got.headers["x-linger-timeout"]) == (b"long one", "-2", "7")
    assert world.get("audit").status == 204
    assert world.ready("orders") == (2, 0)
    assert [world.ask("DELETE", path).status for _ in range(2)] == [204, 204]
    assert world.ask("GET", "/channels/audit/sources").json == {"sources": []}


def test_topics_stand_among_the_sources() -> None:
    world = World()
    world.ask("PUT", "/channels/audit/topics/news")
    world.ask("PUT", "/channels/audit/sources/topic:alerts")
    assert [one["name"] for one in world.ask("GET", "/channels/audit/sources").json["sources"]] == ["alerts", "news"]
    assert world.ask("GET", "/channels/audit/topics").json == {"topics": ["alerts", "news"]}


def test_a_pattern_reads_every_topic_it_matches() -> None:
    world = World()
    assert world.ask("PUT", "/channels/all/sources/topic:orders.%23").status == 204
    world.ask("PUT", "/channels/eu/topics/orders.*.eu")
    published = world.ask("POST", "/topics/orders.new.eu", b"x").json
    assert set(published) == {"all", "eu"}
    assert set(world.ask("POST", "/topics/orders", b"x").json) == {"all"}
    assert world.ask("POST", "/topics/orders.*.eu", b"x").status == 400


def test_a_child_reads_its_parent_from_its_first_use_on() -> None:
    world = World()
    world.post("orders", b"before")
    assert world.get("orders+audit").status == 204
    world.post("orders", b"after")
    got = world.get("orders+audit")
    assert (got.body, got.headers["x-linger-channel"]) == (b"after", "orders+audit")
    assert world.ask("GET", "/channels/orders+audit/sources").json["sources"] == [{"kind": "queue", "name": "orders"}]


@pytest.mark.parametrize("source", ["orders", "slot:1", "topic:", "queue:%00"])
def test_what_is_no_source_is_400(source: str) -> None:
    assert World().ask("PUT", f"/channels/audit/sources/{source}").status == 400


# -- from


def history(world: World, path: str) -> None:
    for number in range(3):
        world.ask("POST", path, b"%d" % number)
        world.clock.advance(60)


@pytest.mark.parametrize(
    ("start", "got"),
    [
        ("now", []),
        ("start", [b"0", b"1", b"2"]),
        ("-130s", [b"1", b"2"]),
        ("2023-11-14T22%3A15%3A00Z", [b"2"]),
        ("1700000060", [b"1", b"2"]),
        ("1700000060000001", [b"2"]),
    ],
)
@pytest.mark.parametrize(("path", "source"), [("/topics/news", "topic:news"), ("/channels/orders", "queue:orders")])
def test_a_new_reader_begins_in_the_past(start: str, got: list[bytes], path: str, source: str) -> None:
    world = World(policy=KEPT)
    history(world, path)
    assert world.ask("PUT", f"/channels/late/sources/{source}?from={start}").status == 204
    world.ask("POST", path, b"new")
    taken = []
    while (one := world.get("late")).status == 200:
        taken.append(one.body)
    assert taken == [*got, b"new"]


def test_a_beginning_that_is_no_time_is_400() -> None:
    world = World()
    assert world.ask("PUT", "/channels/late/topics/news?from=then").status == 400
    assert world.ask("GET", "/channels").json == {"channels": []}


def test_a_filter_holds_for_the_past_too() -> None:
    world = World(policy=KEPT)
    history(world, "/topics/news")
    assert world.ask("PUT", "/channels/late/topics/news?from=start&match=data%20%3E%201").status == 204
    assert [world.get("late").body for _ in range(2)] == [b"2", b""]
