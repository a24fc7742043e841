"""Messages as CloudEvents, in and out; and what the SDK makes of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from broker.core.destination import queue
from broker.core.message import Message
from broker.errors import BadValue
from broker.http.cloudevents import attribute_value, attributes, header_value, message_of, structured
from tests.http.support import World, done

STRUCTURED = "application/cloudevents+json"
EVENT = {"specversion": "1.0", "id": "o-17", "source": "/shop", "type": "order.made"}


def test_a_message_of_any_front_is_an_event() -> None:
    world = World()
    done(world.broker.publish(queue("work"), Message(body=b"\xff", flags=3)))
    got = world.ask("HEAD", "/channels/work").headers
    assert (got["ce-specversion"], got["ce-source"], got["ce-type"]) == ("1.0", "/queue/work", "message")
    assert got["ce-time"] == "2023-11-14T22:13:20Z"
    event = world.ask("GET", "/channels/work?nowait", Accept=STRUCTURED)
    assert event.headers["content-type"] == STRUCTURED
    assert event.json["id"] == got["ce-id"]
    assert event.json["data_base64"] == "/w=="
    assert event.headers["x-linger-lease"]


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("application/json", b'{"n": 1}', {"data": {"n": 1}}),
        ("application/vnd.x+json", b"[1]", {"data": [1]}),
        ("application/json", b"not json", {"data_base64": "bm90IGpzb24="}),
        ("application/json", b"1" * 70_000, None),
        ("text/plain; charset=utf-8", "\u20ac".encode(), {"data": "\u20ac"}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        (None, b"words", {"data": "words"}),
        ("image/png", b"png", {"data_base64": "cG5n"}),
        ("text/plain", b"", {}),
    ],
)
def test_a_body_as_data(kind: str | None, body: bytes, shown: dict[str, Any] | None) -> None:
    event = structured(Message(body=body, content_type=kind), "1.2", queue("q"))
    found = {name: value for name, value in event.items() if name.startswith("data") and name != "datacontenttype"}
    assert found == shown if shown is not None else list(found) == ["data_base64"]


@pytest.mark.parametrize("data", [{"n": 1}, "text", 1, None, [1, "\u20ac"]])
def test_a_structured_event_goes_in_and_comes_out_the_same(data: Any) -> None:
    world = World()
    event = EVENT | {"data": data, "subject": "a b%\u20ac", "count": 7, "flag": True}
    put = world.ask("POST", "/channels/work", msgspec.json.encode(event), Content_Type=STRUCTURED)
    assert put.status == 202
    seen = world.ask("GET", f"/messages/{put.id}").json["event"]
    assert {name: seen[name] for name in event} == event | {"count": "7", "flag": "true"}
    got = world.get("work")
    assert (got.json, got.headers["content-type"]) == (data, "application/json")
    assert (got.headers["ce-id"], got.headers["ce-subject"]) == ("o-17", "a%20b%25%E2%82%AC")


def test_binary_data_goes_in_as_base64() -> None:
    world = World()
    event = EVENT | {"data_base64": "AAH/", "datacontenttype": "image/png"}
    world.ask("POST", "/topics/none", msgspec.json.encode(event), Content_Type=STRUCTURED)
    world.ask("POST", "/channels/work", msgspec.json.encode(event), Content_Type=STRUCTURED)
    got = world.get("work")
    assert (got.body, got.headers["content-type"]) == (b"\x00\x01\xff", "image/png")


@pytest.mark.parametrize(
    "event",
    [
        [],
        {},
        EVENT | {"specversion": "0.3", "data": 1},
        EVENT | {"id": "", "data": 1},
        EVENT | {"Bad-Name": "x", "data": 1},
        EVENT | {"extra": {}, "data": 1},
        EVENT | {"data": 1, "data_base64": "AA=="},
        EVENT | {"data_base64": "no base64!"},
        EVENT | {"data_base64": 7},
        EVENT | {"datacontenttype": 7, "data": 1},
        EVENT,
    ],
)
def test_what_is_no_event_is_refused(event: Any) -> None:
    world = World()
    assert world.ask("POST", "/channels/work", msgspec.json.encode(event), Content_Type=STRUCTURED).status == 400
    assert world.ask("POST", "/channels/work", b"{", Content_Type=STRUCTURED).status == 400
    assert world.ready("work") == (0, 0)


def test_a_structured_event_may_be_longer_than_its_data() -> None:
    world = World(max_message_size=100)
    event = EVENT | {"data_base64": "QUFB" * 33, "datacontenttype": "x/y"}
    assert world.ask("POST", "/channels/work", msgspec.json.encode(event), Content_Type=STRUCTURED).status == 202
    event = EVENT | {"data": "x" * 101, "datacontenttype": "text/plain"}
    assert world.ask("POST", "/channels/work", msgspec.json.encode(event), Content_Type=STRUCTURED).status == 400


@given(st.text(st.characters(codec="utf-8")))
def test_a_header_carries_any_attribute(value: str) -> None:
    assert attribute_value(header_value(value)) == value
    assert header_value(value).isascii()


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), st.text(min_size=1), max_size=5))
def test_attributes_are_kept_as_headers(extensions: dict[str, str]) -> None:
    event = extensions | EVENT | {"data": 1}
    event.pop("datacontenttype", None)
    event.pop("database64", None)
    event.pop("time", None)
    said = attributes(message_of(event), "", queue("q"))
    assert {name: said[name] for name in event if name != "data"} == {n: v for n, v in event.items() if n != "data"}


def test_an_event_must_say_who_it_is() -> None:
    with pytest.raises(BadValue, match="source is missing"):
        message_of({"id": "1", "type": "t"})


# -- the SDK


def sdk_event(**more: Any) -> CloudEvent:
    return CloudEvent(attributes={**EVENT, "datacontenttype": "application/json", **more}, data={"total": 9})


def test_what_the_sdk_sends_is_understood() -> None:
    world = World()
    for sent in (
        to_binary_event(sdk_event(subject="a b"), JSONFormat()),
        to_structured_event(sdk_event(), JSONFormat()),
    ):
        headers = dict(sent.headers.items())
        assert world.ask("POST", "/channels/work", bytes(sent.body), **headers).status == 202
        event = world.ask("GET", "/channels/work?nowait", Accept=STRUCTURED).json
        assert {name: event[name] for name in EVENT} == EVENT
        assert event["data"] == {"total": 9}


def test_the_sdk_understands_what_is_sent() -> None:
    world = World()
    for accept in ("*/*", STRUCTURED):
        world.post("work", b'{"total":9}', ce_id="o-17", ce_subject="a%20b", Content_Type="application/json")
        got = world.ask("GET", "/channels/work?nowait", Accept=accept)
        event = from_http_event(HTTPMessage(dict(got.headers), got.body), JSONFormat())
        assert (event.get_id(), event.get_source(), event.get_type()) == ("o-17", "/queue/work", "message")
        assert (event.get_subject(), event.get_data()) == ("a b", {"total": 9})
