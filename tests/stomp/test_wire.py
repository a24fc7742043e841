"""Bytes to frames and back: tables, splits, limits and cost."""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.stomp import wire
from broker.stomp.dialect import DIALECTS, HANDSHAKE, V1_0, V1_1, V1_2, Dialect, negotiate
from broker.stomp.frames import Frame, encode, message_head, message_tail
from broker.stomp.wire import LOGIN, FrameError, Limits, Parser, Violation
from tests.core.support import no_collection

ROOMY = Limits()
ALL = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: f"v{dialect.version}")


def parse(data: bytes, dialect: Dialect = V1_2, limits: Limits = ROOMY, pieces: Sequence[int] = ()) -> list[Any]:
    """The frames in `data`, then the violation that ended them, if one did. `pieces`: lengths it is cut in."""
    parser = Parser(dialect, limits)
    found: list[Any] = []
    position = 0
    for piece in [*pieces, len(data)]:
        parser.feed(data[position : position + piece])
        position += piece
        try:
            while (frame := parser.next_frame()) is not None:
                found.append(frame)
        except FrameError as error:
            assert not parser.held
            return [*found, error.violation]
    return found


def headers_of(data: bytes, dialect: Dialect) -> dict[str, str]:
    (frame,) = parse(data, dialect)
    assert isinstance(frame, Frame)
    return frame.headers


# -- the grammar


@ALL
@pytest.mark.parametrize(
    ("data", "frames"),
    [
        (b"SEND\n\n\0", [Frame("SEND")]),
        (b"SEND\na:b\n\nbody\0", [Frame("SEND", {"a": "b"}, b"body")]),
        (b"\n\n\0\r\n\nSEND\na:b\n\nbody\0\n\n\r\n", [Frame("SEND", {"a": "b"}, b"body")]),
        (b"SEND\r\na:b\r\n\r\nbody\r\n\0", [Frame("SEND", {"a": "b"}, b"body\r\n")]),
        (b"SEND\r\na:b\n\r\nx\0", [Frame("SEND", {"a": "b"}, b"x")]),
        (b"SEND\na:\n\n\0", [Frame("SEND", {"a": ""})]),
        (b"SEND\na:b:c:\n\n\0", [Frame("SEND", {"a": "b:c:"})]),
        (b"SEND\na:1\na:2\n\n\0", [Frame("SEND", {"a": "1"})]),
        (b"send\nA:1\na:2\n\n\0", [Frame("send", {"A": "1", "a": "2"})]),
        (b"SEND\ncontent-length:5\n\na\0\n\0b\0", [Frame("SEND", {"content-length": "5"}, b"a\0\n\0b")]),
        (b"SEND\ncontent-length: 1 \n\na\0", None),
        (b"SEND\ncontent-length:0\n\n\0", [Frame("SEND", {"content-length": "0"})]),
        (b"ACK\ncontent-length:2\n\nxy\0", [Frame("ACK", {"content-length": "2"}, b"xy")]),
        (b"A\n\n1\0B\n\n2\0\0\nC\n\n3\0", [Frame("A", {}, b"1"), Frame("B", {}, b"2"), Frame("C", {}, b"3")]),
        ("SEND\nä:€𝄞\n\n\0".encode(), [Frame("SEND", {"ä": "€𝄞"})]),
        (b"SEND\na:b\n\n\xff\xfe\0", [Frame("SEND", {"a": "b"}, b"\xff\xfe")]),
        (b"SEND\na:b\n\nno end", []),
        (b"SEND\na:b\n", []),
        (b"\r", []),
    ],
)
def test_frames_are_read_in_every_version(data: bytes, frames: list[Frame] | None, dialect: Dialect) -> None:
    """Lines 2, 3, 4, 11, 12, 13 and 14."""
    found = parse(data, dialect)
    if frames is None:
        assert [frame.body for frame in found] == [b"a"]
    else:
        assert found == frames
    assert parse(data, dialect, pieces=[1] * len(data)) == found


@ALL
@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (b"SEND\nno colon\n\n\0", Violation.MALFORMED_HEADER),
        (b"SEND\n:no name\n\n\0", Violation.MALFORMED_HEADER),
        (b"SEND\n\xff:a\n\n\0", Violation.NOT_UTF8),
        (b"\xc3\n\n\0", Violation.NOT_UTF8),
        (b"SEND\na:\0\n\n\0", Violation.NUL_IN_HEADER),
        (b"SEND\na:b\0", Violation.NUL_IN_HEADER),
        (b"\rSEND\n\n\0", Violation.MALFORMED_LINE_END),
        (b"\n\r\r\nSEND\n\n\0", Violation.MALFORMED_LINE_END),
        (b"SEND\ncontent-length:-1\n\n\0", Violation.BAD_LENGTH),
        (b"SEND\ncontent-length:ten\n\n\0", Violation.BAD_LENGTH),
        (b"SEND\ncontent-length:\n\n\0", Violation.BAD_LENGTH),
        (b"SEND\ncontent-length:1_0\n\n\0", Violation.BAD_LENGTH),
        ("SEND\ncontent-length:\u0663\n\n\0".encode(), Violation.BAD_LENGTH),
        (b"SEND\ncontent-length:" + b"9" * 30 + b"\n\n\0", Violation.BAD_LENGTH),
        (b"SEND\ncontent-length:2\n\nabc\0", Violation.NO_NUL),
        (b"SEND\ncontent-length:16777217\n\n", Violation.BODY_TOO_LONG),
        (b"x" * 65 + b"\n\n\0", Violation.COMMAND_TOO_LONG),
    ],
)
def test_what_is_no_frame_is_named(data: bytes, violation: Violation, dialect: Dialect) -> None:
    """Lines 3, 5, 6 and 12."""
    after = data + b"SEND\n\n\0"
    assert parse(b"OK\n\n\0" + after, dialect) == [Frame("OK"), violation]
    assert parse(b"OK\n\n\0" + after, dialect, pieces=[1] * len(after)) == [Frame("OK"), violation]


def test_an_error_stays_and_names_the_headers_understood() -> None:
    parser = Parser(V1_2, Limits())
    parser.feed(b"SEND\nreceipt:r\ncontent-length:x\n\n")
    for _ in range(2):
        with pytest.raises(FrameError, match="Invalid content-length") as caught:
            parser.next_frame()
        assert caught.value.headers == {"receipt": "r", "content-length": "x"}
        parser.feed(b"SEND\n\n\0" * 1000)
        assert parser.held == 0


def test_a_cr_inside_a_line_is_fatal_in_1_2_and_data_before() -> None:
    """Line 5."""
    for data in (b"SEND\na:b\rc\n\n\0", b"SEND\na\rb:c\n\n\0", b"SE\rND\na:b\n\n\0", b"SEND\na:b\r\r\n\n\0"):
        assert parse(data, V1_2) == [Violation.MALFORMED_LINE_END]
        assert len(parse(data, V1_1)) == len(parse(data, V1_0)) == 1
    assert headers_of(b"SEND\na:b\rc\n\n\0", V1_1) == {"a": "b\rc"}


# -- escapes and blanks


@pytest.mark.parametrize(
    ("raw", "v1_0", "v1_1", "v1_2"),
    [
        (rb"a\nb", r"a\nb", "a\nb", "a\nb"),
        (rb"a\cb", r"a\cb", "a:b", "a:b"),
        (rb"a\\b", r"a\\b", r"a\b", r"a\b"),
        (rb"a\\nb", r"a\\nb", r"a\nb", r"a\nb"),
        (rb"\\\\", r"\\\\", "\\\\", "\\\\"),
        (rb"a\rb", r"a\rb", None, "a\rb"),
        (rb"a\tb", r"a\tb", None, None),
        (rb"a\N", r"a\N", None, None),
        (b"a\\", "a\\", None, None),
        (b" a ", "a", " a ", " a "),
        (b"\t a b\t", "a b", "\t a b\t", "\t a b\t"),
    ],
)
def test_values_are_decoded_by_version(raw: bytes, v1_0: str, v1_1: str | None, v1_2: str | None) -> None:
    """Lines 7, 8 and 9."""
    for dialect, value in ((V1_0, v1_0), (V1_1, v1_1), (V1_2, v1_2), (HANDSHAKE, raw.decode())):
        data = b"SEND\nk:" + raw + b"\n\n\0"
        if value is None:
            assert parse(data, dialect) == [Violation.MALFORMED_ESCAPE]
        else:
            assert headers_of(data, dialect) == {"k": value}


def test_names_are_decoded_too_and_the_first_of_equal_names_counts() -> None:
    """Lines 7 and 10."""
    assert headers_of(b"SEND\na\\cb:1\n\n\0", V1_2) == {"a:b": "1"}
    assert headers_of(b"SEND\na\\nb:1\na\\nb:2\n\n\0", V1_1) == {"a\nb": "1"}
    assert headers_of(b"SEND\n a :1\n\n\0", V1_0) == {" a ": "1"}


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        (V1_0, rb"a  b  c  d\:1  2:3\4  5 "),
        (V1_1, b"a\\cb\\nc\rd\\\\:1\\n2\\c3\\\\4\r5 "),
        (V1_2, rb"a\cb\nc\rd\\:1\n2\c3\\4\r5\r"),
    ],
)
def test_headers_are_encoded_by_version(dialect: Dialect, line: bytes) -> None:
    """Line 8."""
    frame = Frame("MESSAGE", {"a:b\nc\rd\\": "1\n2:3\\4\r5\r"})
    expected = line if dialect is not V1_0 else b"a b c d\\:1 2:3\\4 5 "
    assert encode(frame, dialect) == b"MESSAGE\n" + expected + b"\n\n\0"


@ALL
def test_connected_is_never_encoded(dialect: Dialect) -> None:
    """Line 25."""
    assert (
        encode(Frame("CONNECTED", {"session": "ID:host-1:2\\n"}), dialect) == b"CONNECTED\nsession:ID:host-1:2\\n\n\n\0"
    )


@ALL
def test_no_header_can_end_a_frame_or_add_a_line(dialect: Dialect) -> None:
    nasty = "x\0y\nevil:1\r\nworse:2\n\n\0"
    data = encode(Frame("MESSAGE", {"k": nasty, nasty: "k", "surrogate": "\ud800"}), dialect)
    (frame,) = parse(data, dialect)
    assert len(frame.headers) == 3
    assert not {"evil", "worse"} & set(frame.headers)
    assert frame.headers["surrogate"] == "?"


def test_a_message_is_a_head_for_one_receiver_and_a_tail_for_all() -> None:
    head = message_head({"subscription": "a:b"}, V1_1)
    tail = message_tail({"destination": "/queue/q"}, b"1\0002", V1_1)
    assert head == b"MESSAGE\nsubscription:a\\cb\n"
    assert tail == b"destination:/queue/q\ncontent-length:3\n\n1\0002\0"
    assert message_tail({}, b"", V1_2) == b"content-length:0\n\n\0"
    assert parse(head + tail, V1_1) == [
        Frame("MESSAGE", {"subscription": "a:b", "destination": "/queue/q", "content-length": "3"}, b"1\0002")
    ]


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def _seen(headers: dict[str, str], sender: Dialect, receiver: Dialect) -> dict[str, str] | None:
    """What a receiver sees of headers; None: the sender's version cannot say them."""
    seen: dict[str, str] = {}
    for name, value in headers.items():
        if sender is V1_0 and (set("\n\r:") & set(name) or set("\r\n") & set(value)):
            return None
        if sender is V1_1 and value.endswith("\r"):
            return None
        if sender.trims:
            value = value.strip(" \t")
        if receiver is V1_0:
            name = name.replace("\n", " ").replace("\r", " ").replace(":", " ")
            value = value.replace("\n", " ").replace("\r", " ").strip(" \t")
        elif receiver is V1_1 and value.endswith("\r"):
            value = value[:-1] + " "
        seen.setdefault(name, value)
    return seen


@given(
    headers=st.dictionaries(_text.filter(bool), _text, max_size=8),
    body=st.binary(max_size=50),
    sender=st.sampled_from(DIALECTS),
    receiver=st.sampled_from(DIALECTS),
)
def test_headers_reach_every_version_from_every_version(
    headers: dict[str, str], body: bytes, sender: Dialect, receiver: Dialect
) -> None:
    """Lines 7 and 16."""
    headers = {name: value for name, value in headers.items() if name != "content-length"}
    expected = _seen(headers, sender, receiver)
    if expected is None:
        return
    (sent,) = parse(encode(Frame("SEND", headers, body), sender), sender)
    (got,) = parse(encode(Frame("MESSAGE", sent.headers, sent.body), receiver), receiver)
    if body:
        expected["content-length"] = str(len(body))
    assert got == Frame("MESSAGE", expected, body)


# -- splits


def _some_frames() -> st.SearchStrategy[bytes]:
    line = st.sampled_from(
        [b"a:b", b"a:b:c", rb"a\cb:\n", b"content-length:3", b"content-length:x", b"bad", b"r\rs:t", b"k:\xff"]
    ) | st.sampled_from([b"a:1\r", b"n:" + b"v" * 30, b"n:" + b"v" * 50, b"receipt:1", b"x\0y:z"])
    frame = st.tuples(
        st.sampled_from([b"", b"\n", b"\r\n", b"\0", b"\n\n\r\n", b"\r"]),
        st.sampled_from([b"SEND", b"ACK\r", b"x" * 20, b"x" * 30, b"\xc3"]),
        st.lists(line, max_size=6),
        st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\n"]),
        st.sampled_from([b"", b"abc", b"\n\n", b"y" * 60, b"abc\0def"]),
        st.sampled_from([b"\0", b"\0\n", b""]),
    ).map(lambda parts: parts[0] + b"\n".join([parts[1], *parts[2]]) + parts[3] + parts[4] + parts[5])
    return st.lists(frame | st.binary(max_size=30), max_size=6).map(b"".join)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_the_empty_line_does_not_count_however_the_head_is_split(end: bytes) -> None:
    data = b"SEND\na:" + b"b" * 93 + end + b"\0"
    size = data.index(end) + end.count(b"\r") // 2
    for pieces in ([], [1] * len(data), [size + 1], [size + 2]):
        assert parse(data, V1_2, Limits(head=size), pieces) == [Frame("SEND", {"a": "b" * 93})]
    assert parse(data, V1_2, Limits(head=size - 1), [1] * len(data)) == parse(data, V1_2, Limits(head=size - 1))


@given(
    data=_some_frames(),
    pieces=st.lists(st.integers(0, 40), max_size=60),
    dialect=st.sampled_from([*DIALECTS, HANDSHAKE]),
    frame=st.sampled_from([None, 80]),
)
@settings(max_examples=500)
def test_any_split_gives_the_same(data: bytes, pieces: list[int], dialect: Dialect, frame: int | None) -> None:
    """Lines 1 and 16."""
    limits = Limits(command=25, line=40, headers=4, head=100, body=55, frame=frame)
    whole = parse(data, dialect, limits)
    assert parse(data, dialect, limits, pieces) == whole
    assert parse(data, dialect, limits, [1] * len(data)) == whole


@given(st.binary(max_size=2000))
def test_garbage_gives_frames_or_one_named_error(data: bytes) -> None:
    found = parse(data, V1_2)
    assert all(isinstance(one, Frame) for one in found[:-1])


# -- limits


@pytest.mark.parametrize(
    ("ok", "over", "violation"),
    [
        (b"x" * 64 + b"\n\n\0", b"x" * 65, Violation.COMMAND_TOO_LONG),
        (b"A\nk:" + b"v" * 10238 + b"\n\n\0", b"A\nk:" + b"v" * 10239, Violation.LINE_TOO_LONG),
        (
            b"A\n" + b"".join(b"k%d:v\n" % n for n in range(128)) + b"\n\0",
            b"A\n" + b"".join(b"k%d:v\n" % n for n in range(129)) + b"\n\0",
            Violation.TOO_MANY_HEADERS,
        ),
        (b"A\n" + b"k:v\n" * 5000 + b"\n\0", b"A\n" + b"k:v\n" * 32768 + b"\n\0", Violation.HEAD_TOO_LONG),
        (b"A\n\n" + b"b" * 1000 + b"\0", b"A\n\n" + b"b" * 1001, Violation.BODY_TOO_LONG),
        (
            b"A\ncontent-length:1000\n\n" + b"b" * 1000 + b"\0",
            b"A\ncontent-length:1001\n\n",
            Violation.BODY_TOO_LONG,
        ),
    ],
)
def test_a_frame_at_the_limit_passes_and_one_over_it_does_not(ok: bytes, over: bytes, violation: Violation) -> None:
    """Lines 12, 17 and 18."""
    limits = Limits(body=1000)
    for pieces in ([], [1000] * 200, [1] * 200):
        assert [type(one) for one in parse(ok, V1_2, limits, pieces)] == [Frame]
        assert parse(over, V1_2, limits, pieces) == [violation]


def test_before_login_a_frame_is_64_kib_at_most() -> None:
    """Line 19."""
    head = b"CONNECT\n" + b"".join(b"k%d:%b\n" % (n, b"v" * 8000) for n in range(4)) + b"\n"
    body = b"x" * (64 * 1024 - len(head))
    assert len(parse(head + body + b"\0", HANDSHAKE, LOGIN)) == 1
    assert parse(head + body + b"x\0", HANDSHAKE, LOGIN) == [Violation.BODY_TOO_LONG]
    assert parse(b"CONNECT\nk:" + b"v" * 8190 + b"\n\n\0", HANDSHAKE, LOGIN)[0].command == "CONNECT"
    assert parse(b"CONNECT\nk:" + b"v" * 8191, HANDSHAKE, LOGIN) == [Violation.LINE_TOO_LONG]
    assert parse(b"CONNECT\n" + b"k:v\n" * 20000, HANDSHAKE, LOGIN) == [Violation.HEAD_TOO_LONG]


def test_limits_and_dialect_may_change_between_two_frames() -> None:
    parser = Parser()
    parser.feed(b"CONNECT\nk:a\\cb\n\n\0SEND\nk:a\\cb\n\n" + b"x" * 70000 + b"\0")
    frame = parser.next_frame()
    assert frame == Frame("CONNECT", {"k": "a\\cb"})
    parser.dialect, parser.limits = V1_2, Limits()
    assert parser.next_frame() == Frame("SEND", {"k": "a:b"}, b"x" * 70000)


@pytest.mark.parametrize("start", [b"", b"SEND\n", b"SEND\na:b\n\n", b"SEND\ncontent-length:1000\n\n"])
@pytest.mark.parametrize("filler", [b"x", b"x\n", b"k:v\n", b"\n", b"\0", b"\r\n", b"SEND\n\nx\0"])
def test_no_input_makes_it_hold_more_than_its_limits(start: bytes, filler: bytes) -> None:
    limits = Limits(body=1000)
    parser = Parser(V1_2, limits)
    chunk = filler * (4096 // len(filler))
    parser.feed(start)
    try:
        for _ in range(200):
            parser.feed(chunk)
            while parser.next_frame() is not None:
                pass
            assert parser.held <= limits.head + limits.body + len(chunk)
            assert len(parser._buffer) <= 2 * (limits.head + len(chunk)) + wire.COMPACT
    except FrameError:
        assert parser.held == 0


# -- cost


class CountingBuffer(bytearray):
    """A bytearray that counts the octets it moves or searches, at their worst."""

    octets = 0

    def __iadd__(self, data: Any) -> CountingBuffer:  # type: ignore[misc]
        CountingBuffer.octets += len(data)
        super().__iadd__(data)
        return self

    def __delitem__(self, key: Any) -> None:
        CountingBuffer.octets += len(self) - (key.stop or 0)
        super().__delitem__(key)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            CountingBuffer.octets += len(found)
        return found

    def find(self, what: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else end
        found = super().find(what, start, end)
        CountingBuffer.octets += (end if found < 0 else found) - start
        return found


class CountingPattern:
    """A pattern that counts the octets it looks at."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern

    def search(self, buffer: bytes, start: int) -> Any:
        match = self._pattern.search(buffer, start)
        CountingBuffer.octets += (match.end() if match else len(buffer)) - start
        return match

    def match(self, buffer: bytes, start: int) -> Any:
        match = self._pattern.match(buffer, start)
        CountingBuffer.octets += match.end() - start
        return match


def _cost(data: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Octets copied or searched, and calls made, to take all frames of `data`."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    CountingBuffer.octets = 0
    with monkeypatch.context() as patch:
        patch.setattr(wire, "bytearray", CountingBuffer, raising=False)
        patch.setattr(wire, "_noise", CountingPattern(wire._noise))
        patch.setattr(wire, "_end_of_head", CountingPattern(wire._end_of_head))
        parser = Parser(V1_2, Limits())
        with no_collection():
            sys.setprofile(count)
            try:
                for start in range(0, len(data), piece):
                    parser.feed(data[start : start + piece])
                    while parser.next_frame() is not None:
                        pass
            finally:
                sys.setprofile(None)
    assert not parser.held
    return CountingBuffer.octets, calls


_frame = b"SEND\ndestination:/queue/orders\ncontent-length:3000\nreceipt:1\n\n" + b"x" * 3000 + b"\0\n"
_tiny = b"A\n\n\0"


@pytest.mark.parametrize(
    ("unit", "size", "piece"),
    [
        (_frame, 2_000_000, 2_000_000 * 2),
        (_frame, 2_000_000, 65536),
        (_frame, 40_000, 1),
        (_tiny, 40_000, 40_000 * 2),
        (_tiny, 20_000, 1),
        (b"\n", 2_000_000, 2_000_000 * 2),
        (b"\n", 20_000, 1),
        (b"SEND\n" + b"k:v\n" * 2000 + b"\n" + b"\n\r" * 2000 + b"\0", 50_000, 1),
        (b"SEND\n\n" + b"x" * 1_000_000 + b"\0", 2_000_000, 100),
    ],
)
def test_twice_the_input_costs_twice_as_much(
    unit: bytes, size: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = _cost(unit * (size // len(unit)), piece, monkeypatch)
    twice = _cost(unit * (size // len(unit) * 2), piece, monkeypatch)
    assert once[0] >= size // len(unit) * len(unit)
    assert twice[0] <= 2.3 * once[0]
    assert twice[1] <= 2.3 * once[1]
    assert twice[0] <= 12 * 2 * size, "octets are touched a few times each"


def test_twice_the_octets_one_by_one_cost_at_most_2_3_times_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls first and octets afterwards: counting one would be counted with the other.

    Both sizes hold many frames and several times `COMPACT`; what grew with the buffer would show in them.
    """
    unit = b"SEND\ndestination:/queue/orders\nreceipt:1\n\n" + b"x" * 100 + b"\0"

    def take(size: int) -> None:
        parser = Parser(V1_2, Limits())
        feed, next_frame = parser.feed, parser.next_frame
        for octet in memoryview(unit * (size // len(unit))).cast("c"):
            feed(octet)
            next_frame()

    def calls(size: int) -> int:
        profile = cProfile.Profile()
        profile.enable()
        take(size)
        profile.disable()
        return sum(entry.callcount for entry in profile.getstats())

    def octets(size: int) -> int:
        CountingBuffer.octets = 0
        with monkeypatch.context() as patch:
            patch.setattr(wire, "bytearray", CountingBuffer, raising=False)
            patch.setattr(wire, "_noise", CountingPattern(wire._noise))
            patch.setattr(wire, "_end_of_head", CountingPattern(wire._end_of_head))
            take(size)
        return CountingBuffer.octets

    for cost in (calls, octets):
        assert cost(256 * 1024) <= 2.3 * cost(128 * 1024)


# -- versions


@pytest.mark.parametrize(
    ("header", "dialect"),
    [
        (None, V1_0),
        ("1.0", V1_0),
        ("1.1", V1_1),
        ("1.2", V1_2),
        ("1.0,1.1,1.2", V1_2),
        ("1.2,1.0,1.1", V1_2),
        (" 1.1 ,\t1.0", V1_1),
        ("1.1,1.1", V1_1),
        ("2.0,1.1", V1_1),
        ("9.9", None),
        ("", None),
        ("1.20", None),
        ("one", None),
    ],
)
def test_the_highest_common_version_is_taken(header: str | None, dialect: Dialect | None) -> None:
    """Line 24."""
    assert negotiate(header) is dialect
