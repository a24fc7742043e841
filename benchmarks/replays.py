"""A replay of a million retained messages with a filter, beside live traffic, killed in the middle and gone on with.

    .venv/bin/python -m benchmarks.replays [MESSAGES]

Goals: what the filter is true of comes exactly once and in order, although the broker is killed with SIGKILL when half
of it has come; live traffic is in at least half of all commits while the replay runs; an undo leaves nothing waiting.
Printed beside: how fast the replay was, and the live traffic with and without it. The broker, eight publishers that
each wait for their answer, and a consumer that acks what they publish are one process, with every commit synced.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import task
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from benchmarks.measuring import ROOT, Folder, Row, report
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import Kind, queue, topic
from broker.core.level import Level
from broker.core.message import Message, unpack
from broker.core.policy import Policies, Policy, TopicPolicy
from broker.core.replay import RUN, Plan
from broker.core.store import Committed, DefineDestination, DefineLane, Definition, Group
from broker.storage.sqlite import SQLiteStore

NEWS, AGAIN, LIVE = topic("news"), queue("again"), queue("live")
#: True of two messages of three.
MATCH = "data.kind in ('a', 'c') and size > 10"
#: Publishers that each have one message on its way.
PUBLISHERS = 8
#: Seconds for which live traffic is measured alone.
ALONE = 2.0
#: Seconds everything may take.
LIMIT = 600.0
_GROUP = 20_000


def body(n: int) -> bytes:
    """Message number `n` of the past."""
    return b'{"n":%d,"kind":"%c","text":"%s"}' % (n, b"abc"[n % 3], b"x" * 60)


async def fill(path: Path, count: int) -> None:
    """A topic with a past that nobody has read."""
    store = SQLiteStore(str(path), sync="normal")
    await store.open()
    try:
        stamps = itertools.count(int(time.time() * 1e6) - 10 * count)
        definitions: list[Definition] = [DefineDestination(1, Kind.TOPIC, NEWS.name), DefineLane(1, 1, 0)]
        for begin in range(0, count, _GROUP):
            past = [Message(next(stamps), body(n)) for n in range(begin, min(begin + _GROUP, count))]
            group = Group(definitions=definitions, parts={1: past}, last_stamp=past[-1].stamp, keep={1: 0})
            await store.commit(group)
            definitions = []
    finally:
        await store.close()


# -- the broker's process


class Counting(SQLiteStore):
    """A store that knows what is in its commits."""

    commits = live = replayed = both = 0

    def commit(self, group: Group) -> Deferred[Committed]:
        """Count it by the first message of each part: a lane holds messages of one sort."""
        firsts = [part[0] for part in group.parts.values()]
        live = any(message.body.startswith(b"live") for message in firsts)
        replayed = any(RUN in message.headers for message in firsts)
        self.commits += 1
        self.live += live
        self.replayed += replayed
        self.both += live and replayed
        return super().commit(group)


class Traffic:
    """Publishers that each wait for their answer, and a consumer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.published = self.consumed = 0
        self.longest = 0.0
        broker.subscribe(LIVE, self._got, prefetch=1_000)
        self.running = [Deferred.fromCoroutine(self._publish()) for _ in range(PUBLISHERS)]

    def _got(self, delivery: Delivery) -> None:
        self.consumed += 1
        _ = self._broker.ack([delivery])

    async def _publish(self) -> None:
        while not self._broker.draining:
            begun = time.perf_counter()
            await self._broker.publish(LIVE, Message(body=b"live and well"))
            self.longest = max(self.longest, time.perf_counter() - begun)
            self.published += 1


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def serve(reactor: Any, path: str, undo: bool) -> None:
    """Begin the replay, or go on with it, until it is done; or undo it. What happens is said in lines of JSON."""
    store = Counting(path, reserve=0)
    broker = Broker(store, reactor, policy=Policies(Policy(), topic_default=TopicPolicy(retain=86_400_000)))
    await broker.start()
    try:
        if undo:
            begun = time.perf_counter()
            job = await broker.replays.cancel(1, undo=True)
            took = time.perf_counter() - begun
            _say(undone=job.undone, waiting=broker.queue_stats(AGAIN.name).ready, seconds=took)
            return
        traffic = Traffic(broker)
        if not broker.replays.all():
            begun, before = time.perf_counter(), traffic.published
            await task.deferLater(reactor, ALONE)
            _say(alone=(traffic.published - before) / (time.perf_counter() - begun))
            await broker.replays.create(Plan(source=NEWS, target=AGAIN, match=MATCH))
        begun = time.perf_counter()
        first = (store.commits, store.live, store.replayed, traffic.published, broker.replays.find(1).job.examined)
        traffic.longest = 0.0
        state = "running"
        while state == "running":
            await task.deferLater(reactor, 0.01)  # so often that no small replay is over between two looks
            one = broker.replays.find(1)
            state = one.job.state.value
            now = (store.commits, store.live, store.replayed, traffic.published, one.job.examined)
            commits, live, replayed, published, examined = (new - old for new, old in zip(now, first, strict=True))
            _say(
                state=state,
                copied=one.job.copied,
                commits=commits,
                live=live,
                replayed=replayed,
                published=published,
                examined=examined,
                longest=traffic.longest,
                seconds=time.perf_counter() - begun,
            )
        broker.status.become(Level.DRAINING)
        for publisher in traffic.running:
            await publisher
    finally:
        await broker.stop()


# -- the benchmark's


class Served:
    """The broker's process, and what it says."""

    def __init__(self, path: Path, *how: str) -> None:
        command = [sys.executable, "-m", "benchmarks.replays", "--serve", str(path), *how]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self._until = time.monotonic() + LIMIT

    def says(self) -> dict[str, Any] | None:
        """The next line; None: it is over."""
        assert self.process.stdout is not None
        if time.monotonic() > self._until:
            self.process.kill()
            raise RuntimeError(f"not done in {LIMIT:.0f} s")
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def ended_well(self) -> None:
        """Wait for its own end."""
        assert self.process.wait(LIMIT) == 0


def _run(path: Path, kill_at: int) -> tuple[float, list[dict[str, Any]]]:
    """Once to the kill, once to the end: live messages a second alone, and the last that each said."""
    alone, parts = 0.0, []
    for until in (kill_at, 0):
        served = Served(path)
        last: dict[str, Any] = {}
        try:
            while (said := served.says()) is not None:
                alone = said.get("alone", alone)
                last = said if "state" in said else last
                if until and last.get("copied", 0) >= until:
                    assert last["state"] == "running", "it was done before it could be killed"
                    served.process.send_signal(signal.SIGKILL)
                    break
            if not until:
                served.ended_well()
        finally:
            served.kill()
        parts.append(last)
    return alone, parts


async def _put_in(path: Path) -> list[int]:
    """The numbers of all that the replay has put in, in the order of the queue."""
    store = SQLiteStore(str(path), reserve=0)
    inventory = await store.open()
    try:
        (again,) = (one.id for one in inventory.destinations if (one.kind, one.name) == (Kind.QUEUE, AGAIN.name))
        found: list[int] = []
        for lane in (lane for lane in inventory.lanes if lane.destination == again):
            seq = 0
            while seq < lane.next and (batches := await store.read(lane.id, seq, 1024 * 1024)):
                for batch in batches:
                    found += [msgspec.json.decode(one.body)["n"] for one in unpack(batch.count, batch.data)]
                    seq = batch.base + batch.count
        return found
    finally:
        await store.close()


async def measure(count: int) -> Row:
    """The whole run."""
    with Folder() as folder:
        path = folder / "replays.sqlite"
        await fill(path, count)
        matching = [n for n in range(count) if n % 3 != 1]
        alone, (first, second) = _run(path, len(matching) // 2)
        put_in = await _put_in(path)
        undoing = Served(path, "undo")
        try:
            undone = undoing.says() or {}
            undoing.ended_well()
        finally:
            undoing.kill()

    def both(what: str) -> float:
        return float(first[what] + second[what])

    seconds = both("seconds")
    return {
        "messages": count,
        "matching": len(matching),
        "put in": len(put_in),
        "exactly once, in order": put_in == matching,
        "killed after": first["copied"],
        "looked at/s": round(both("examined") / seconds),
        "put in/s": round(len(put_in) / seconds),
        "commits": int(both("commits")),
        "live in % of commits": round(100 * both("live") / both("commits"), 1),
        "replay in % of commits": round(100 * both("replayed") / both("commits"), 1),
        "live/s alone": round(alone),
        "live/s beside": round(both("published") / seconds),
        "longest publish ms": round(1000 * max(first["longest"], second["longest"]), 1),
        "undone": undone.get("undone"),
        "waiting after undo": undone.get("waiting"),
        "undo s": round(float(undone.get("seconds", 0.0)), 2),
    }


def missed(row: Row) -> list[str]:
    """The goals that were not reached."""
    said = []
    if not row["exactly once, in order"]:
        said.append(f"{row['put in']} were put in, not {row['matching']}, or out of order")
    if float(str(row["live in % of commits"])) < 50:
        said.append(f"live traffic was in {row['live in % of commits']} % of the commits")
    if row["undone"] != row["matching"] or row["waiting after undo"] != 0:
        said.append(f"the undo settled {row['undone']} and left {row['waiting after undo']}")
    return said


async def run(reactor: Any, count: int) -> None:
    row = await measure(count)
    if report("replays", [row], missed(row)):
        raise SystemExit(1)


def main(reactor: IReactorCore, *arguments: str) -> Deferred[None]:
    assert isinstance(reactor, ReactorBase)
    if arguments[:1] == ("--serve",):
        return Deferred.fromCoroutine(serve(reactor, arguments[1], "undo" in arguments[2:]))
    return Deferred.fromCoroutine(run(reactor, int(arguments[0]) if arguments else 1_000_000))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
