"""What all receivers of a message share is written from what was written before, and is the same."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.stomp.destinations import Names
from broker.stomp.dialect import V1_0, V1_1, V1_2, Dialect
from broker.stomp.flavour import ACTIVEMQ, DEFAULT
from broker.stomp.messages import Tails

NAMES = Names()


class Shown(NamedTuple):
    """A message, as it is shown."""

    message: Message
    message_id: str = "1.1"
    source: Destination = queue("q")


_names = ["a", "100%", "%d", "a:b", "destination", "timestamp", "expires", "reply-to", "content-length", "ä\n"]
_messages = st.builds(
    Message,
    stamp=st.integers(1, 2**50),
    body=st.sampled_from([b"", b"%b", b"abc\0"]),
    headers=st.dictionaries(st.sampled_from(_names), st.sampled_from(["", "1", "%s", "/queue/q", "x\r\n"]), max_size=3),
    content_type=st.sampled_from([None, "text/plain"]),
    priority=st.integers(-9, 9),
    flags=st.integers(0, 1),
    expires=st.integers(0, 2**50),
    group=st.sampled_from(["", "g"]),
)
_shown = st.builds(
    Shown,
    _messages,
    st.sampled_from(["1.1", "22.333", "live.1f.2"]),
    st.sampled_from([queue("q"), queue("%s"), topic("q"), queue("temp-queue/a.b.c")]),
)


@given(
    st.lists(_shown, max_size=4),
    st.lists(st.sampled_from([V1_0, V1_1, V1_2]), max_size=3),
    st.sampled_from([0, 40, 512]),
)
@settings(max_examples=200)
def test_a_tail_is_the_same_when_its_headers_come_again(shown: list[Shown], dialects: list[Dialect], most: int) -> None:
    for flavour in (DEFAULT, ACTIVEMQ):
        tails = Tails(flavour)
        tails.MAX_PATTERNS, tails.MAX_PATTERN = 3, most
        for _ in range(3):
            for dialect in dialects:
                for one in shown:
                    again = Shown(msgspec.structs.replace(one.message), "9.8", one.source)
                    assert tails.of(again, dialect, NAMES) == Tails(flavour).of(again, dialect, NAMES)
                    assert tails.of(one, dialect, NAMES) == Tails(flavour).of(one, dialect, NAMES)


def test_headers_that_are_never_the_same_are_not_kept_for_ever() -> None:
    tails = Tails()
    for number in range(3 * tails.MAX_PATTERNS):
        tails.of(Shown(Message(stamp=1, headers={"correlation-id": str(number)})), V1_2, NAMES)
    assert len(tails._patterns) <= tails.MAX_PATTERNS


def test_long_headers_are_not_kept() -> None:
    tails = Tails()
    for _ in range(3):
        tails.of(Shown(Message(stamp=1, headers={"x": "y" * tails.MAX_PATTERN})), V1_2, NAMES)
    assert not tails._patterns
