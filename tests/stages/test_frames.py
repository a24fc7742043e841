"""Frames: what programs say, however it is cut into pieces, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.stages.event import root
from broker.stages.frames import MAX_FRAME, Ack, BadFrame, Blocks, Lines, Nack, Output, block, event_as_json, line, read

FRAMES = [b'{"ack":"1"}', b"[1,\r\n2]", b"7"]


@pytest.mark.parametrize(
    ("reader", "write", "frames"), [(Lines, line, [b'{"a":1}', b"x", b"7"]), (Blocks, block, FRAMES)]
)
def test_frames_are_found_all_at_once_and_byte_by_byte(reader: Any, write: Any, frames: list[bytes]) -> None:
    said = b"".join(map(write, frames))
    assert list(reader().feed(said)) == frames
    for size in (1, 3, 7):
        one = reader()
        pieces = [said[place : place + size] for place in range(0, len(said), size)]
        assert [frame for piece in pieces for frame in one.feed(piece)] == frames
        assert not one.rest


def test_half_a_frame_is_known() -> None:
    lines, blocks = Lines(), Blocks()
    assert list(lines.feed(b'{"a"')) == []
    assert lines.rest == b'{"a"'
    assert list(blocks.feed(b"Content-Length: 10\r\n\r\n123")) == []
    assert blocks.rest
    assert list(blocks.feed(b"4567890")) == [b"1234567890"]
    assert not blocks.rest


@pytest.mark.parametrize(
    "said",
    [b"Content-Length: -1\r\n\r\n", b"Content-Length: 99999999\r\n\r\n", b"Type: x\r\n\r\n", b"x" * 2000],
)
def test_heads_that_are_none(said: bytes) -> None:
    with pytest.raises(BadFrame):
        list(Blocks().feed(said))


def test_a_line_without_an_end_is_given_up() -> None:
    reader = Lines()
    for _ in range(MAX_FRAME // 2**20):
        assert not list(reader.feed(b"x" * 2**20))
    with pytest.raises(BadFrame, match="a line of more than"):
        list(reader.feed(b"x"))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"ack": "1"}, Ack("1")),
        ({"nack": "1", "after": 5, "reason": "busy"}, Nack("1", 5, "busy", False)),
        ({"nack": "1", "dead": True}, Nack("1", None, "", True)),
        ({"word": "a"}, Output("", {"word": "a"}, {})),
        (["a"], Output("", ["a"], {})),
        (
            {"specversion": "1.0", "parentid": "p", "type": "t", "data": {"ack": 1}, "channel": "c", "delay": 1},
            Output("p", {"ack": 1}, {"type": "t", "channel": "c", "delay": 1}),
        ),
        (
            {"specversion": "1.0", "data_base64": "/wA=", "datacontenttype": "image/x"},
            Output("", b"\xff\x00", {"content_type": "image/x"}),
        ),
    ],
)
def test_what_programs_say(said: Any, meant: Any) -> None:
    assert read(json.dumps(said).encode()) == meant


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"\xff",
        b'{"nack":"1","after":"soon"}',
        b'{"nack":"1","after":true}',
        b'{"specversion":"1.0","data_base64":"?"}',
        b'{"specversion":"1.0","data":1,"delay":"x"}',
    ],
)
def test_what_cannot_be_understood(said: bytes) -> None:
    with pytest.raises(BadFrame):
        read(said)


def test_an_input_is_one_line_whatever_is_in_it() -> None:
    event = root("in", b'{"a":\n1}', flow="f", content_type="application/json", subject="two\nlines")
    said = event_as_json(event)
    assert b"\n" not in said
    found = json.loads(said)
    assert found["data"] == {"a": 1}
    assert found.items() >= {"subject": "two\nlines", "channel": "in", "attempt": 1, "rootid": event.id}.items()
