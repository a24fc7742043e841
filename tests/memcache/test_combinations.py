"""Every combination of the options of a get, in the dialect that they come from and in the default one."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.errors import BrokerError
from broker.memcache.dialect import DIALECTS
from broker.memcache.keys import Keys
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.memcache.support import NOW, Client

OPTIONS = ["close", "open", "peek", "abort"]
COMBINATIONS = [
    [option for option, said in zip(OPTIONS, chosen, strict=True) if said]
    for chosen in itertools.product((False, True), repeat=4)
]
#: What Kestrel refuses: its table's last rows.
REFUSED = [{"close", "peek"}, {"open", "peek"}, {"close", "abort"}, {"open", "abort"}, {"peek", "abort"}]


class World:
    """A queue with two messages, and a client that has the first one open if that is asked for."""

    def __init__(self, dialect: str, opened: bool, max_open: int = 2) -> None:
        self.clock = Clock()
        policy = Policy(max_open=max_open)
        self.broker = Broker(MemoryStore(), self.clock, policy=policy, wall=lambda: NOW + self.clock.seconds())
        assert Deferred.fromCoroutine(self.broker.start()).called
        self.client = Client(MemcacheFactory(self.broker, dialect=DIALECTS[dialect]))
        self.client.send(b"set q 0 0 3\r\none\r\nset q 0 0 3\r\ntwo\r\n")
        if opened:
            assert b"\r\none\r\n" in self.client.send(b"get q/open\r\n")

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Messages that wait, are on loan, and are settled."""
        stats = self.broker.queue_stats("q")
        return stats.ready, stats.on_loan, self.broker.stats.settled

    def end(self) -> None:
        self.client.go()
        self.clock.advance(0)


def expected(options: set[str], opened: bool) -> tuple[bytes, tuple[int, int, int]]:
    """The body that is given, END or ERROR; and what the queue holds then: Kestrel's table, row by row."""
    ready, on_loan, settled = (1, 1, 0) if opened else (2, 0, 0)
    head = b"two" if opened else b"one"
    if any(refused <= options for refused in REFUSED):
        return b"CLIENT_ERROR", (ready, on_loan, settled)
    if "abort" in options:
        return b"END", (ready + on_loan, 0, settled)
    if "close" in options:
        settled, on_loan = settled + on_loan, 0
        if "open" not in options:
            return b"END", (ready, on_loan, settled)
    if "open" in options:
        return head, (ready - 1, on_loan + 1, settled)
    if "peek" in options:
        return head, (ready, on_loan, settled)
    return (b"ERROR", (ready, on_loan, settled)) if opened else (head, (ready - 1, on_loan, settled + 1))


@pytest.mark.parametrize("dialect", ["default", "kestrel"])
@pytest.mark.parametrize("opened", [False, True], ids=["nothing open", "one open"])
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "/".join(options) or "plain")
def test_a_get_with_these_in_any_order_with_and_without_a_wait(dialect: str, opened: bool, options: list[str]) -> None:
    body, numbers = expected(set(options), opened)
    for wait in [], ["t=0"], ["t=500"]:
        said = [*options, *wait]
        for order in (said, said[::-1], said[1:] + said[:1]):
            world = World(dialect, opened)
            answer = world.client.send("/".join(["get q", *order]).encode() + b"\r\n")
            if body in (b"one", b"two"):
                assert answer.endswith(b" 0 3\r\n%b\r\nEND\r\n" % body), order
            else:
                assert (answer[: len(body)], answer.count(b"\n")) == (body, 1), order
            closes = dialect == "kestrel" and b"ERROR" in body
            assert world.client.closed == closes
            if not closes:
                assert world.numbers == numbers, order
            world.end()


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "/".join(options) or "plain")
def test_on_an_empty_queue_all_that_is_not_refused_answers_end_and_makes_none(options: list[str]) -> None:
    for dialect in "default", "kestrel":
        world = World(dialect, opened=False)
        answer = world.client.send("/".join(["get empty", *options]).encode() + b"\r\n")
        refused = any(combination <= set(options) for combination in REFUSED)
        assert answer.startswith(b"CLIENT_ERROR" if refused else b"END")
        assert world.broker.queues() == ["q"]
        world.end()


_keys = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"/", b"/open", b"/t=", b"5", b"/any", b"a", b"+", b".", b"%2F", b"/queue/", b"/topic/", b"k" * 99]
        ),
    ),
    max_size=8,
).map(b"".join)


@given(raw=_keys, dialect=st.sampled_from(list(DIALECTS.values())))
def test_whatever_a_key_is_it_has_a_meaning_or_a_sentence(raw: bytes, dialect: object) -> None:
    keys = Keys(dialect)  # type: ignore[arg-type]
    for meaning in keys.parse, keys.to_store, keys.to_read, keys.of_queue:
        with contextlib.suppress(BrokerError):
            key = meaning(raw)
            assert 1 <= len(key.destination.name.encode()) <= 250
            assert key.raw == raw
