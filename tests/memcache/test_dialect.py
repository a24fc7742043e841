"""What a key means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.core.destination import Destination, queue, topic
from broker.errors import BadName, BadValue
from broker.memcache.dialect import DEFAULT
from broker.memcache.keys import MAX_WAIT, Key, Keys, lifetime

COMBINATION = "of the options open, close, abort, peek and sync only close and open go together"


def said(destination: Destination, **options: Any) -> Key:
    """A key but for how it was written."""
    return Key(destination, b"", b"", **options)


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"orders", said(queue("orders"))),
        (b"/queue/orders", said(queue("orders"))),
        (b"/topic/prices", said(topic("prices"))),
        (b"/queue/orders/open", said(queue("orders"), open=True)),
        (b"queue/orders", said(queue("queue/orders"))),
        (b"work/open", said(queue("work"), open=True)),
        (b"work/close", said(queue("work"), close=True)),
        (b"work/abort", said(queue("work"), abort=True)),
        (b"work/peek", said(queue("work"), peek=True)),
        (b"work/sync", said(queue("work"), sync=True)),
        (b"work/close/open", said(queue("work"), close=True, open=True)),
        (b"work/open/close", said(queue("work"), close=True, open=True)),
        (b"work/open/open", said(queue("work"), open=True)),
        (b"work/t=500", said(queue("work"), wait=500)),
        (b"work/close/t=10/open", said(queue("work"), close=True, open=True, wait=10)),
        (b"work/peek/t=10", said(queue("work"), peek=True, wait=10)),
        (b"work/abort/t=10", said(queue("work"), abort=True, wait=10)),
        (b"work/t=1/t=2", said(queue("work"), wait=2)),
        (b"work/t=1/t=0", said(queue("work"))),
        (b"work/t=-5", said(queue("work"))),
        (b"work/t=%d" % MAX_WAIT, said(queue("work"), wait=MAX_WAIT)),
        # only the trailing run of known words is options
        (b"a/b/c", said(queue("a/b/c"))),
        (b"a/open/b", said(queue("a/open/b"))),
        (b"a/open/b/open", said(queue("a/open/b"), open=True)),
        (b"a/OPEN", said(queue("a/OPEN"))),
        (b"open", said(queue("open"))),
        (b"open/open", said(queue("open"), open=True)),
        (b"/queue/open", said(queue("open"))),
        (b"t=5", said(queue("t=5"))),
        (b"a/", said(queue("a/"))),
        (b"a//open", said(queue("a/"), open=True)),
        (b"/a", said(queue("/a"))),
        # escapes
        (b"a%2Fopen", said(queue("a/open"))),
        (b"a%2fopen/open", said(queue("a/open"), open=True)),
        (b"a%20b", said(queue("a b"))),
        (b"a%2Bb%2bc", said(queue("a+b+c"))),
        (b"a%252F", said(queue("a%2F"))),
        (b"a%2Dc%", said(queue("a%2Dc%"))),
        (b"/topic/a%20b", said(topic("a b"))),
        # what is only a character of a name here
        (b"a+b.c:d~e", said(queue("a+b.c:d~e"))),
        ("größe/öffne".encode(), said(queue("größe/öffne"))),
        (b"x" * 250, said(queue("x" * 250))),
        (b"/queue/" + b"x" * 250 + b"/close/open", said(queue("x" * 250), close=True, open=True)),
        (b"%20" * 250, said(queue(" " * 250))),
    ],
)
def test_a_key_names_a_destination_and_what_to_do_there(raw: bytes, key: Key) -> None:
    assert msgspec.structs.replace(Keys(DEFAULT).parse(raw), raw=b"", shown=b"") == key


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"x" * 251, "the name is longer than 250 bytes"),
        (b"x" * 251 + b"/open", "the name is longer than 250 bytes"),
        ("ö".encode() * 126, "the name is longer than 250 bytes"),
        (b"/open", "the name is empty"),
        (b"/t=5", "the name is empty"),
        (b"/queue/", "the name is empty"),
        (b"/topic/", "the name is empty"),
        (b"/queue//open", "the name is empty"),
        (b"a\x00b", "the name holds control characters"),
        (b"a\x7f", "the name holds control characters"),
        (b"\xc2\x85", "the name holds control characters"),
        (b"a\xff", "the name is not valid UTF-8"),
        (b"a/t=", "t= takes milliseconds"),
        (b"a/t=x", "t= takes milliseconds"),
        (b"a/t=--1", "t= takes milliseconds"),
        (b"a/t=1_0", "t= takes milliseconds"),
        (b"a/t=" + b"9" * 40, "t= takes milliseconds"),
        (b"a/t=2147483648", "t= is at most 2147483647 milliseconds"),
        (b"a/any/peek", "any goes with open and t= only"),
        (b"a/any/close/open", "any goes with open and t= only"),
        *(
            (
                f"a/{one}/{other}".encode(),
                "of the options open, close, abort, peek and sync only close and open go together",
            )
            for one, other in [
                ("open", "peek"),
                ("close", "peek"),
                ("open", "abort"),
                ("close", "abort"),
                ("peek", "abort"),
                ("sync", "open"),
                ("close", "open/peek"),
            ]
        ),
    ],
)
def test_a_wrong_key_has_a_sentence_that_says_why(raw: bytes, reason: str) -> None:
    with pytest.raises((BadName, BadValue)) as raised:
        Keys(DEFAULT).parse(raw)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("exptime", "expected"),
    [
        (0, (0, 0)),
        (1, (1000, 0)),
        (2_592_000, (2_592_000_000, 0)),
        (2_592_001, (0, 2_592_001_000_000)),
        (1_700_000_000, (0, 1_700_000_000_000_000)),
        (2**32 - 1, (0, (2**32 - 1) * 1_000_000)),
        (-1, (0, 1)),
        (-(2**31), (0, 1)),
    ],
)
def test_exptime_is_relative_up_to_thirty_days(exptime: int, expected: tuple[int, int]) -> None:
    assert lifetime(exptime, DEFAULT) == expected
