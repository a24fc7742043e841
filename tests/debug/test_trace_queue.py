"""What becomes of the messages of one queue, told while it happens; and what a trace never shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.core.reader import Reader
from broker.http.streams import KEEP_ALIVE
from broker.tap import HIDDEN, MAX_FIELD, MAX_RATE, MAX_TAPS, Tap
from tests.http.support import World, done
from tests.http.test_streams import Reader as Stream
from tests.support import CANARY

LINES = {"Accept": "application/x-ndjson"}


def traced(world: World, query: str) -> Stream:
    return Stream(world, f"/debug/trace?{query}", **LINES)


def events(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.text().splitlines() if line]


def named(stream: Stream) -> list[str]:
    return [event["event"] for event in events(stream)]


def test_publishes_deliveries_and_settlements_are_told() -> None:
    world = World()
    stream = traced(world, "queue=work")
    world.post("work", b"a body")
    world.post("other", b"nobody looks")
    number = world.get("work").id
    world.ask("POST", f"/messages/{number}/nack", b"")
    done(world.broker.ack([done(world.broker.take("work"))]))
    published, delivered, back, again, settled = events(stream)
    assert (published["event"], published["body"], published["size"]) == ("publish", "a body", 6)
    assert (delivered["event"], delivered["attempts"], delivered["redelivered"]) == ("deliver", 0, False)
    assert (back["event"], back["attempts"]) == ("give back", 1)
    assert (again["event"], again["attempts"], again["redelivered"]) == ("deliver", 1, True)
    assert (settled["event"], settled["on_loan"]) == ("settle", True)
    assert {event["id"] for event in (published, delivered, back, again, settled)} == {number}


def test_a_purge_and_what_is_held_back_are_told() -> None:
    world = World(policy=Policies(Policy(), [Rule("work", {"backoff": [1000]})]))
    world.post("work")
    stream = traced(world, "queue=work")
    world.post("work")
    world.ask("POST", f"/messages/{world.get('work').id}/nack", b"")
    done(world.broker.purge("work", on_loan=True))
    told = events(stream)
    assert [event["event"] for event in told] == ["publish", "deliver", "give back", "settle"]
    assert told[2]["hidden_until"] > 0
    assert told[3]["count"] == 2


@pytest.mark.parametrize("durable", [True, False])
def test_a_queue_that_is_deleted_and_comes_again_or_comes_later_is_watched(durable: bool) -> None:
    world = World(policy=Policy(durable=durable))
    stream = traced(world, "queue=work")
    for _ in range(2):
        world.post("work")
        assert "publish" in named(stream)
        done(world.broker.delete("work"))
        named(stream)


def test_a_queue_that_nobody_uses_is_watched_all_the_same() -> None:
    world = World()
    world.post("work")
    stream = traced(world, "queue=work&seconds=3600")
    for _ in range(40):
        world.clock.advance(30)
    named(stream)
    world.post("work")
    assert named(stream) == ["publish"]


def test_what_comes_of_a_topic_is_told_too() -> None:
    world = World()
    done(world.broker.bind("work", topic("news")))
    stream = traced(world, "queue=work")
    done(world.broker.publish(topic("news"), Message(body=b"x")))
    assert named(stream) == ["publish"]


def test_nothing_is_left_of_it_when_it_is_over() -> None:
    world = World()
    world.post("work")
    broker, supply = world.broker, world.broker._supply
    readers = broker._directory.queues["work"].readers
    first, second = traced(world, "queue=work&seconds=2"), traced(world, "queue=work")
    assert all(type(reader) is not Reader for reader in readers)
    world.clock.advance(2)
    world.post("work")
    assert (named(first), named(second)) == ([], ["publish"])
    second.connection.leave()
    assert all(type(reader) is Reader for reader in readers)
    assert "lent" not in vars(supply)
    assert broker._directory.attached is None
    assert world.get("work").status == 200


def test_a_header_that_may_hold_a_secret_is_hidden_and_bodies_are_cut() -> None:
    world = World()
    stream = traced(world, "queue=work&bytes=3")
    headers = {"authorization": CANARY, "x-password": CANARY, "kind": "k" * 999}
    done(world.broker.publish(queue("work"), Message(body=b"abcdef", headers=headers)))
    (event,) = events(stream)
    assert event["headers"] == {"authorization": HIDDEN, "x-password": HIDDEN, "kind": "k" * MAX_FIELD + "..."}
    assert event["body"] == "abc..."


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("queue=a&connection=b", 400),
        ("queue=%0A", 400),
        ("queue=" + "q" * 300, 400),
        ("queue=a&seconds=0", 400),
        ("queue=a&seconds=99999", 400),
        ("queue=a&bytes=99999", 400),
        ("connection=192.0.2.1:1", 404),
    ],
)
def test_bad_wishes_are_problems(query: str, status: int) -> None:
    answer = World().ask("GET", f"/debug/trace?{query}", Accept="application/json")
    assert answer.status == status
    assert answer.json["type"] in ("/problems/bad-parameter", "/problems/not-found")


def test_there_are_only_so_many_at_a_time() -> None:
    world = World()
    streams = [traced(world, "queue=work") for _ in range(MAX_TAPS)]
    assert world.ask("GET", "/debug/trace?queue=work").status == 429
    streams[0].connection.leave()
    traced(world, "queue=work")


def test_more_than_can_be_read_is_counted() -> None:
    clock = Clock()
    lines: list[dict[str, Any]] = []
    tap = Tap(clock, lambda line: lines.append(json.loads(line)), 10, logs=False)
    for _ in range(MAX_RATE + 50):
        tap.tell("publish")
    assert len(lines) == MAX_RATE
    clock.advance(1)
    tap.full = True
    tap.tell("publish")
    tap.full = False
    tap.tell("settle")
    assert [(line["event"], line.get("count")) for line in lines[-2:]] == [("missed", 51), ("settle", None)]


def test_a_client_that_is_silent_hears_that_we_are_there() -> None:
    world = World()
    stream = traced(world, "queue=work")
    assert stream.text() == "\n"
    world.clock.advance(KEEP_ALIVE)
    assert stream.text() == "\n"
    assert Stream(world, "/debug/trace?queue=work").text() == ":\n\n"
