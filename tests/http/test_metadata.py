"""Headers of messages, and who may ask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.http.guard import check
from broker.http.metadata import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    content_type,
    delivery_fields,
    header_name,
    message_headers,
)
from broker.http.problem import Problem


def sent(message: Message = Message(), now: int = 0, **more: Any) -> dict[str, bytes]:  # noqa: B008 - frozen
    """The fields a delivery of `message` is sent with, by lower-case name."""
    facts = {"id": 5, "priority": 0, "lease": 30_000, "max_attempts": 0, "attempts": 0, "ttl": 0, "queue": "work"}
    delivery = SimpleNamespace(message=message, **({"source": queue("work")} | facts | more))
    return {name.decode().lower(): value for name, value in delivery_fields(cast(Any, delivery), now)}


def test_what_is_kept_of_a_request() -> None:
    fields = [
        (b"Content-Type", [b"text/csv"]),
        (b"Ce-Id", [b"o-17"]),
        (b"X-Message-Colour", [b"gr\xc3\xbcn"]),
        (b"X-Message-Two", [b"a", b"b"]),
        (b"X-Message-Old", [b"gr\xfcn"]),
        (b"X-Message-", [b"nameless"]),
        (b"Authorization", [b"secret"]),
        (b"X-Linger-Topic", [b"no"]),
    ]
    assert message_headers(fields) == {"ce-id": "o-17", "colour": "gr\u00fcn", "two": "a, b", "old": "gr\u00fcn"}
    assert content_type(fields) == "text/csv"
    assert content_type([(b"Content-Type", [b""])]) == ""
    assert content_type([]) is None


def test_lingers_headers() -> None:
    fields = sent(
        Message(stamp=1_000_000),
        3_999_999,
        id=41,
        priority=-2,
        lease=60_000,
        max_attempts=3,
        attempts=1,
        ttl=5_000,
        source=topic("news"),
    )
    assert fields == {
        "content-type": b"text/plain",
        "x-linger-channel": b"work",
        "x-linger-msg-id": b"41",
        "x-linger-priority": b"-2",
        "x-linger-timeout": b"60",
        "x-linger-deliver": b"3",
        "x-linger-delivered": b"2",
        "x-linger-received": b"2",
        "x-linger-linger": b"5",
        "x-linger-topic": b"news",
    }
    assert sent()["x-linger-topic"] == b""


def test_less_than_a_second_is_not_no_limit() -> None:
    fields = sent(lease=1, ttl=1_999)
    assert (fields["x-linger-timeout"], fields["x-linger-linger"]) == (b"1", b"1")


def test_a_clock_set_back_makes_no_negative_age() -> None:
    assert sent(Message(stamp=5_000_000), 1)["x-linger-received"] == b"0"


@pytest.mark.parametrize(
    ("stored", "answered"),
    [
        (None, b"text/plain"),
        ("", b""),
        ("odd", b"odd"),
        ("text/plain; charset=\u00fc", b"text/plain; charset=\xc3\xbc"),
        ("a\r\nSet-Cookie: b", b"application/octet-stream"),
        (" a", b"application/octet-stream"),
        ("a\x00", b"application/octet-stream"),
    ],
)
def test_the_content_type_is_sent_as_it_came(stored: str | None, answered: bytes) -> None:
    assert sent(Message(content_type=stored))["content-type"] == answered


def test_other_headers_of_a_message() -> None:
    headers = {
        "ce-id": "o-17",
        "Colour": "gr\u00fcn",
        "colour": "second",
        "empty": "",
        "two words": "no",
        "line": "a\nb",
        "padded": " a",
        "": "nameless",
        "col:on": "no",
    }
    fields = sent(Message(headers=headers))
    assert {name: value for name, value in fields.items() if not name.startswith(("x-linger", "content"))} == {
        "ce-id": b"o-17",
        "x-message-colour": b"gr\xc3\xbcn",
        "x-message-empty": b"",
    }


def test_a_message_with_endless_headers_can_still_be_fetched() -> None:
    many = sent(Message(headers={f"h{n}": "v" for n in range(1000)}))
    assert len(many) == 10 + MAX_HEADERS
    large = sent(Message(headers={"large": "v" * MAX_HEADER_BYTES, "small": "v"}))
    assert "x-message-small" in large
    assert "x-message-large" not in large


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("work", b"work"),
        ("a b%/c", b"a b%/c"),
        ("\u20ac", b"%E2%82%AC"),
        ("a%\u20ac b", b"a%25%E2%82%AC%20b"),
        (" a", b"%20a"),
    ],
)
def test_names_in_headers(name: str, header: bytes) -> None:
    assert header_name(name) == header


# -- Host and Origin

BOUND = "192.0.2.7"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),
        ("localhost:8989", None),
        ("LOCALHOST", None),
        ("localhost.", None),
        ("app.localhost:1", None),
        ("127.0.0.1:8989", None),
        ("127.9.9.9", None),
        ("[::1]:8989", None),
        ("192.0.2.7:8989", None),
        ("queue.example", None),
        ("queue.example:443", "https://queue.example"),
        ("localhost", "http://localhost:3000"),
        ("localhost", "http://[::1]:3000"),
    ],
)
def test_who_may_ask(host: str | None, origin: str | None) -> None:
    check(host, origin, BOUND, {"queue.example"})


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        ("evil.example:8989", None),
        ("localhost.evil.example", None),
        ("192.0.2.8", None),
        ("", None),
        ("localhost:8989@evil.example", None),
        ("[::2]", None),
        ("localhost", "http://evil.example"),
        ("localhost", "null"),
        ("localhost", "http://localhost@evil.example"),
        ("localhost", "http://localhost/path"),
        ("localhost", ""),
    ],
)
def test_who_may_not(host: str | None, origin: str | None) -> None:
    with pytest.raises(Problem) as raised:
        check(host, origin, BOUND, {"queue.example"})
    assert raised.value.status == 403


def test_a_socket_for_both_families() -> None:
    check("192.0.2.7", None, "::ffff:192.0.2.7")
    check("[fe80::1]", None, "fe80::1%eth0")


def test_everybody_may_if_the_configuration_says_so() -> None:
    check("evil.example", "http://evil.example", BOUND, {"*"})
