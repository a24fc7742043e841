"""Events: what they carry, what their children inherit, and ids that are the same whenever an input is tried again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from broker.stages import Event
from broker.stages.event import Place, attributes_of, event_of, root, structured
from broker.stages.verdict import Undecodable, Unencodable
from broker.stages.wire import loans_of, publish


def given(data: Any = "one two", *, stage: str = "f/split", **said: Any) -> Event:
    return root("docs", data, flow="f", id="r1", **said).at(Place(stage, "words", "v1"))


def test_a_child_names_its_parent_its_root_and_who_made_it() -> None:
    child = given(priority=3, group="g", traceparent="00-1").child({"n": 1})
    assert (child.parentid, child.rootid, child.stage, child.codeversion) == ("r1", "r1", "split", "v1")
    assert (child.channel, child.source, child.type, child.data) == ("words", "/stages/f/split", "split", {"n": 1})
    assert (child.priority, child.group, child.attributes) == (3, "g", {"traceparent": "00-1"})
    grandchild = child.at(Place("f/index", "out")).child(b"x", channel="topic:seen", priority=0)
    assert (grandchild.parentid, grandchild.rootid) == (child.id, "r1")
    assert (grandchild.channel, grandchild.priority, grandchild.data) == ("topic:seen", 0, b"x")


def test_ids_of_children_are_the_same_each_time_and_differ_by_everything_else() -> None:
    first, again = given(), given()
    assert [first.child(1).id, first.child(1).id] == [again.child(2).id, again.child(2).id]
    ids = {given().child(1).id, given(stage="f/other").child(1).id, given(run="7").child(1).id}
    twice = given()
    ids |= {twice.child(1).id, twice.child(1).id}
    assert len(ids) == 4


def test_an_event_never_changes() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        given().id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "raw", "kind"),
    [
        ("\u20ac", "\u20ac".encode(), "text/plain; charset=utf-8"),
        (b"\x00", b"\x00", "application/octet-stream"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        (7, b"7", "application/json"),
        (datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"', "application/json"),
    ],
)
def test_data_become_a_body_and_a_body_data(data: Any, raw: bytes, kind: str) -> None:
    child = given().child(data)
    assert (child.raw, child.content_type) == (raw, kind)
    if not isinstance(data, datetime):
        assert child.data == data


@pytest.mark.parametrize("data", [object(), {1, object()}, "\ud800", "", b""])
def test_what_no_message_can_be_made_of_is_said_at_once(data: Any) -> None:
    with pytest.raises(Unencodable):
        given().child(data)


def test_a_body_that_is_not_what_it_says_is_rejected() -> None:
    with pytest.raises(Undecodable, match="the body is not application/json"):
        _ = given(b"{", content_type="application/json").data
    with pytest.raises(Undecodable):
        _ = given(b"\xff", content_type="text/plain").data


def test_only_an_input_has_children_and_they_go_somewhere() -> None:
    with pytest.raises(TypeError, match="only an event that a stage was given"):
        root("docs", 1, flow="f").child(1)
    with pytest.raises(TypeError, match="f/last has nowhere to send to"):
        root("docs", 1, flow="f").at(Place("f/last")).child(1)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ({"n": 1}, {"datacontenttype": "application/json"}),
        ("text", {"datacontenttype": "text/plain; charset=utf-8", "data": "text"}),
        (b"\xff\x00", {"datacontenttype": "application/octet-stream", "data_base64": "/wA="}),
    ],
)
def test_an_event_is_a_cloudevent_to_others(data: Any, body: dict[str, Any]) -> None:
    child = given().child(data, subject="s")
    said = structured(child)
    assert said.items() >= {"id": child.id, "subject": "s", "parentid": "r1", "codeversion": "v1", **body}.items()
    back = event_of(attributes_of(child), child.raw, child.content_type, headers={}, channel="words")
    assert attrs.evolve(child, priority=0) == back


def test_operations_say_where_to_and_how() -> None:
    event = given().child(1, channel="topic:news", delay=5, priority=-1, group="g")
    op = publish(event)["publish"]
    assert (op["topic"], op["delay"], op["priority"], op["group"]) == ("news", 5, -1, "g")
    assert publish(given().child(1))["publish"]["channel"] == "words"


def test_an_attribute_whose_name_is_none_goes_on_as_a_header() -> None:
    event = attrs.evolve(given(), attributes={"odd-name": "x", "fine": "y"}, headers={"colour": "blue"})
    op = publish(event)["publish"]
    assert op["event"]["fine"] == "y"
    assert "odd-name" not in op["event"]
    assert op["headers"] == {"colour": "blue", "ce-odd-name": "x"}


PART = (
    b"\r\nContent-Type: text/plain\r\nX-Linger-Msg-Id: 7\r\nX-Linger-Lease: t\r\nX-Linger-Delivered: 2\r\n"
    b"X-Linger-Priority: -1\r\nX-Linger-Timeout: 30\r\nce-id: a%%20b\r\nce-mine: x\r\nX-Message-Colour: blue\r\n"
    b"\r\n%b\r\n"
)


def test_an_answer_in_parts_is_read() -> None:
    body = b"--B" + PART % b"one\r\n\r\ntwo" + b"--B" + PART % b"" + b"--B--\r\n"
    first, second = loans_of(body, 'multipart/mixed; boundary="B"', "docs")
    assert (first.id, first.token, first.lease) == (7, "t", 30)
    assert first.event.raw == b"one\r\n\r\ntwo"
    assert (first.event.id, first.event.rootid, first.event.attempt, first.event.priority) == ("a b", "a b", 2, -1)
    assert (first.event.attributes, first.event.headers) == ({"mine": "x"}, {"colour": "blue"})
    assert second.event.raw == b""


@pytest.mark.parametrize(("body", "kind"), [(b"{}", "application/json"), (b"x", "multipart/mixed; boundary=B")])
def test_an_answer_that_is_none_is_an_error(body: bytes, kind: str) -> None:
    with pytest.raises(ValueError, match="an answer"):
        loans_of(body, kind, "docs")
