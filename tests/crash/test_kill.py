"""A broker killed again and again under load by all its fronts, and restarted on the same file.

After each restart: what was confirmed and not settled is there; nothing comes back whose settlement was answered; what
nobody had seen comes in order; what somebody had is marked as redelivered, where the protocol has a mark; transactions
happened whole or not at all.

The moments are random; CRASH_SEED=n repeats a run's (not its threads).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.broker_process import POINTS
from tests.crash.clients import Http, Ports, Refused
from tests.crash.ledger import Event, Ledger, Name, Sight
from tests.crash.load import QUEUES, WAYS, Load
from tests.crash.support import BrokerProcess

#: Kills in all, and those by each fail-point; clean stops under load between them.
KILLS, KILLS_AT_POINT, STOPS = 20, 2, 3
#: A queue that is only filled is only counted, and emptied after every so many restarts.
DEEP_EVERY = 5
#: Seconds until a load must have come to its end; it takes less than one.
LIMIT = 20.0
#: Seconds for everything: four times what it takes.
WHOLE = 100.0


#: Ends beside the fail-points: SIGKILL and SIGTERM, sent by the client that saw the last of so many events.
ANY, STOP = "any moment", "clean stop"


class End(NamedTuple):
    """How a broker ends: at the `nth` pass of a fail-point, or at the `nth` event, by a signal."""

    kind: str
    nth: int
    event: Event | None = None

    @property
    def point(self) -> str:
        """The fail-point, or nothing."""
        return self.kind if self.kind in POINTS else ""


def plan(chance: random.Random) -> list[End]:
    """The ends of a run, in random order."""
    events: list[Event] = ["confirmed", "delivered", "answered"]
    # There is one fold among some 60 commits.
    ends = [End(p, chance.randint(1, 3 if p == "in fold" else 120)) for p in POINTS for _ in range(KILLS_AT_POINT)]
    ends += [End(ANY, chance.randint(1, 300), chance.choice(events)) for _ in range(KILLS - len(ends))]
    ends += [End(STOP, chance.randint(1, 300), chance.choice(events)) for _ in range(STOPS)]
    chance.shuffle(ends)
    return ends


def start(data: Path, end: End | None = None, *, hasty: bool = False) -> BrokerProcess:
    """A broker that will come to this end."""
    if end is None or not end.point:
        return BrokerProcess(data, hasty=hasty)
    return BrokerProcess(data, end.point, end.nth, hasty=hasty)


def run_to(end: End, process: BrokerProcess, ledger: Ledger, seed: int) -> None:
    """Load the broker until its end, and see to it that it was this one."""
    if end.event is not None:
        ledger.arm(end.event, end.nth, process.stop if end.kind == STOP else process.kill)
    if end.point:
        process.arm()
    interval = sys.getswitchinterval()
    # Else the client that is to strike may wait 5 ms for its turn: by then the broker has written what it said it had.
    sys.setswitchinterval(0.0001)
    try:
        load = Load(process.ports, ledger, seed)
        status = process.wait(LIMIT)
        load.join(LIMIT)
    finally:
        sys.setswitchinterval(interval)
    # Who asks while it stops may be refused.
    errors = [error for error in load.errors if end.kind != STOP or not isinstance(error, Refused)]
    assert not errors, errors
    assert status == (0 if end.kind == STOP else -signal.SIGKILL), f"{end}: {status}"
    assert (f"killed at {end.point}" in process.said) is bool(end.point), f"{end}: {process.said}"


def check(ports: Ports, ledger: Ledger, turn: int) -> None:
    """Look at every queue, and empty it: each by another protocol in each `turn`."""
    seen: set[Name] = set()
    with Http(ports.http) as client:
        for place, queue in enumerate(QUEUES):
            count = client.waiting(queue)
            must, may = ledger.due(queue)
            if not len(must) <= count <= len(must) + len(may):
                ledger.wrong.append(f"{queue} holds {count}, not {len(must)} and up to {len(may)} more")
            if queue == "deep" and turn % DEEP_EVERY:
                continue
            sight = Sight(alone=True, late=ledger.unread.pop(queue, 0))
            found = WAYS[(turn + place) % len(WAYS)](ports, ledger, queue, count, sight)
            if left := client.waiting(queue):
                ledger.wrong.append(f"{queue} holds {left} when all were settled")
            ledger.emptied(queue, found)
            seen |= found
    ledger.judge_moves(seen)


def turns(
    data: Path, ends: list[End], ledger: Ledger, chance: random.Random, *, hasty: bool = False
) -> Generator[tuple[End, Counter[str]], None, None]:
    """Start a broker, load it to the first end, restart it and check, and so on: each end, and what it changed."""
    process = start(data, ends[0], hasty=hasty)
    try:
        for turn, end in enumerate(ends, 1):
            before = ledger.counts()
            run_to(end, process, ledger, chance.randrange(1_000_000))
            process.close()
            is_last = turn == len(ends)
            process = start(data, None if is_last else ends[turn], hasty=hasty)
            check(process.ports, ledger, 0 if is_last else turn)
            yield end, ledger.counts() - before
        process.stop()
        assert process.wait(LIMIT) == 0
    finally:
        process.close()


def table(rows: dict[str, Counter[str]], seed: int) -> str:
    """What happened, by the end of the broker."""
    columns = ("ends", "confirmed", "acked", "lost", "returned", "duplicated")
    lines = [f"{f'seed {seed}':16}" + "".join(f"{column:>12}" for column in columns)]
    for kind, row in {**rows, "in all": sum(rows.values(), Counter())}.items():
        lines.append(f"{kind:16}" + "".join(f"{row[column]:>12}" for column in columns))
    return "\n".join(lines)


def test_what_was_confirmed_is_there_and_what_was_settled_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    seed = int(os.environ.get("CRASH_SEED", random.randrange(1_000_000)))
    chance, ledger, data = random.Random(seed), Ledger(), tmp_path / "broker.sqlite"
    rows = {kind: Counter[str]() for kind in (*POINTS, ANY, STOP)}
    try:
        with closing(turns(data, plan(chance), ledger, chance)) as run:
            for end, changed in run:
                rows[end.kind].update(changed, ends=1)
                print(end, dict(changed))
                assert time.monotonic() - started < WHOLE, "it is too slow"
    finally:
        with capsys.disabled():
            print("\n" + table(rows, seed))
    assert (ledger.lost, ledger.came_back) == (set(), set())
    assert not ledger.wrong, "\n".join(ledger.wrong)
    assert "Traceback" not in Path(f"{data}.log").read_text()
    assert all(rows[point]["ends"] == KILLS_AT_POINT for point in POINTS)
    assert sum(row["ends"] for kind, row in rows.items() if kind != STOP) == KILLS
    # Else hardly anything was on loan when the broker died, and there was nothing to find.
    assert ledger.counts()["duplicated"] > KILLS


def test_a_store_that_answers_before_it_commits_is_found_out(tmp_path: Path) -> None:
    """The check can fail: with a store that says of each group that it is durable while it is being written."""
    chance, ledger = random.Random(7), Ledger()
    ends = [End(ANY, chance.randint(50, 200), event) for event in ("confirmed", "answered") * 5]
    with closing(turns(tmp_path / "broker.sqlite", ends, ledger, chance, hasty=True)) as run:
        for _ in run:
            if ledger.lost and ledger.came_back:
                return
    pytest.fail(f"{len(ledger.lost)} lost, {len(ledger.came_back)} came back, after {len(ends)} kills")
