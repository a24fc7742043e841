"""Topics and subscriptions."""

from __future__ import annotations

import pytest

from broker.core.destination import topic
from broker.core.message import Message
from broker.core.policy import Policy
from tests.http.support import World, done


def test_a_subscription_makes_channel_and_topic_and_its_end_removes_them() -> None:
    world = World()
    for channel in ("b", "a"):
        made = world.ask("PUT", f"/channels/{channel}/topics/news", b"")
        assert (made.status, made.body) == (204, b"")
    world.ask("PUT", "/channels/a/topics/alerts")
    assert world.ask("GET", "/channels").json == {"channels": ["a", "b"]}
    assert world.ask("GET", "/topics").json == {"topics": ["alerts", "news"]}
    assert world.ask("GET", "/channels/a/topics").json == {"topics": ["alerts", "news"]}
    assert world.ask("GET", "/topics/news/channels").json == {"channels": ["a", "b"]}
    for channel, name in (("a", "news"), ("b", "news"), ("a", "alerts")):
        assert world.ask("DELETE", f"/channels/{channel}/topics/{name}").status == 204
    assert world.ask("GET", "/channels").json == {"channels": []}
    assert world.ask("GET", "/topics").json == {"topics": []}


def test_nothing_known() -> None:
    world = World()
    assert world.ask("GET", "/channels/a/topics").json == {"topics": []}
    assert world.ask("GET", "/topics/news/channels").json == {"channels": []}
    assert world.ask("DELETE", "/channels/a/topics/news").status == 204


def test_a_publish_answers_the_id_in_every_channel() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news")
    world.ask("PUT", "/channels/%E2%82%AC/topics/news")
    published = world.ask("POST", "/topics/news", b"hello", Content_Type="text/x-news")
    assert (published.status, set(published.json)) == (202, {"a", "\u20ac"})
    for channel, number in published.json.items():
        got = world.get("a" if channel == "a" else "%E2%82%AC")
        assert (got.id, got.body, got.headers["x-linger-topic"]) == (number, b"hello", "news")
        assert got.headers["content-type"] == "text/x-news"


def test_the_parameters_are_those_of_the_subscription() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news?priority=-5&timeout=7&deliver=2&linger=60")
    world.ask("POST", "/topics/news?priority=9&timeout=99", b"x")
    got = world.get("a")
    names = ("priority", "timeout", "deliver", "linger")
    assert [got.headers[f"x-linger-{name}"] for name in names] == ["-5", "7", "2", "60"]


def test_a_subscription_with_a_filter_gets_what_matches() -> None:
    world = World()
    world.ask("PUT", "/channels/large/topics/orders?match=data.total%20%3E%2099")
    assert world.ask("POST", "/topics/orders", b'{"total": 1}').json == {}
    assert list(world.ask("POST", "/topics/orders", b'{"total": 100}').json) == ["large"]
    assert world.get("large").body == b'{"total": 100}'
    refused = world.ask("PUT", "/channels/large/topics/orders?match=data.total%20%3E")
    assert (refused.status, b"at character 13" in refused.body) == (400, True)


def test_a_delayed_message_comes_later_or_is_cancelled() -> None:
    world = World()
    kept = world.post("work", b"kept", query="?delay=5")
    cancelled = world.post("work", b"cancelled", query="?delay=5")
    assert world.ask("DELETE", f"/messages/{cancelled.json['id']}").status == 204
    assert world.get("work").status == 204
    world.clock.advance(5.01)
    assert world.get("work").body == b"kept"
    assert world.get("work").status == 204
    assert kept.status == 202
    assert world.post("work", query="?delay=-1").status == 400


def test_form_parameters_of_a_put() -> None:
    world = World()
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert world.ask("PUT", "/channels/a/topics/news?timeout=5", b"linger=60&timeout=6", **form).status == 204
    world.ask("POST", "/topics/news", b"x")
    got = world.get("a")
    assert (got.headers["x-linger-linger"], got.headers["x-linger-timeout"]) == ("60", "6")


def test_a_second_subscription_replaces_all_parameters_and_delivers_once() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news?priority=3&timeout=7")
    world.ask("PUT", "/channels/a/topics/news?deliver=4")
    assert len(world.ask("POST", "/topics/news", b"x").json) == 1
    got = world.get("a")
    names = ("priority", "timeout", "deliver")
    assert [got.headers[f"x-linger-{name}"] for name in names] == ["0", "30", "4"]
    assert world.get("a").status == 204


@pytest.mark.parametrize("query", ["priority=x", "timeout=0", "deliver=-1", "linger=", f"linger={2**63}"])
def test_a_subscription_with_wrong_parameters(query: str) -> None:
    world = World()
    answer = world.ask("PUT", f"/channels/a/topics/news?{query}")
    assert answer.status == 400
    assert answer.reason.startswith("Invalid message ")
    assert world.ask("GET", "/topics").json == {"topics": []}


def test_a_publish_ignores_the_four_numbers_even_wrong_ones() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news")
    assert world.ask("POST", "/topics/news?priority=x&timeout=0&deliver=&linger=-9", b"x").status == 202


@pytest.mark.parametrize("body", [b"", b"x" * 256_001])
def test_a_publish_that_is_no_message(body: bytes) -> None:
    world = World()
    alone = world.ask("POST", "/topics/news", body)
    assert (alone.status, alone.json) == (202, {})
    world.ask("PUT", "/channels/a/topics/news")
    assert world.ask("POST", "/topics/news", body).status == 400
    assert world.get("a").status == 204


def test_a_publish_without_subscriptions_still_reaches_live_subscribers() -> None:
    world = World()
    heard: list[bytes] = []
    subscription = world.broker.subscribe(topic("news"), lambda d: heard.append(d.message.body), prefetch=10)
    assert world.ask("POST", "/topics/news", b"x").json == {}
    world.clock.advance(0)
    assert heard == [b"x"]
    world.broker.unsubscribe(subscription)


def test_a_full_channel_is_left_out() -> None:
    world = World(policy=Policy(max_messages=1))
    world.ask("PUT", "/channels/a/topics/news")
    world.ask("PUT", "/channels/b/topics/news")
    world.post("a")
    published = world.ask("POST", "/topics/news", b"x")
    assert (published.status, set(published.json)) == (202, {"b"})


def test_an_ended_subscription_keeps_what_it_brought() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news")
    world.ask("POST", "/topics/news", b"kept")
    world.ask("DELETE", "/channels/a/topics/news")
    assert world.ask("POST", "/topics/news", b"missed").json == {}
    assert world.get("a").body == b"kept"
    assert world.get("a").status == 204


def test_a_topic_message_of_another_front_keeps_its_own_priority() -> None:
    world = World()
    world.ask("PUT", "/channels/a/topics/news")
    done(world.broker.publish(topic("news"), Message(body=b"x", priority=-4)))
    assert world.get("a").headers["x-linger-priority"] == "-4"
