"""Event streams: messages on loan as they come, topics as they happen, back-pressure, resuming."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from broker.core.destination import queue
from broker.core.policy import Policies, Policy, TopicPolicy
from broker.http.streams import KEEP_ALIVE, PATIENCE
from tests.http.support import Connection, World


class Reader:
    """A client of a stream."""

    def __init__(self, world: World, path: str, **headers: str) -> None:
        self.world = world
        self.connection: Connection = world.waiting("GET", path, None, **headers)
        head, _, self._rest = self.connection.transport.value().partition(b"\r\n\r\n")
        self.head = head.decode()
        self.connection.transport.clear()
        assert "Transfer-Encoding: chunked" in self.head, self.head

    def text(self) -> str:
        """What came since the last look."""
        data, self._rest = self._rest + self.connection.transport.value(), b""
        self.connection.transport.clear()
        parts = []
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size, 16)
            parts.append(data[:length])
            data = data[length + 2 :]
        return b"".join(parts).decode()

    def events(self) -> list[dict[str, Any]]:
        """The events since the last look, each with its id."""
        found = []
        for block in self.text().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append({"sse": lines.get("id"), "kind": lines.get("event"), **json.loads(lines["data"])})
        return found

    def pause(self, paused: bool) -> None:
        """The client takes nothing, or does again."""
        producer = self.connection.transport.producer
        assert producer is not None
        producer.pauseProducing() if paused else producer.resumeProducing()
        self.world.clock.advance(0)


def world(**topics: Any) -> World:
    return World(policy=Policies(Policy(), topic_default=TopicPolicy(**({"retain": 3_600_000} | topics))))


# -- channels


def test_messages_come_on_loan_and_are_settled_by_their_id() -> None:
    on = world()
    on.post("work", b"1", Content_Type="application/json")
    reader = Reader(on, "/channels/work/stream?credit=2")
    assert "Content-Type: text/event-stream" in reader.head
    (first,) = reader.events()
    assert (first["event"]["data"], first["delivered"], first["sse"]) == (1, 1, str(first["id"]))
    for number in (2, 3):
        on.post("work", b"%d" % number, Content_Type="application/json")
    (second,) = reader.events()
    assert (second["event"]["data"], on.ready("work")) == (2, (1, 2))
    assert on.ask("DELETE", f"/messages/{first['id']}").status == 204
    on.clock.advance(0)
    assert [one["event"]["data"] for one in reader.events()] == [3]


def test_unsettled_messages_return_as_failed_when_the_client_goes() -> None:
    on = world()
    on.post("work")
    reader = Reader(on, "/channels/work/stream")
    assert on.ready("work") == (0, 1)
    reader.connection.leave()
    assert on.get("work").headers["x-linger-delivered"] == "2"


def test_unsettled_messages_return_unharmed_when_we_stop() -> None:
    on = world()
    on.post("work")
    reader = Reader(on, "/channels/work/stream")
    on.site.drain()
    assert reader.connection.closing
    on.site.stopping = False
    assert on.get("work").headers["x-linger-delivered"] == "1"


def test_a_client_that_takes_nothing_gets_nothing_and_is_closed_in_the_end() -> None:
    on = world()
    reader = Reader(on, "/channels/work/stream")
    reader.pause(True)
    on.post("work")
    assert (reader.events(), on.ready("work")) == ([], (1, 0))
    on.clock.advance(PATIENCE)
    assert [one["kind"] for one in reader.events()] == ["slow"]
    assert reader.connection.closing


def test_a_client_that_takes_again_gets_what_waited() -> None:
    on = world()
    reader = Reader(on, "/channels/work/stream")
    reader.pause(True)
    on.post("work", b"late")
    on.clock.advance(PATIENCE - 1)
    reader.pause(False)
    assert [one["event"]["data"] for one in reader.events()] == ["late"]
    on.clock.advance(PATIENCE)
    assert not reader.connection.closing


def test_silence_is_filled_with_comments() -> None:
    on = world()
    reader = Reader(on, "/channels/work/stream")
    reader.text()
    on.clock.advance(KEEP_ALIVE)
    assert reader.text() == ":\n\n"
    reader.connection.leave()
    before = len(on.clock.getDelayedCalls())
    on.clock.advance(KEEP_ALIVE)
    assert len(on.clock.getDelayedCalls()) <= before


def test_lines_of_json_for_who_asks_for_them() -> None:
    on = world()
    reader = Reader(on, "/channels/work/stream", Accept="application/x-ndjson")
    on.post("work", b"x")
    (line,) = reader.text().splitlines()
    assert json.loads(line)["event"]["data"] == "x"


@pytest.mark.parametrize("path", ["/channels/work/stream?credit=0", "/channels/work/stream?credit=1001"])
def test_a_wrong_credit_is_400(path: str) -> None:
    assert world().ask("GET", path).status == 400


def test_an_alias_cannot_be_read() -> None:
    on = World(policy=Policies(Policy(), aliases={"both": (queue("one"), queue("two"))}))
    assert on.ask("GET", "/channels/both/stream").status == 400


@pytest.mark.parametrize("path", ["/channels/work/stream", "/topics/news/stream"])
def test_head_shows_the_type_and_takes_nothing(path: str) -> None:
    on = world()
    on.post("work")
    assert on.ask("HEAD", path).headers["content-type"] == "text/event-stream"
    assert on.ready("work") == (1, 0)


# -- topics


def publish(on: World, *bodies: str, topic: str = "news") -> None:
    for body in bodies:
        on.ask("POST", f"/topics/{topic}", body.encode())


def data(reader: Reader) -> list[str]:
    return [one["data"] for one in reader.events()]


def test_a_topic_is_followed_from_now_on() -> None:
    on = world()
    publish(on, "before")
    readers = [Reader(on, "/topics/news/stream") for _ in range(3)]
    publish(on, "a", "b")
    assert [data(reader) for reader in readers] == [["a", "b"]] * 3


def test_a_dropped_connection_is_resumed_without_a_gap_or_a_double() -> None:
    on = world()
    reader = Reader(on, "/topics/news/stream")
    publish(on, "a", "b")
    last = reader.events()[0]["sse"]
    reader.connection.leave()
    publish(on, "c")
    again = Reader(on, "/topics/news/stream", Last_Event_ID=last)
    publish(on, "d")
    assert data(again) == ["b", "c", "d"]


def test_what_comes_while_the_log_is_read_is_seen_once() -> None:
    on = world()
    publish(on, *map(str, range(250)))
    reader = Reader(on, "/topics/news/stream?after=0")
    seen = data(reader)
    for number in range(250, 260):
        publish(on, str(number))
        on.clock.advance(0)
        seen += data(reader)
    assert seen == [str(number) for number in range(260)]


def test_what_comes_while_the_log_is_read_waits_though_the_client_takes_more() -> None:
    on = world()
    publish(on, "a", "b", "c")
    connection = on.connect()
    transport: Any = connection.transport
    write = transport.writeSequence
    paused: list[bool] = []

    def writes(parts: list[bytes]) -> None:
        write(parts)
        if b'"data":"' in b"".join(parts) and not paused:
            paused.append(True)
            transport.producer.pauseProducing()
            publish(on, "d")

    transport.writeSequence = writes
    connection.ask("GET", "/topics/news/stream?after=0")
    on.clock.advance(0)
    assert re.findall(rb'"data":"(.)"', transport.value()) == [b"a"]
    transport.producer.resumeProducing()
    on.clock.advance(0)
    assert re.findall(rb'"data":"(.)"', transport.value()) == [b"a", b"b", b"c", b"d"]


def test_a_filter_and_a_pattern_narrow_what_comes() -> None:
    on = world()
    short = Reader(on, "/topics/news/stream?match=size%20%3C%203&after=0")
    wild = Reader(on, "/topics/*/stream")
    publish(on, "long one", "no")
    assert data(short) == ["no"]
    found = wild.events()
    assert [one["source"] for one in found] == ["/topic/news"] * 2
    refused = on.ask("GET", "/topics/*/stream", Last_Event_ID="5")
    assert refused.status == 400


def test_a_reader_that_is_too_slow_is_told_and_can_resume() -> None:
    on = world(max_bytes=2_000)
    reader = Reader(on, "/topics/news/stream")
    fast = Reader(on, "/topics/news/stream")
    publish(on, "0")
    last = reader.events()[0]["sse"]
    reader.pause(True)
    publish(on, *map(str, range(1, 50)))
    assert data(fast) == list(map(str, range(50)))
    reader.pause(False)
    assert [one["kind"] for one in reader.events()] == ["slow"]
    assert reader.connection.closing
    again = Reader(on, "/topics/news/stream", Last_Event_ID=last)
    assert data(again) == list(map(str, range(1, 50)))


def test_a_line_says_where_to_go_on() -> None:
    on = world()
    reader = Reader(on, "/topics/news/stream", Accept="application/x-ndjson")
    publish(on, "a", "b")
    first, second = map(json.loads, reader.text().splitlines())
    assert [one["event"]["data"] for one in (first, second)] == ["a", "b"]
    assert data(Reader(on, f"/topics/news/stream?after={first['position']}")) == ["b"]


def test_following_needs_nothing_stored_for_a_reader() -> None:
    on = World()
    reader = Reader(on, "/topics/news/stream")
    before = on.store.commits
    publish(on, "live")
    assert (data(reader), on.store.commits) == (["live"], before)
    assert on.ask("GET", "/topics").json == {"topics": []}


@pytest.mark.parametrize("last", ["x", "-1", "9" * 17])
def test_a_wrong_last_event_id_is_400(last: str) -> None:
    assert world().ask("GET", "/topics/news/stream", Last_Event_ID=last).status == 400


def test_a_thousand_readers_of_whom_one_is_slow_and_one_drops_out() -> None:
    on = world(max_bytes=3_000)
    readers = [Reader(on, "/topics/news/stream") for _ in range(1_000)]
    slow, leaver, others = readers[0], readers[1], readers[2:]
    bodies = [str(number) for number in range(16)]
    publish(on, *bodies[:4])
    slow.pause(True)
    seen = leaver.events()
    leaver.connection.leave()
    publish(on, *bodies[4:])
    back = Reader(on, "/topics/news/stream", Last_Event_ID=seen[-1]["sse"])
    assert [one["data"] for one in seen] + data(back) == bodies
    assert all(data(reader) == bodies for reader in others)
    assert data(slow) == bodies[:4]
    slow.pause(False)
    assert [one["kind"] for one in slow.events()] == ["slow"]
