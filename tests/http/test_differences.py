"""Where the front departs from Linger on purpose; docs/http.rst lists the same."""

from __future__ import annotations

import pytest

from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.http.support import World


def test_limits_hold_at_the_very_delivery() -> None:
    world = World()
    world.post("old", query="?linger=1")
    world.post("tired", query="?deliver=1&timeout=1")
    assert world.get("tired").headers["x-linger-delivered"] == "1"
    world.clock.advance(1)
    assert [world.get(name).status for name in ("old", "tired")] == [204, 204]


@pytest.mark.parametrize("name", ["priority", "timeout", "linger", "deliver"])
def test_integers_beyond_64_bits_are_400(name: str) -> None:
    world = World()
    assert world.post("work", query=f"?{name}={2**63}").status == 400
    assert world.ask("DELETE", f"/messages/{2**63}").status == 400
    assert world.ready("work") == (0, 0)


@pytest.mark.parametrize("name", ["%E2%82%AC", "%C3%BC", "a%20b", "a%2Fb", "%F0%9F%98%80"])
def test_a_channel_of_any_name_can_be_read(name: str) -> None:
    world = World()
    world.post(name)
    got = world.get(name)
    assert got.status == 200
    assert got.headers["x-linger-channel"] in (name, "a b", "a/b")
    assert world.ask("DELETE", f"/messages/{got.id}").status == 204


def test_a_publish_reaches_all_channels_or_none() -> None:
    world = World()
    for channel in "abc":
        world.ask("PUT", f"/channels/{channel}/topics/news")
    before = world.store.commits
    world.ask("POST", "/topics/news", b"x")
    assert world.store.commits == before + 1
    world.store.hold = True
    producer = world.waiting("POST", "/topics/news", b"y")
    world.store.fail_commit(StoreUnavailable("no"))
    assert producer.answer().status == 503
    assert [world.ready(channel) for channel in "abc"] == [(1, 0)] * 3


def test_hidden_messages_are_counted_as_hidden() -> None:
    world = World()
    world.post("work")
    world.post("work")
    world.get("work")
    stats = world.ask("GET", "/stats").json
    assert (stats["current-messages-ready"], stats["current-messages-hidden"]) == (1, 1)


def test_subscriptions_are_all_counted() -> None:
    world = World()
    for channel in "abc":
        world.ask("PUT", f"/channels/{channel}/topics/news")
        world.ask("DELETE", f"/channels/{channel}/topics/news")
    stats = world.ask("GET", "/stats").json
    assert (stats["subscription-add"], stats["subscription-delete"]) == (3, 3)


def test_head_takes_nothing() -> None:
    world = World()
    world.post("work")
    assert world.ask("HEAD", "/channels/work").status == 200
    assert world.ready("work") == (1, 0)


@pytest.mark.parametrize("name", ["a.b", "a:b", "a+b", "a~b", "a@b", "v1.2-rc_3"])
def test_names_may_hold_more(name: str) -> None:
    world = World()
    assert world.post(name).status == 202
    assert world.get(name).headers["x-linger-channel"] == name


def test_foreign_pages_are_refused() -> None:
    world = World()
    assert world.post("work", Origin="http://evil.example").status == 403
    assert world.post("work", Host="evil.example").status == 403
    assert world.ready("work") == (0, 0)


def test_405_says_what_is_allowed() -> None:
    assert World().ask("PUT", "/channels/work").headers["allow"] == "DELETE, GET, HEAD, POST"


def test_an_empty_publish_without_subscriptions_stays_202() -> None:
    answer = World().ask("POST", "/topics/news", b"")
    assert (answer.status, answer.body) == (202, b"{}")


def test_lingers_server_header_etags_and_html_pages_are_not_copied() -> None:
    world = World()
    for answer in (world.ask("GET", "/"), world.ask("GET", "/nothing")):
        assert answer.headers["server"] == "twisted-broker"
        assert "etag" not in answer.headers
        assert b"<html" not in answer.body


def test_what_a_proxy_says_is_not_believed() -> None:
    world = World()
    assert world.post("work", Host="evil.example", X_Forwarded_Host="localhost", X_Real_Ip="127.0.0.1").status == 403


def test_ids_grow_within_a_channel_and_are_safe_in_json() -> None:
    world = World()
    ids = [world.post("a").id for _ in range(3)]
    assert ids == sorted(set(ids))
    other = world.post("b").id
    assert other not in ids
    assert max(*ids, other) < 2**53


def test_a_restart_counts_no_delivery() -> None:
    store = MemoryStore()
    first = World(store=store)
    first.post("work", query="?timeout=10")
    assert first.get("work").headers["x-linger-delivered"] == "1"
    second = World(store=store)
    assert second.get("work").status == 204
    second.clock.advance(10)
    assert second.get("work").headers["x-linger-delivered"] == "2"


def test_a_retry_time_comes_with_what_may_succeed_later() -> None:
    world = World(store=MemoryStore(hold=True))
    producer = world.waiting("POST", "/channels/work", b"x")
    world.store.fail_commit()
    assert "retry-after" in producer.answer().headers


def test_an_event_is_taken_for_what_it_holds() -> None:
    world = World()
    event = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":1}}'
    world.post("work", event, Content_Type="application/cloudevents+json")
    world.post("work", event, Content_Type="application/json")
    assert [world.get("work").body for _ in range(2)] == [b'{"n":1}', event]
