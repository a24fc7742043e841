"""What is a message: bodies, parameters and sizes of a POST."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import pytest

from broker.core.policy import Policy
from broker.http.request import PATIENCE
from tests.http.support import Response, World
from tests.http.test_parameters import multipart

FORM: Mapping[str, str] = {"Content_Type": "application/x-www-form-urlencoded"}


def round_trip(path: str, body: bytes, **headers: str) -> Response:
    """The message a POST makes."""
    world = World()
    assert world.ask("POST", path, body, **headers).status == 202
    return world.get("work")


def test_msg_in_a_form() -> None:
    got = round_trip("/channels/work", b"msg=%20hello+%C3%BC%0A&priority=-2", **FORM)
    assert (got.body, got.headers["content-type"]) == ("hello \u00fc".encode(), "text/plain")
    assert got.headers["x-linger-priority"] == "-2"


def test_msg_in_the_query_wins_over_a_raw_body() -> None:
    got = round_trip("/channels/work?msg=text", b"\x00raw", Content_Type="application/x-raw")
    assert (got.body, got.headers["content-type"]) == (b"text", "text/plain")


def test_msg_in_a_multipart_body() -> None:
    kind, body = multipart(('name="msg"', b"two\r\nlines"), ('name="timeout"', b" 7 "))
    got = round_trip("/channels/work", body, Content_Type=kind)
    assert (got.body, got.headers["x-linger-timeout"]) == (b"two\r\nlines", "7")


def test_a_form_without_msg_is_kept_as_it_came() -> None:
    got = round_trip("/channels/work", b"a=1&priority=4", **FORM)
    assert (got.body, got.headers["content-type"]) == (b"a=1&priority=4", "application/x-www-form-urlencoded")
    assert got.headers["x-linger-priority"] == "4"


def test_multipart_without_msg_is_kept_as_it_came() -> None:
    kind, body = multipart(('name="file"; filename="a"', b"\x00\xff"))
    got = round_trip("/channels/work", body, Content_Type=kind)
    assert (got.body, got.headers["content-type"]) == (body, kind)


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "odd", "image/png"])
def test_the_content_type_is_kept_verbatim(kind: str) -> None:
    assert round_trip("/channels/work", b"x", Content_Type=kind).headers["content-type"] == kind


def test_an_empty_content_type_is_kept_too() -> None:
    assert round_trip("/channels/work", b"x", Content_Type="").headers["content-type"] == ""


def test_every_byte() -> None:
    body = bytes(range(256)) + b"\r\nEND\r\n" + bytes(range(256))
    assert round_trip("/channels/work", body, Content_Type="application/octet-stream").body == body


@pytest.mark.parametrize(
    ("path", "body", "phrase"),
    [
        ("/channels/work", b"", "Message is empty."),
        ("/channels/work?msg=%20%0A", b"raw", "Message is empty."),
        ("/channels/work?msg", b"raw", "Message is empty."),
        ("/channels/work?priority=x&timeout=x", b"", "Invalid message priority."),
        ("/channels/work?timeout=0", b"x", "Invalid message visibility timeout."),
        ("/channels/work?deliver=1.5", b"x", "Invalid message delivery limit."),
        ("/channels/work?linger=-1", b"x", "Invalid message delivery limit."),
        (f"/channels/work?priority={2**63}", b"x", "Invalid message priority."),
        (f"/channels/work?linger={2**80}", b"x", "Invalid message delivery limit."),
        ("/channels/work?msg=%FF", b"x", "Bad Request"),
        ("/channels/%FF", b"x", "Bad Request"),
        (f"/channels/{'n' * 251}", b"x", "the name is 251 bytes long, at most 250 are allowed"),
        ("/channels/a%00b", b"x", "the name holds control characters"),
    ],
)
def test_what_is_refused(path: str, body: bytes, phrase: str) -> None:
    world = World()
    answer = world.ask("POST", path, body)
    assert (answer.status, answer.reason) == (400, phrase)
    assert answer.body == f"HTTP 400 {phrase}\n".encode()
    assert answer.headers["content-type"] == "text/plain"
    assert world.ask("GET", "/channels").json == {"channels": []}


def test_broken_multipart_is_400() -> None:
    answer = World().post("work", b"nonsense", Content_Type="multipart/form-data; boundary=x")
    assert (answer.status, answer.body) == (400, b"HTTP 400 Bad Request\n")


def test_the_longest_times_are_kept() -> None:
    world = World()
    world.post("work", query=f"?timeout={2**63 - 1}&linger={2**63 - 1}&deliver={2**63 - 1}&priority={2**63 - 1}")
    got = world.get("work")
    assert got.status == 200
    assert got.headers["x-linger-deliver"] == str(2**63 - 1)
    assert int(got.headers["x-linger-timeout"]) > 99 * 365 * 86400


# -- sizes


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_raw_bodies_are_measured_in_bytes(kind: str) -> None:
    world = World()
    assert world.post("work", b"x" * 256_000, Content_Type=kind).status == 202
    refused = world.post("work", b"x" * 256_001, Content_Type=kind)
    assert refused.status == 400
    assert refused.reason == "The message size 256001 bytes exceeds the maximum allowed 256000 bytes."


def test_msg_is_measured_in_characters() -> None:
    world = World()
    body = b"msg=" + quote("\u20ac" * 256_000).encode()
    assert world.post("work", body, **FORM).status == 202
    assert len(world.get("work").body) == 768_000
    refused = world.post("work", b"msg=" + b"x" * 256_001, **FORM)
    assert (refused.status, "256001" in refused.reason) == (400, True)


def test_msg_in_a_multipart_body_is_measured_in_characters() -> None:
    kind, body = multipart(('name="msg"', "\U0001f600".encode() * 256_000))
    assert World().post("work", body, Content_Type=kind).status == 202


def test_a_multipart_body_too_large_to_keep_is_too_large_not_broken() -> None:
    kind, body = multipart(('name="msg"', b"x" * 1_200_000))
    refused = World().post("work", body, Content_Type=kind)
    assert (refused.status, f"{len(body)} bytes" in refused.reason) == (400, True)


def test_a_configured_size_is_in_bytes_for_both() -> None:
    world = World(max_message_size=10)
    assert world.post("work", b"x" * 10).status == 202
    assert world.post("work", b"x" * 11).status == 400
    assert world.post("work", b"msg=" + quote("\u00fc" * 5).encode(), **FORM).status == 202
    assert world.post("work", b"msg=" + quote("\u00fc" * 6).encode(), **FORM).status == 400
    assert world.ask("GET", "/stats").json["msg-max-size"] == 10


def test_a_configured_size_may_be_larger() -> None:
    world = World(max_message_size=1_000_000, policy=Policy(max_message_size=1_000_000))
    assert world.post("work", b"x" * 1_000_000).status == 202
    assert len(world.get("work").body) == 1_000_000


def test_the_broker_has_the_last_word() -> None:
    assert World(policy=Policy(max_message_size=10)).post("work", b"x" * 11).status == 400


def test_a_raw_body_does_not_count_where_msg_is_in_the_query() -> None:
    world = World()
    assert world.post("work", b"x" * 300_000, "?msg=short").status == 202
    assert world.get("work").body == b"short"


def test_a_little_too_large_is_400_and_the_connection_goes_on() -> None:
    world = World()
    connection = world.waiting("POST", "/channels/work", b"x" * (256_000 + PATIENCE))
    assert connection.answer().status == 400
    assert not connection.closing
    connection.ask("POST", "/channels/work", b"y")
    assert connection.answer().status == 202


def test_problem_details_for_who_asks_for_json() -> None:
    world = World()
    answer = world.post("work", b"", Accept="application/json")
    assert (answer.status, answer.reason) == (400, "Message is empty.")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": "/problems/empty-message",
        "title": "Bad Request",
        "status": 400,
        "detail": "Message is empty.",
        "instance": "/channels/work",
    }
    unknown = world.ask("DELETE", "/messages/7", Accept="application/problem+json")
    assert (unknown.status, unknown.json["type"]) == (404, "/problems/not-found")
