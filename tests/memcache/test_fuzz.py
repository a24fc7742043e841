"""Whatever a client sends, and however it comes: an answer in lines, or a close; nothing else is harmed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.memcache.dialect import DIALECTS
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.memcache.fuzz import Fuzz, run
from tests.memcache.support import NOW, Client

_keys = st.sampled_from(b"a b /queue/a a/open a/close a/close/open a/abort a/peek /topic/a".split())
_words = st.sampled_from([b"get", b"gets", b"delete", b"flush"])
_bodies = st.sampled_from([b"", b"x", b"END\r\n", b"get a\r\n", bytes(300)])
_ends = st.sampled_from([b"", b" noreply", b" "])
_sets = st.builds(
    lambda key, body, end: b"set %b 7 0 %d%b\r\n%b\r\n" % (key, len(body), end, body), _keys, _bodies, _ends
)
_lines = st.one_of(
    st.builds(lambda word, key: b"%b %b\r\n" % (word, key), _words, _keys),
    st.sampled_from([b"version\r\n", b"flush_all\r\n", b"verbosity 1\r\n", b"get a b a/peek\r\n", b"bogus\r\n", b"\n"]),
    st.sampled_from([b"add a 0 0 1\r\nx\r\n", b"set a 0 0 1\r\nxyz\r\n"]),
    st.just(b"set a 0 0 9999\r\n" + bytes(9999) + b"\r\n"),
)
_commands = st.lists(st.one_of(_sets, _lines), max_size=20).map(b"".join)
_garbage = (
    st.lists(st.one_of(st.binary(max_size=100), _sets, _lines), max_size=12)
    .map(b"".join)
    .map(
        lambda data: data.removeprefix(b"\x80")  # or it is binary
    )
)


def served(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, int]]]:
    """All that is answered, and what waits afterwards; nothing may be on loan once the client is gone."""
    clock = Clock()
    broker = Broker(MemoryStore(), clock, policy=Policy(max_message_size=1000), wall=lambda: NOW + clock.seconds())
    assert Deferred.fromCoroutine(broker.start()).called
    factory = MemcacheFactory(broker)
    client, probe = Client(factory), Client(factory)
    answer = b""
    for piece in pieces:
        if not client.closed:
            answer += client.send(piece)
            clock.advance(0)
    answer += client.received()
    client.go()
    clock.advance(0)
    assert probe.send(b"set probe 0 0 1\r\nx\r\nget probe\r\n") == b"STORED\r\nVALUE probe 0 1\r\nx\r\nEND\r\n"
    probe.go()
    numbers = [(name, broker.queue_stats(name)) for name in broker.queues()]
    assert all(not one.on_loan and not one.waiters for _, one in numbers)
    return answer, [(name, one.ready) for name, one in numbers]


@settings(deadline=None)
@given(data=_commands, cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_no_split_of_the_bytes_changes_the_answers(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert served([data[a:b] for a, b in itertools.pairwise(edges)]) == served([data])


@settings(deadline=None)
@given(data=_garbage, cut=st.integers(0, 500))
def test_garbage_gets_lines(data: bytes, cut: int) -> None:
    answer, _ = served([data[:cut], data[cut:]])
    assert answer == b"" or answer.endswith(b"\r\n")
    assert b"Traceback" not in answer
    assert b"internal error" not in answer


@pytest.mark.parametrize("name", DIALECTS)
def test_whatever_comes_to_mind_in_three_protocols_harms_nobody(name: str) -> None:
    for seed in range(3):
        fuzz = Fuzz(seed)
        assert run(DIALECTS[name], [fuzz.session() for _ in range(60)]) > 0
