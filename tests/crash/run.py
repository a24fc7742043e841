"""Runs: a broker killed again and again under load by all its fronts, restarted on the same file, and looked at.

After each restart: what was confirmed and not settled is there, unless its queue's policy dropped it; nothing comes
back whose settlement was answered; what nobody had seen comes in order; what somebody had is marked as redelivered,
where the protocol has a mark; transactions happened whole or not at all.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tests.crash import emptying
from tests.crash.broker_process import POINTS, TORN
from tests.crash.clients import Http, Memcache, Ports, Refused
from tests.crash.ledger import Event, Ledger, Sight
from tests.crash.load import Load
from tests.crash.places import BINDINGS, CHILDREN, PLACES, Copy, Place
from tests.crash.support import BrokerProcess

#: Ends beside the fail-points: SIGKILL and SIGTERM, sent by the client that saw the last of so many events, and SIGKILL
#: some time after a disk that was full for a while.
ANY, STOP, FULL = "any moment", "clean stop", "full disk"
KINDS = (*POINTS, ANY, FULL, STOP)
#: Of so many kills, those at each fail-point, and with a full disk; clean stops between them.
BLOCK, KILLS_AT_POINT, FULL_DISKS, STOPS = 20, 2, 2, 3
#: Seconds a disk is full, and is not, before the kill.
FULL_FOR = 0.2
#: Seconds until a load must have come to its end; it takes less than one.
LIMIT = 60.0
#: What is counted, as the table shows it.
COUNTS = ("confirmed", "acked", "duplicates", "lost", "came back")


class End(NamedTuple):
    """How a broker ends: at the `nth` pass of a fail-point, or at the `nth` event, by a signal."""

    kind: str
    nth: int
    event: Event | None = None

    @property
    def point(self) -> str:
        """The fail-point, or nothing."""
        return self.kind if self.kind in (*POINTS, TORN) else ""


def plan(chance: random.Random, kills: int) -> Iterator[End]:
    """The ends of a run with so many kills: blocks of all kinds, each in random order."""
    while kills > 0:
        block = _block(chance)
        for end in block:
            if not kills:
                return
            kills -= end.kind != STOP
            yield end


def _block(chance: random.Random) -> list[End]:
    events: list[Event] = ["confirmed", "delivered", "answered"]
    # There is one fold among some 60 commits.
    ends = [End(p, chance.randint(1, 3 if p == "in fold" else 120)) for p in POINTS for _ in range(KILLS_AT_POINT)]
    kinds = [FULL] * FULL_DISKS + [ANY] * (BLOCK - FULL_DISKS - len(ends)) + [STOP] * STOPS
    ends += [End(kind, chance.randint(1, 300), chance.choice(events)) for kind in kinds]
    chance.shuffle(ends)
    return ends


class Run:
    """One data file, from the first broker on it to the last."""

    def __init__(self, data: Path, seed: int, *, store: str = "honest") -> None:
        self.ledger = Ledger()
        self.seed = seed
        self.chance = random.Random(seed)
        #: Per kind of end: how often, and what changed.
        self.rows = {kind: Counter[str]() for kind in (*KINDS, TORN)}
        #: Seconds of the longest start.
        self.longest = 0.0
        self.log = Path(f"{data}.log")
        #: What they ran on: "lean" or "stock".
        self.reactor = ""
        self._data = data
        self._store = store

    @property
    def kills(self) -> int:
        """How often it was killed."""
        return sum(row["ends"] for kind, row in self.rows.items() if kind != STOP)

    @property
    def flaws(self) -> list[str]:
        """Everything that must not be and was; empty if all is well."""
        flaws = [f"lost: {copy}" for copy in sorted(self.ledger.lost)]
        flaws += [f"came back: {copy}" for copy in sorted(self.ledger.came_back)]
        flaws += self.ledger.wrong
        if "Traceback" in self.log.read_text():
            flaws.append(f"there is a traceback in {self.log}")
        return flaws

    def turns(self, ends: Iterable[End]) -> Generator[End, None, None]:
        """Start a broker, load it to the first end, restart it and check, and so on; each end after its check."""
        following = iter(ends)
        end = next(following, None)
        process = self._start(end)
        try:
            define(process.ports)
            turn = 0
            while end is not None:
                turn += 1
                before = self._counts()
                self._run_to(end, process)
                process.close()
                this, end = end, next(following, None)
                process = self._start(end)
                self._check(process.ports, turn if end is not None else 0)
                self.rows[this.kind].update(self._counts() - before, ends=1)
                yield this
            process.stop()
            if (status := process.wait(LIMIT)) != 0:
                raise AssertionError(f"the last stop ended with {status}")
        finally:
            process.close()

    def _counts(self) -> Counter[str]:
        ledger = self.ledger
        return ledger.tally + Counter({"lost": len(ledger.lost), "came back": len(ledger.came_back)})

    def _start(self, end: End | None) -> BrokerProcess:
        """A broker that will come to this end."""
        point = end.point if end is not None else ""
        process = BrokerProcess(self._data, point, end.nth if point and end else 0, store=self._store)
        self.longest = max(self.longest, process.start)
        self.reactor = process.reactor
        return process

    def _run_to(self, end: End, process: BrokerProcess) -> None:
        """Load the broker until its end, and see to it that it was this one."""
        ledger = self.ledger
        ledger.disturbed = end.kind in (STOP, FULL)
        if end.event is not None:
            ways = {STOP: process.stop, ANY: process.kill, FULL: lambda: _fill_disk(process)}
            ledger.arm(end.event, end.nth, ways[end.kind])
        if end.point:
            process.arm()
        interval = sys.getswitchinterval()
        # Else the client that is to strike may wait 5 ms for its turn: by then the broker has written what it said.
        sys.setswitchinterval(0.0001)
        try:
            load = Load(process.ports, ledger, self.chance.randrange(1_000_000))
            status = process.wait(LIMIT)
            load.join(LIMIT)
        finally:
            sys.setswitchinterval(interval)
        ledger.died()
        ledger.disturbed = False
        # Who asks while it stops, or cannot write, may be refused.
        errors = [e for e in load.errors if end.kind not in (STOP, FULL) or not isinstance(e, Refused)]
        if errors:
            raise ExceptionGroup(f"clients failed before {end}", [e for e in errors if isinstance(e, Exception)])
        if status != (0 if end.kind == STOP else -signal.SIGKILL):
            raise AssertionError(f"{end}: it ended with {status}; see {self.log}")
        if (f"killed at {end.point}" in process.said) is not bool(end.point):
            raise AssertionError(f"{end}: it said {process.said}")

    def _check(self, ports: Ports, turn: int) -> None:
        """Look at every place, and empty it: each by another protocol in each `turn`; in turn 0 all of them."""
        seen: set[Copy] = set()
        emptying.until_all_came(ports)
        for number, place in enumerate(PLACES.values()):
            ledger = self.ledger
            must, may = ledger.due(place.name)
            with Http(ports.http) as client:
                count = client.waiting(place.name)
            # What is about to be moved may be counted twice, or never.
            if place.keeps in ("all", "nothing") and not place.exit and not len(must) <= count <= len(must) + len(may):
                ledger.wrong.append(f"{place.name} holds {count}, not {len(must)} and up to {len(may)} more")
            if turn % place.every == 0:
                found = self._empty(ports, place, emptying.WAYS[(turn + number) % len(emptying.WAYS)])
                ledger.emptied(place, {copy.post for copy in found})
                seen |= found
        self.ledger.judge_transactions(seen)

    def _empty(
        self, ports: Ports, place: Place, way: Callable[[Ports, Ledger, str, int, Sight], set[Copy]]
    ) -> set[Copy]:
        sight = Sight(alone=True, late=self.ledger.unread.pop(place.name, 0))
        found: set[Copy] = set()
        if place.exit:
            found |= emptying.until_all_left(ports, self.ledger, place, sight)
        with Http(ports.http) as client:
            queue = place.exit or place.name
            found |= way(ports, self.ledger, queue, client.waiting(queue), sight)
            if left := client.waiting(queue):
                self.ledger.wrong.append(f"{queue} holds {left} when all were settled")
        return found


def define(ports: Ports) -> None:
    """Make the bindings; they must outlive every kill."""
    with Http(ports.http) as client:
        for queue, topic, match in BINDINGS:
            client.ask("PUT", f"/channels/{quote(queue)}/topics/{quote(topic)}?match={quote(match)}", 204)
    with Memcache(ports.memcache) as reader:
        for child in CHILDREN:
            reader.get(child)


def _fill_disk(process: BrokerProcess) -> None:
    process.fill_disk()

    def room() -> None:
        process.empty_disk()
        _later(process.kill)

    _later(room)


def _later(then: Callable[[], None]) -> None:
    timer = threading.Timer(FULL_FOR, then)
    timer.daemon = True
    timer.start()


def table(run: Run) -> str:
    """What happened, by the end of the broker."""
    columns = "".join(f"{column:>12}" for column in ("ends", *COUNTS))
    lines = [f"reactor: {run.reactor}", f"{f'seed {run.seed}':16}" + columns]
    rows = {kind: row for kind, row in run.rows.items() if row}
    for kind, row in {**rows, "in all": sum(run.rows.values(), Counter())}.items():
        lines.append(f"{kind:16}" + "".join(f"{row[column]:>12}" for column in ("ends", *COUNTS)))
    return "\n".join(lines)


def report(run: Run) -> str:
    """The numbers that matter, in one line each."""
    counts = sum(run.rows.values(), Counter())
    numbers: dict[str, object] = {"kills": run.kills, **{name: counts[name] for name in COUNTS}}
    numbers |= {"transactions": run.ledger.tally["transactions"], "other flaws": len(run.ledger.wrong)}
    numbers |= {"longest restart": f"{run.longest:.2f} s", "reactor": run.reactor, "seed": run.seed}
    return "\n".join(f"{name + ':':17}{number}" for name, number in numbers.items())
