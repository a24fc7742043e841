"""The SQL time of a commit that touches 1, 10, 100 and 1,000 queues, one message of 100 bytes and one ack each.

Run ``python benchmarks/commit_1000_queues.py [FOLDER]``; the file is made in a temporary folder within FOLDER (default:
here), so that the disk measured is the one that counts. "sql" is the time on the writer's thread from the first
statement to the end of COMMIT; "whole" adds packing, the way there and back, and the ledger. The slowest commits are
those that a fold rides in.
The aim: sql under 3 ms for 1,000 queues.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.store import DefineDestination, DefineLane, DefineReader, Definition, Group
from broker.storage.sqlite import SQLiteStore

COMMITS = 200


class Timed(sqlite3.Connection):
    """Notes how long each transaction took."""

    begun = 0.0
    took: list[float] = []

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if not self.in_transaction:
            self.begun = time.perf_counter()
        return super().execute(*args)

    def commit(self) -> None:
        writing = self.in_transaction
        super().commit()
        if writing:
            self.took.append(time.perf_counter() - self.begun)


async def measure(path: str) -> None:
    store = SQLiteStore(path, connection=Timed)
    await store.open()
    try:
        definitions: list[Definition] = []
        for id in range(1, 1001):
            definitions += [DefineDestination(id, Kind.QUEUE, f"q{id}")]
            definitions += [DefineLane(id, id, 0), DefineReader(id, id, id, 0)]
        await store.commit(Group(definitions=definitions))
        stamp, nexts = 0, dict.fromkeys(range(1, 1001), 0)
        print(f"{'queues':>6} {'sql p50':>9} {'sql p99':>9} {'whole p50':>10}   commits of the file per group")
        for queues in (1, 10, 100, 1000):
            whole: list[float] = []
            Timed.took.clear()
            for _ in range(COMMITS):
                group = Group()
                for lane in range(1, queues + 1):
                    stamp += 1
                    group.parts[lane] = [Message(stamp=stamp, body=bytes(100))]
                    group.settled[lane] = [(nexts[lane], nexts[lane] + 1)]
                    nexts[lane] += 1
                begun = time.perf_counter()
                await store.commit(group)
                whole.append(time.perf_counter() - begun)
            took = sorted(Timed.took)
            print(
                f"{queues:>6} {statistics.median(took) * 1e3:>6.2f} ms {took[len(took) * 99 // 100] * 1e3:>6.2f} ms"
                f" {statistics.median(whole) * 1e3:>7.2f} ms   {len(took) / COMMITS:.2f}"
            )
    finally:
        await store.close()


async def run(reactor: IReactorCore, folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        await measure(os.path.join(temporary, "bench.sqlite"))


def main(reactor: IReactorCore, folder: str = ".") -> Deferred[None]:
    return Deferred.fromCoroutine(run(reactor, folder))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
