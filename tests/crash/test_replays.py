"""A replay beside live traffic, killed in the middle, gone on with, and undone: the benchmark at a small size."""

from __future__ import annotations

from benchmarks import replays
from tests.support import tx


@tx(600)
async def test_what_a_killed_replay_puts_in_comes_once_and_an_undo_leaves_nothing() -> None:
    row = await replays.measure(12_000)
    assert replays.missed(row) == []
    assert 0 < int(str(row["killed after"])) < 8_000 == row["put in"]
