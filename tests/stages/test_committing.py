"""When a stage gives up on outputs that a full channel refuses: only when they could never have room."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from broker.stages.committing import Committing
from broker.stages.event import Place, root
from broker.stages.keeper import Keeper
from broker.stages.link import Answer, Link, Refused
from broker.stages.settle import Unit, Who, done
from broker.stages.stage import Stage
from broker.stages.wire import Loan

EMPTY = dict.fromkeys(("ready", "on_loan", "incoming", "published", "settled", "expired", "discarded", "moved"), 0)


class Channel:
    """The link to a broker whose channel ``out`` refuses a commit while `full` says so; `stats` are its numbers."""

    def __init__(self, full: Callable[[int], bool], stats: Callable[[int], dict[str, int]]) -> None:
        self._full = full
        self._stats = stats
        self.tries = 0
        self.committed: list[str] = []

    def request(self, method: str, path: str, said: Any = None) -> Answer:
        if method == "GET":
            assert path == "/channels/out/stats?full=1"
            return Answer(200, "", json.dumps(EMPTY | self._stats(self.tries)).encode())
        ops = [next(iter(op)) for op in said["ops"]]
        publishes = [op["publish"]["channel"] for op in said["ops"] if "publish" in op]
        if "out" in publishes:
            self.tries += 1
            if self._full(self.tries):
                raise Refused(507, {"detail": "channel out is full", "retry_after": 0})
        self.committed += ops
        return Answer(200, "", b"{}")


class Loans:
    """Nobody extends a loan here."""

    @contextlib.contextmanager
    def away(self, loans: list[Loan]) -> Iterator[None]:
        yield

    def drop(self, loans: list[Loan]) -> None:
        raise AssertionError("no lease was lost")


def commit(channel: Channel) -> list[str]:
    """Commit an input with two outputs; the operations that were taken."""
    stage = Stage(name="s", flow="f", sources=("in",), function=print, to="out")
    event = root("in", 1, flow="f").at(Place("f/s", "out", "v"))
    unit: Unit = done(Loan(1, "t", event, 30), [event.child(1), event.child(2)])
    committing = Committing(stage, Who(), cast(Link, channel), cast(Keeper, Loans()), threading.Event())
    committing.commit([unit])
    return channel.committed


@pytest.mark.parametrize("state", ["ready", "on_loan", "incoming"])
def test_while_the_channel_holds_something_the_outputs_wait(state: str) -> None:
    channel = Channel(lambda tries: tries < 12, lambda tries: {state: 1})
    assert (commit(channel), channel.tries) == (["ack", "publish", "publish"], 12)


@pytest.mark.parametrize("count", ["published", "settled", "expired", "discarded", "moved"])
def test_a_channel_that_is_emptied_after_each_refusal_is_not_too_small(count: str) -> None:
    channel = Channel(lambda tries: tries < 12, lambda tries: {count: tries})
    assert (commit(channel), channel.tries) == (["ack", "publish", "publish"], 12)


def test_outputs_that_an_empty_channel_refuses_are_given_up() -> None:
    channel = Channel(lambda tries: True, lambda tries: {"published": 7, "settled": 7})
    assert "publish" in commit(channel), "it is moved to the dead channel"
    assert channel.tries == 3
