"""Replays in a data file: begun, killed, dumped, loaded elsewhere and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.destination import queue
from broker.core.replay import State
from tests.core.support import Bench, Holding
from tests.core.test_replays import NEWS, begin, bench, bodies, cancel, job, put
from tests.storage.support import inline_store
from tests.test_store_commands import said


def over(path: Path) -> Bench:
    """A broker over a file; one before it is left as if it had been killed."""
    return bench(Holding(lambda: inline_store(path)))


@pytest.fixture
def half_way(tmp_path: Path) -> Path:
    """A file with a replay that was stopped in the middle."""
    path = tmp_path / "a.sqlite"
    on = over(path)
    put(on, NEWS, *map(str, range(10)))
    begin(on, rate=1)
    on.turn(1)
    on.turn(1)
    assert 0 < job(on).copied < 10
    return path


def test_a_replay_goes_on_in_a_file_that_was_killed(half_way: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "it is whole" in said(capfd, "check", half_way)[0]
    on = over(half_way)
    for _ in range(12):
        on.turn(1)
    assert (bodies(on), job(on).state) == ([str(number) for number in range(10)], State.DONE)
    assert cancel(on, undo=True).undone == 10


def test_a_replay_goes_on_where_its_dump_is_loaded(half_way: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dumped, loaded = half_way.with_name("dump"), half_way.with_name("b.sqlite")
    dumped.write_text(said(capfd, "dump", half_way)[0])
    said(capfd, "load", dumped, loaded)
    assert "it is whole" in said(capfd, "check", loaded)[0]
    on = over(loaded)
    assert job(on).copied > 0
    for _ in range(12):
        on.turn(1)
    assert (bodies(on), job(on).state) == ([str(number) for number in range(10)], State.DONE)
    assert cancel(on, undo=True).undone == 10


def test_a_replay_does_not_go_on_among_messages_that_were_moved_in_time(
    half_way: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dumped, other = half_way.with_name("dump"), half_way.with_name("b.sqlite")
    dumped.write_text(said(capfd, "dump", half_way)[0])
    on = over(other)
    on.turn(100)
    put(on, queue("there"), "before")
    said(capfd, "load", dumped, other)
    on = over(other)
    assert on.broker.replays.all() == []
    assert bodies(on)[:2] == ["0", "1"]
    assert begin(on).id == 1
