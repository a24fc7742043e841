"""A broker killed twenty times under load by all its fronts, with queues under every policy: see `run`.

The moments are random; CRASH_SEED=n repeats a run's (not its threads). ``script/soak`` is the same for hours.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from pathlib import Path

import pytest

from broker.reactor import install
from tests.crash.broker_process import POINTS, TORN
from tests.crash.ledger import Event
from tests.crash.places import OF_QUEUE
from tests.crash.run import ANY, BLOCK, KILLS_AT_POINT, STOP, End, Run, plan, table

#: Seconds for everything, on a machine that is very slow: each wait in it has a limit of its own.
WHOLE = 2000.0


def test_what_was_confirmed_is_there_and_what_was_settled_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    run = Run(tmp_path / "broker.sqlite", int(os.environ.get("CRASH_SEED", random.randrange(1_000_000))))
    try:
        with closing(run.turns(plan(run.chance, BLOCK))) as turns:
            for end in turns:
                print(end, len(run.flaws))
                assert time.monotonic() - started < WHOLE, "it is too slow"
    finally:
        with capsys.disabled():
            print("\n" + table(run))
    assert not run.flaws, "\n".join(run.flaws)
    assert run.reactor == ("stock" if install() else "lean"), "not the one that these tests run on"
    assert run.kills == BLOCK
    assert all(run.rows[point]["ends"] == KILLS_AT_POINT for point in POINTS)
    # Else hardly anything was on loan when the broker died, and there was nothing to find.
    tally = run.ledger.tally
    assert tally["duplicates"] > BLOCK
    assert min(tally["transactions"], tally["refused"]) > 0
    assert set(OF_QUEUE) == set(run.ledger.given), "a queue gave nothing"


@pytest.mark.parametrize(
    ("store", "kind", "flaws"),
    [
        ("hasty", ANY, {"lost", "came back"}),
        ("forgetful", ANY, {"came back"}),
        ("torn", TORN, {"a transaction happened in part"}),
    ],
)
def test_a_store_that_lies_is_found_out(tmp_path: Path, store: str, kind: str, flaws: set[str]) -> None:
    """The check can fail: with stores that answer too early, forget settlements, commit a transaction in two parts."""
    run = Run(tmp_path / "broker.sqlite", 7, store=store)
    events: list[Event | None] = ["confirmed", "answered"] if kind == ANY else [None]
    most = 200 if kind == ANY else 15
    ends = (End(kind, run.chance.randint(most // 4, most), events[turn % len(events)]) for turn in range(10))
    with closing(run.turns(ends)) as turns:
        for _ in turns:
            if flaws <= {flaw.partition(":")[0] for flaw in run.flaws}:
                return
    pytest.fail(f"not found in {run.kills} kills; only {run.flaws}")


def test_clean_stops_are_no_kills() -> None:
    ends = list(plan(random.Random(1), 2 * BLOCK))
    assert sum(end.kind != STOP for end in ends) == 2 * BLOCK
    assert sum(end.kind == STOP for end in ends) > 0
