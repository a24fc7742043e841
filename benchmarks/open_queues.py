"""What the store's start costs where 100,000 queues hold 10 messages each: time, and memory of the ledger.

    .venv/bin/python -m benchmarks.open_queues [QUEUES [MESSAGES]]

The file is opened three times, each in a process of its own: as a clean stop leaves it, and as it is when the broker is
killed right after the last commit. Told are the seconds of the best one, of the clock and of the processor; resident
memory with the inventory, which the core keeps until it has read it, and without; and what of it Python allocated.

Goals: of the broker's whole start, which may take 1 s and 100 MB, the store may take 0.5 s and its ledger 40 MB.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from benchmarks.measuring import ROOT, Folder, Row, mib, own_rss, report
from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.store import DefineDestination, DefineLane, DefineReader, Definition, Group
from broker.storage.sqlite import SQLiteStore

#: Queues defined, or published to, in one commit.
GROUP = 5_000
SECONDS = 0.5
LEDGER = 40.0
TURNS = 3


async def fill(path: Path, queues: int, count: int, *, clean: bool) -> None:
    """Make the file; not `clean`: as it is when the broker is killed right after the last commit."""
    store = SQLiteStore(str(path), sync="normal")
    await store.open()
    stamp = 0
    for first in range(1, queues + 1, GROUP):
        some = range(first, min(first + GROUP, queues + 1))
        definitions: list[Definition] = []
        for id in some:
            definitions += [DefineDestination(id, Kind.QUEUE, f"q{id}"), DefineLane(id, id, 0)]
            definitions.append(DefineReader(id, id, id, 0))
        await store.commit(Group(definitions=definitions))
        parts = {}
        for id in some:
            stamp += count
            parts[id] = [Message(stamp=stamp + n, body=bytes(100)) for n in range(count)]
        await store.commit(Group(parts=parts, settled={id: [(0, 1)] for id in some}, last_stamp=stamp + count))
    if not clean:
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}.killed{suffix}")
    await store.close()
    if not clean:
        for suffix in ("", "-wal"):
            shutil.move(f"{path}.killed{suffix}", f"{path}{suffix}")


async def opened(the_reactor: IReactorTime, path: Path, *, traced: bool) -> dict[str, float]:
    """What opening a file takes; it is closed without an end."""
    store = SQLiteStore(str(path), reserve=0)
    gc.collect()
    if traced:
        tracemalloc.start()
    before, begun, used = own_rss(), time.perf_counter(), time.process_time()
    await store.open()
    took, used = time.perf_counter() - begun, time.process_time() - used
    whole = own_rss() - before
    await deferLater(the_reactor, 0.1)  # until then who called us has the inventory
    gc.collect()
    if traced:
        return {"traced": mib(tracemalloc.get_traced_memory()[0])}
    return {"s": took, "cpu": used, "whole": mib(whole), "ledger": mib(own_rss() - before)}


def measure(folder: Path, queues: int, count: int) -> list[Row]:
    """Both cases."""
    rows: list[Row] = []
    for case, clean in (("clean stop", True), ("kill", False)):
        path = folder / f"{case}.sqlite"
        _child("fill", path, queues, count, int(clean))
        runs = []
        for turn in range(TURNS + 1):
            copy = folder / f"{turn}.sqlite"
            for suffix in ("", "-wal"):
                if Path(f"{path}{suffix}").exists():
                    shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
            runs.append(json.loads(_child("open", copy, int(turn == TURNS))))
        traced = runs.pop()
        best = min(runs, key=lambda run: run["s"])
        rows.append(
            {
                "after a": case,
                "queues": queues,
                "messages": queues * count,
                "start s": round(best["s"], 2),
                "processor s": round(best["cpu"], 2),
                "with inventory MiB": best["whole"],
                "ledger MiB": best["ledger"],
                "traced MiB": traced["traced"],
            }
        )
    return rows


def _child(*words: object) -> str:
    command = [sys.executable, "-m", "benchmarks.open_queues", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def missed(rows: list[Row]) -> list[str]:
    """The goals that were missed."""
    misses = []
    for row in rows:
        if float(str(row["start s"])) > SECONDS:
            misses.append(f"after a {row['after a']} the start takes {row['start s']} s instead of {SECONDS}")
        if float(str(row["ledger MiB"])) > LEDGER:
            misses.append(f"after a {row['after a']} the ledger takes {row['ledger MiB']} MiB instead of {LEDGER}")
    return misses


def main(reactor: IReactorTime, word: str, path: str, *numbers: str) -> Deferred[None]:
    if word == "fill":
        queues, count, clean = map(int, numbers)
        return Deferred.fromCoroutine(fill(Path(path), queues, count, clean=bool(clean)))

    async def tell() -> None:
        print(json.dumps(await opened(reactor, Path(path), traced=numbers == ("1",))), flush=True)

    return Deferred.fromCoroutine(tell())


if __name__ == "__main__":
    if sys.argv[1:2] in (["fill"], ["open"]):
        task.react(main, sys.argv[1:])
    queues = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with Folder() as folder:
        rows = measure(folder, queues, count)
    sys.exit(report("open_queues", rows, missed(rows)))
