"""Bytes to commands, in tables; that no split of the bytes changes them; what parsing costs and holds."""

from __future__ import annotations

import cProfile
import itertools
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.level import Level
from broker.memcache.commands import (
    Cas,
    Command,
    Confirm,
    Delete,
    Done,
    DumpConfig,
    DumpStats,
    Flush,
    FlushAll,
    FlushExpired,
    Get,
    Malformed,
    Monitor,
    Quit,
    Reload,
    Set,
    Shutdown,
    Stats,
    Status,
    Touch,
    Version,
)
from broker.memcache.dialect import DEFAULT, DIALECTS, Dialect
from broker.memcache.meta import MetaVoice
from broker.memcache.voice import Outcome
from broker.memcache.wire import LINE_TOO_LONG, MAX_GET_LINE, MAX_LINE, Parser
from broker.memcache.words import BAD_CHUNK, BAD_DELAY, BAD_DELETE, BAD_DELTA, MAX_KEY, texts_of
from tests.core.support import no_collection

LIMIT = 1000
LOUD, QUIET, CAS = texts_of(DEFAULT).loud, texts_of(DEFAULT).quiet, texts_of(DEFAULT).with_cas
FORMAT, UNKNOWN, SILENT = Malformed(LOUD, DEFAULT.bad_format), Malformed(LOUD, b"ERROR\r\n"), Malformed(QUIET, b"")
TOO_LONG = Malformed(LOUD, LINE_TOO_LONG, close=True)
TOO_LARGE = Malformed(LOUD, DEFAULT.too_large)
NOT_STORED, NOT_FOUND = Malformed(LOUD, b"NOT_STORED\r\n"), Done(LOUD, Outcome.NOT_FOUND)


def parse(pieces: Iterable[bytes], limit: int = LIMIT, dialect: Dialect = DEFAULT) -> list[Command]:
    parser = Parser(limit, dialect)
    commands = []
    for piece in pieces:
        parser.feed(piece)
        while (command := parser.next_command()) is not None:
            commands.append(command)
    return commands


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


LINES: list[tuple[bytes, list[Command]]] = [
    # reading
    (b"get a\r\n", [Get(LOUD, [b"a"])]),
    (b"get a\n", [Get(LOUD, [b"a"])]),
    (b"GET a\r\n", [Get(LOUD, [b"a"])]),
    (b"Get a \r\n", [Get(LOUD, [b"a"])]),
    (b"  get   a   b  \r\n", [Get(LOUD, [b"a", b"b"])]),
    (b"gets a\r\n", [Get(CAS, [b"a"])]),
    (b"GETS a b\r\n", [Get(CAS, [b"a", b"b"])]),
    (b"get A/t=500/open\r\n", [Get(LOUD, [b"A/t=500/open"])]),
    (b"get\r\n", [UNKNOWN]),
    (b"get " + b"k" * MAX_KEY + b"\r\n", [Get(LOUD, [b"k" * MAX_KEY])]),
    (b"get " + b"k" * (MAX_KEY + 1) + b"\r\n", [FORMAT]),
    (b"get a " + b"k" * (MAX_KEY + 1) + b"\r\n", [FORMAT]),
    # storing
    (b"set a 0 0 1\r\nx\r\n", [Set(LOUD, b"a", 0, 0, b"x")]),
    (b"set a 0 0 1\nx\r\n", [Set(LOUD, b"a", 0, 0, b"x")]),
    (b"SET a 0 0 1\r\nx\r\n", [Set(LOUD, b"a", 0, 0, b"x")]),
    (b"set a 16 0 1 \r\nx\r\n", [Set(LOUD, b"a", 16, 0, b"x")]),
    (b" set  a  1  2  3  \r\nabc\r\n", [Set(LOUD, b"a", 1, 2, b"abc")]),
    (b"set a 0 0 0\r\n\r\n", [Set(LOUD, b"a", 0, 0, b"")]),
    (b"set a 0 0 1 noreply\r\nx\r\n", [Set(QUIET, b"a", 0, 0, b"x")]),
    (b"set a 0 0 1 noreply \r\nx\r\n", [Set(QUIET, b"a", 0, 0, b"x")]),
    (b"set a 0 0 1 7\r\nx\r\n", [Set(LOUD, b"a", 0, 0, b"x")]),  # a sixth word is passed over (Kestrel, Siberite)
    (b"set a 4294967295 0 1\r\nx\r\n", [Set(LOUD, b"a", 2**32 - 1, 0, b"x")]),
    (b"set a 0 -1 1\r\nx\r\n", [Set(LOUD, b"a", 0, -1, b"x")]),
    (b"set a 0 4294967295 1\r\nx\r\n", [Set(LOUD, b"a", 0, 2**32 - 1, b"x")]),
    (b"set a 0 0 10\r\nget b\r\nEND\r\n", [Set(LOUD, b"a", 0, 0, b"get b\r\nEND")]),
    (b"set a 0 0 4\r\n\r\n\r\n\r\n", [Set(LOUD, b"a", 0, 0, b"\r\n\r\n")]),
    (b"set a 0 0 256\r\n" + bytes(range(256)) + b"\r\n", [Set(LOUD, b"a", 0, 0, bytes(range(256)))]),
    (b"set a 0 0 1000\r\n" + b"x" * 1000 + b"\r\n", [Set(LOUD, b"a", 0, 0, b"x" * 1000)]),
    (b"set a 0 0 1001\r\n" + b"x" * 1001 + b"\r\nquit\r\n", [TOO_LARGE, Quit(LOUD)]),
    (b"set a 0 0 1001 noreply\r\n" + b"x" * 1001 + b"\r\nquit\r\n", [SILENT, Quit(LOUD)]),
    # the line is wrong, the length known: the body is no command
    (b"set a x 0 6\r\nquit\r\n\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 x 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a -1 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 4294967296 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 99999999999999999999999 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 4294967296 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 -2147483649 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 1_0 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a +1 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 0 4 x y\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a x 0 4 noreply\r\nquit\r\nversion\r\n", [SILENT, Version(LOUD)]),
    (b"set " + b"k" * (MAX_KEY + 1) + b" 0 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    # the length is not known
    (b"set a 0 0 -1\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 0 x\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 0 2147483648\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 0 99999999999999999999\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"set a 0 0\r\nversion\r\n", [UNKNOWN, Version(LOUD)]),
    (b"set\r\n", [UNKNOWN]),
    # the body is not followed by CRLF
    (b"set a 0 0 3\r\nabcd\r\nversion\r\n", [Malformed(LOUD, BAD_CHUNK), Version(LOUD)]),
    (b"set a 0 0 3\r\nabcdefgh\r\nversion\r\n", [Malformed(LOUD, BAD_CHUNK), Version(LOUD)]),
    (b"set a 0 0 3\r\nabc\nversion\r\n", [Malformed(LOUD, BAD_CHUNK), Version(LOUD)]),
    (b"set a 0 0 3\r\nabc\rversion\r\nquit\r\n", [Malformed(LOUD, BAD_CHUNK), Quit(LOUD)]),
    (b"set a 0 0 3\r\nab\r\nversion\r\n", [Malformed(LOUD, BAD_CHUNK), Version(LOUD)]),
    (b"set a 0 0 3 noreply\r\nabcd\r\nversion\r\n", [SILENT, Version(LOUD)]),
    # refused, payload swallowed
    (b"add a 0 0 4\r\nquit\r\nversion\r\n", [NOT_STORED, Version(LOUD)]),
    (b"REPLACE a 0 0 4\r\nquit\r\nversion\r\n", [NOT_STORED, Version(LOUD)]),
    (b"append a 0 0 4 noreply\r\nquit\r\nversion\r\n", [SILENT, Version(LOUD)]),
    (b"prepend a 0 0 4\r\nquit\r\nversion\r\n", [NOT_STORED, Version(LOUD)]),
    (b"prepend a 0 0 4\r\nquitx\r\nversion\r\n", [NOT_STORED, Version(LOUD)]),
    (b"cas a 0 0 4 17\r\nquit\r\nversion\r\n", [Cas(LOUD, b"a", 0, 0, b"quit", 17), Version(LOUD)]),
    (b"cas a 0 0 4 17 noreply\r\nquit\r\nversion\r\n", [Cas(QUIET, b"a", 0, 0, b"quit", 17), Version(LOUD)]),
    (b"cas a 0 0 4 x\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (b"cas a 0 0 4\r\nversion\r\n", [UNKNOWN, Version(LOUD)]),
    (b"add a 0 0 1001\r\n" + b"x" * 1001 + b"\r\nquit\r\n", [NOT_STORED, Quit(LOUD)]),
    (b"add a x 0 4\r\nquit\r\nversion\r\n", [FORMAT, Version(LOUD)]),
    (
        b"ms a 4 c F1 T0 MS\r\nquit\r\nversion\r\n",
        [Set(MetaVoice(b"a", (b"c", b"F1", b"T0", b"MS")), b"a", 1, 0, b"quit"), Version(LOUD)],
    ),
    # refused, without payload
    (b"incr a 1\r\n", [NOT_FOUND]),
    (b"DECR a 1 noreply\r\n", [Done(QUIET, Outcome.NOT_FOUND)]),
    (b"incr a x\r\n", [Malformed(LOUD, BAD_DELTA)]),
    (b"incr a\r\n", [UNKNOWN]),
    # reading, otherwise
    (b"touch a 1\r\n", [Touch(LOUD, b"a", 1)]),
    (b"touch a 1 noreply\r\n", [Touch(QUIET, b"a", 1)]),
    (b"touch a x\r\n", [Malformed(LOUD, BAD_DELAY)]),
    (b"touch a\r\n", [UNKNOWN]),
    (b"gat 10 a b\r\n", [Get(LOUD, [b"a", b"b"])]),
    (b"GATS 0 a\r\n", [Get(CAS, [b"a"])]),
    (b"gat x a\r\n", [Malformed(LOUD, BAD_DELAY)]),
    (b"gat 0\r\n", [UNKNOWN]),
    (b"monitor a 1\r\n", [Monitor(LOUD, b"a", 1, 0)]),
    (b"MONITOR a 1 5\r\n", [Monitor(LOUD, b"a", 1, 5)]),
    (b"monitor a x\r\n", [FORMAT]),
    (b"monitor a 1 0\r\n", [FORMAT]),
    (b"monitor a\r\n", [UNKNOWN]),
    (b"confirm a 2\r\n", [Confirm(LOUD, b"a", 2)]),
    (b"confirm a -2\r\n", [Confirm(LOUD, b"a", -2)]),
    (b"confirm a x\r\n", [FORMAT]),
    (b"confirm a\r\n", [UNKNOWN]),
    # the server
    (b"flush_expired a\r\n", [FlushExpired(LOUD, b"a")]),
    (b"flush_all_expired\r\n", [FlushExpired(LOUD, None)]),
    (b"dump_stats\r\ndump_stats a b\r\n", [DumpStats(LOUD, []), DumpStats(LOUD, [b"a", b"b"])]),
    (b"dump_config a\r\n", [DumpConfig(LOUD, [b"a"])]),
    (b"status\r\nstatus ReadOnly\r\n", [Status(LOUD), Status(LOUD, Level.READONLY)]),
    (b"shutdown\r\n", [Shutdown(LOUD)]),
    (b"cache_memlimit 64\r\n", [Done(LOUD, Outcome.OK)]),
    # the rest
    (b"reload\r\nRELOAD now\r\n", [Reload(LOUD), Reload(LOUD)]),
    (b"delete a\r\n", [Delete(LOUD, b"a")]),
    (b"delete a 0\r\n", [Delete(LOUD, b"a")]),
    (b"delete a noreply\r\n", [Delete(QUIET, b"a")]),
    (b"delete a 0 noreply\r\n", [Delete(QUIET, b"a")]),
    (b"delete a 5\r\n", [Malformed(LOUD, BAD_DELETE)]),
    (b"delete a b\r\n", [Malformed(LOUD, BAD_DELETE)]),
    (b"delete a 5 noreply\r\n", [SILENT]),
    (b"delete " + b"k" * (MAX_KEY + 1) + b"\r\n", [FORMAT]),
    (b"delete\r\n", [UNKNOWN]),
    (b"flush a\r\n", [Flush(LOUD, b"a")]),
    (b"FLUSH a\r\n", [Flush(LOUD, b"a")]),
    (b"flush " + b"k" * (MAX_KEY + 1) + b"\r\n", [FORMAT]),
    (b"flush\r\n", [UNKNOWN]),
    (b"flush_all\r\n", [FlushAll(LOUD)]),
    (b"flush_all \r\n", [FlushAll(LOUD)]),
    (b"flush_all 0\r\n", [FlushAll(LOUD)]),
    (b"flush_all noreply\r\n", [FlushAll(QUIET)]),
    (b"flush_all 0 noreply\r\n", [FlushAll(QUIET)]),
    (b"flush_all x\r\n", [Malformed(LOUD, BAD_DELAY)]),
    (b"flush_all 10\r\n", [Malformed(LOUD, BAD_DELAY)]),
    (b"flush_all 10 noreply\r\n", [SILENT]),
    (b"stats\r\n", [Stats(LOUD)]),
    (b"stats \r\n", [Stats(LOUD)]),
    (b"STATS Items\r\n", [Stats(LOUD, b"items")]),
    (b"version\r\n", [Version(LOUD)]),
    (b"version x\r\n", [Version(LOUD)]),
    (b"verbosity 1\r\n", [Done(LOUD, Outcome.OK)]),
    (b"verbosity 1 noreply\r\n", [Done(QUIET, Outcome.OK)]),
    (b"verbosity x\r\n", [FORMAT]),
    (b"verbosity\r\n", [UNKNOWN]),
    (b"quit\r\n", [Quit(LOUD)]),
    # none of them
    (b"\r\n", [UNKNOWN]),
    (b"\n", [UNKNOWN]),
    (b"   \r\n", [UNKNOWN]),
    (b"hello\r\nversion\r\n", [UNKNOWN, Version(LOUD)]),
    (b"die in a fire\r\n", [UNKNOWN]),
    (b"\xff\xfe\x00\r\nversion\r\n", [UNKNOWN, Version(LOUD)]),
    (b"get a", []),
    (b"set a 0 0 5\r\nabc", []),
    # too long for a line
    (b"x" * (MAX_LINE - 1) + b"\r\nquit\r\n", [UNKNOWN, Quit(LOUD)]),
    (b"x" * MAX_LINE + b"\r\nquit\r\n", [TOO_LONG]),
    (b"x" * (MAX_LINE + 1), [TOO_LONG]),
    (b" " * (MAX_LINE + 1) + b"get a\r\n", [TOO_LONG]),
    (b"getx " + b"a " * MAX_LINE + b"\r\n", [TOO_LONG]),
    (b"get " + b"a " * MAX_LINE + b"\r\nquit\r\n", [Get(LOUD, [b"a"] * MAX_LINE), Quit(LOUD)]),
    (b"get " + b"a " * MAX_LINE + b"\r\n" + b"x" * (MAX_LINE + 1), [Get(LOUD, [b"a"] * MAX_LINE), TOO_LONG]),
    (b"GETS " + b"a" * (MAX_GET_LINE - 5), []),
    (b"GETS " + b"a" * (MAX_GET_LINE - 4), [TOO_LONG]),
    # a binary client's first byte, too late
    (b"version\r\n\x80\x20\r\n", [Version(LOUD), UNKNOWN]),
]


@pytest.mark.parametrize(("data", "commands"), LINES, ids=[repr(data[:40]) for data, _ in LINES])
def test_the_bytes_give_these_commands_whole_and_byte_by_byte(data: bytes, commands: list[Command]) -> None:
    assert parse([data]) == commands
    assert parse(single(data)) == commands


def test_commands_may_wait_unparsed() -> None:
    parser = Parser(LIMIT)
    for byte in single(b"set a 0 0 5\r\nab"):
        parser.feed(byte)
    parser.feed(b"cde\r\nget a\r\n")
    assert parser.pending == 27
    assert parser.next_command() == Set(LOUD, b"a", 0, 0, b"abcde")
    assert parser.pending == 7
    assert parser.next_command() == Get(LOUD, [b"a"])
    assert parser.next_command() is None
    assert parser.pending == 0


def test_after_a_fatal_error_nothing_is_kept() -> None:
    parser = Parser(LIMIT)
    parser.feed(b"x" * (MAX_LINE + 1))
    assert parser.next_command() == TOO_LONG
    parser.feed(b"version\r\n" * 1000)
    assert parser.pending == 0
    assert parser.next_command() is None


_stream = st.lists(st.sampled_from([data for data, _ in LINES if len(data) < 200]), min_size=1, max_size=12).map(
    b"".join
)


@given(
    stream=_stream, cuts=st.lists(st.integers(0, 1200), max_size=12), dialect=st.sampled_from(list(DIALECTS.values()))
)
def test_no_split_of_the_bytes_changes_the_commands(stream: bytes, cuts: list[int], dialect: Dialect) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    whole = parse([stream], dialect=dialect)
    assert parse(pieces, dialect=dialect) == whole
    assert parse(single(stream), dialect=dialect) == whole


_garbage = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from(
            [
                b"set ",
                b"get ",
                b"a",
                b" 0",
                b" 5",
                b"\r\n",
                b"\n",
                b" noreply",
                b"cas ",
                b"ms ",
                b" 99999",
                b"-1",
                b"\x80",
            ]
        ),
    ),
    max_size=40,
)


@given(pieces=_garbage)
def test_garbage_never_raises_and_never_piles_up(pieces: list[bytes]) -> None:
    parser = Parser(LIMIT)
    commands = []
    for piece in pieces:
        parser.feed(piece)
        while (command := parser.next_command()) is not None:
            commands.append(command)
        assert parser.pending == 0
    assert commands == parse([b"".join(pieces)])
    for command in commands:
        if isinstance(command, Malformed):
            assert command.reply == b"" or (command.reply.endswith(b"\r\n") and command.reply.count(b"\n") == 1)


# -- cost


class Counted(bytes):
    """Bytes that count what is cut out of them."""

    copied = 0

    def __getitem__(self, index: Any) -> Any:
        result = super().__getitem__(index)
        if isinstance(result, bytes):
            Counted.copied += len(result)
        return result


def cost(pieces: list[bytes]) -> tuple[int, int]:
    """Calls made, and bytes copied, to parse it."""
    parser = Parser(16 * 1024 * 1024)
    profile = cProfile.Profile()
    Counted.copied = 0
    with no_collection():
        profile.enable()
        for piece in pieces:
            parser.feed(Counted(piece))
            while parser.next_command() is not None:
                pass
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats()), Counted.copied


STREAMS = {
    "small sets": lambda size: b"set queue 0 0 100\r\n%b\r\n" % (b"x" * 100) * (size // 121),
    "gets": lambda size: b"get queue/t=500\r\n" * (size // 17),
    "empty lines": lambda size: b"\n" * (size // 16),
    "one body": lambda size: b"set queue 0 0 %d\r\n%b\r\n" % (size, b"x" * size),
    "long lists": lambda size: (b"get " + b"a " * 5_000 + b"\r\n") * (size // 10_006),
    "swallowed": lambda size: b"add queue 0 0 %d\r\n%b\r\n" % (size, b"x" * size),
    "bad chunk": lambda size: b"set queue 0 0 3\r\nabc%b\r\n" % (b"x" * size),
}


@pytest.mark.parametrize("name", STREAMS)
def test_cost_grows_with_the_size_and_no_faster_whole(name: str) -> None:
    calls_2, copied_2 = cost([STREAMS[name](2 * 1024 * 1024)])
    calls_4, copied_4 = cost([STREAMS[name](4 * 1024 * 1024)])
    assert calls_4 <= 2.3 * calls_2
    assert copied_4 <= 2.3 * copied_2


@pytest.mark.parametrize("name", STREAMS)
def test_cost_grows_with_the_size_and_no_faster_byte_by_byte(name: str) -> None:
    # A twentieth of the size: the profiler makes half a dozen calls per byte slow.
    calls_2, copied_2 = cost(single(STREAMS[name](100 * 1024)))
    calls_4, copied_4 = cost(single(STREAMS[name](200 * 1024)))
    assert calls_4 <= 2.3 * calls_2
    assert copied_4 <= 2.3 * copied_2


def test_four_megabytes_byte_by_byte_cost_at_most_2_3_times_two() -> None:
    def costs(size: int) -> tuple[int, int]:
        parser = Parser(16 * 1024 * 1024)
        feed, next_command = parser.feed, parser.next_command
        profile = cProfile.Profile()
        Counted.copied = 0
        profile.enable()
        for byte in memoryview(STREAMS["small sets"](size)).cast("c"):
            feed(Counted(byte))
            next_command()
        profile.disable()
        return sum(entry.callcount for entry in profile.getstats()), Counted.copied

    calls_2, copied_2 = costs(2 * 1024 * 1024)
    calls_4, copied_4 = costs(4 * 1024 * 1024)
    assert calls_4 <= 2.3 * calls_2
    assert copied_4 <= 2.3 * copied_2


@pytest.mark.parametrize("step", [1000, 64 * 1024])
@pytest.mark.parametrize("kept", [True, False])
def test_no_more_is_held_than_the_body_and_a_mebibyte(step: int, kept: bool) -> None:
    size = 8 * 1024 * 1024
    parser = Parser(size)
    tracemalloc.start()
    try:
        parser.feed(b"set a 0 0 %d\r\n" % (size if kept else size + 1))
        assert (parser.next_command() is None) == kept
        for at in range(0, size, step):
            parser.feed(bytes(min(step, size - at)))
            assert parser.next_command() is None
            fed = min(at + step, size)
            assert tracemalloc.get_traced_memory()[0] <= (fed if kept else 0) + 1024 * 1024
        parser.feed(b"\r\n" if kept else b"\0\r\n")
        assert parser.next_command() == (Set(LOUD, b"a", 0, 0, bytes(size)) if kept else None)
        assert tracemalloc.get_traced_memory()[0] <= 1024 * 1024
    finally:
        tracemalloc.stop()


@settings(max_examples=20)
@given(line=st.sampled_from([b"get ", b"x", b"set a 0 0 3\r\nabcd", b"\x00"]))
def test_a_line_without_end_is_not_held(line: bytes) -> None:
    parser = Parser(LIMIT)
    parser.feed(line)
    tracemalloc.start()
    try:
        for _ in range(200):
            while parser.next_command() is not None:
                pass
            parser.feed(b"y" * 10_000)
        assert tracemalloc.get_traced_memory()[0] <= 256 * 1024
    finally:
        tracemalloc.stop()
