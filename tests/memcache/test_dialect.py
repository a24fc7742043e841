"""What a key means."""

from __future__ import annotations

import pytest

from broker.core.destination import queue, topic
from broker.errors import BadName, BadValue
from broker.memcache.dialect import DEFAULT, MAX_WAIT, Key, lifetime, parse_key

COMBINATION = "of the options open, close, abort, peek and sync only close and open go together"


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"orders", Key(queue("orders"))),
        (b"/queue/orders", Key(queue("orders"))),
        (b"/topic/prices", Key(topic("prices"))),
        (b"/queue/orders/open", Key(queue("orders"), open=True)),
        (b"queue/orders", Key(queue("queue/orders"))),
        (b"work/open", Key(queue("work"), open=True)),
        (b"work/close", Key(queue("work"), close=True)),
        (b"work/abort", Key(queue("work"), abort=True)),
        (b"work/peek", Key(queue("work"), peek=True)),
        (b"work/sync", Key(queue("work"), sync=True)),
        (b"work/close/open", Key(queue("work"), close=True, open=True)),
        (b"work/open/close", Key(queue("work"), close=True, open=True)),
        (b"work/open/open", Key(queue("work"), open=True)),
        (b"work/t=500", Key(queue("work"), wait=500)),
        (b"work/close/t=10/open", Key(queue("work"), close=True, open=True, wait=10)),
        (b"work/peek/t=10", Key(queue("work"), peek=True, wait=10)),
        (b"work/abort/t=10", Key(queue("work"), abort=True, wait=10)),
        (b"work/t=1/t=2", Key(queue("work"), wait=2)),
        (b"work/t=1/t=0", Key(queue("work"))),
        (b"work/t=-5", Key(queue("work"))),
        (b"work/t=%d" % MAX_WAIT, Key(queue("work"), wait=MAX_WAIT)),
        # only the trailing run of known words is options
        (b"a/b/c", Key(queue("a/b/c"))),
        (b"a/open/b", Key(queue("a/open/b"))),
        (b"a/open/b/open", Key(queue("a/open/b"), open=True)),
        (b"a/OPEN", Key(queue("a/OPEN"))),
        (b"open", Key(queue("open"))),
        (b"open/open", Key(queue("open"), open=True)),
        (b"/queue/open", Key(queue("open"))),
        (b"t=5", Key(queue("t=5"))),
        (b"a/", Key(queue("a/"))),
        (b"a//open", Key(queue("a/"), open=True)),
        (b"/a", Key(queue("/a"))),
        # escapes
        (b"a%2Fopen", Key(queue("a/open"))),
        (b"a%2fopen/open", Key(queue("a/open"), open=True)),
        (b"a%20b", Key(queue("a b"))),
        (b"a%2Bb%2bc", Key(queue("a+b+c"))),
        (b"a%252F", Key(queue("a%2F"))),
        (b"a%2Dc%", Key(queue("a%2Dc%"))),
        (b"/topic/a%20b", Key(topic("a b"))),
        # what is only a character of a name here
        (b"a+b.c:d~e", Key(queue("a+b.c:d~e"))),
        ("größe/öffne".encode(), Key(queue("größe/öffne"))),
        (b"x" * 250, Key(queue("x" * 250))),
        (b"/queue/" + b"x" * 250 + b"/close/open", Key(queue("x" * 250), close=True, open=True)),
        (b"%20" * 250, Key(queue(" " * 250))),
    ],
)
def test_a_key_names_a_destination_and_what_to_do_there(raw: bytes, key: Key) -> None:
    assert parse_key(raw) == key


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"x" * 251, "bad command line format"),
        (b"x" * 251 + b"/open", "bad command line format"),
        ("ö".encode() * 126, "bad command line format"),
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
        (b"a/any", "the option any is not supported"),
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
        parse_key(raw)
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
    assert lifetime(exptime, DEFAULT.relative_limit) == expected
