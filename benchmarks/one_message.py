"""Where the time of one message goes that is published by itself, from the core being asked to its answer.

    .venv/bin/python -m benchmarks.one_message [MESSAGES]

The broker's own reactor and store, no front and no socket: the way to the store's thread, the statements, COMMIT with
its sync, and the way back until the publisher is told. Beside it what nobody can save: the same row committed by SQLite
alone in one thread, and one sync of a page by the kernel.

A client that has one message under way waits for all of it, and for the network both ways; with more under way the
commit and the ways are shared.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorTime

from benchmarks.measuring import Folder, Row, report
from broker.core.broker import Broker
from broker.core.destination import queue
from broker.core.message import Message
from broker.reactor import install
from broker.storage.sqlite import SQLiteStore

MESSAGES = 3_000
BODY = bytes(100)
#: What the store writes of such a message, about.
RECORD = bytes(150)
PAGE = bytes(4096)
clock = time.perf_counter


class Marking(sqlite3.Connection):
    """Notes when a transaction began, when COMMIT was asked for, and when it was done."""

    marks: list[float] = []

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if not self.in_transaction:
            Marking.marks[:] = [clock()]
        return super().execute(*args)

    def commit(self) -> None:
        Marking.marks.append(clock())
        super().commit()
        Marking.marks.append(clock())


async def publishes(path: Path, count: int, reactor: IReactorTime) -> list[list[float]]:
    """The five moments of each publish: asked, begun, before COMMIT, after it, told."""
    broker = Broker(SQLiteStore(str(path), connection=Marking), reactor)
    await broker.start()
    to, moments = queue("q"), []
    await broker.publish(to, Message(body=BODY))
    for _ in range(count):
        asked = clock()
        await broker.publish(to, Message(body=BODY))
        told = clock()
        moments.append([asked, *Marking.marks, told])
        later: Deferred[None] = Deferred()
        reactor.callLater(0, later.callback, None)
        await later
    await broker.stop()
    return [found for found in moments if len(found) == 5]


def alone(path: Path, count: int) -> list[float]:
    """The same row committed by SQLite, in this thread."""
    file = sqlite3.connect(path, isolation_level=None)
    for said in ("journal_mode = wal", "synchronous = full"):
        file.execute(f"pragma {said}")
    file.execute("create table record (id integer primary key, data blob)")

    def commit() -> None:
        file.execute("begin")
        file.execute("insert into record (data) values (?)", (RECORD,))
        file.execute("commit")

    took = _times(commit, count)
    file.close()
    return took


def syncs(path: Path, count: int) -> list[float]:
    """One page written over another, and on the disk."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(file, PAGE * count)
    os.fsync(file)
    os.lseek(file, 0, os.SEEK_SET)

    def sync() -> None:
        os.write(file, PAGE)
        os.fdatasync(file)

    took = _times(sync, count)
    os.close(file)
    return took


def _times(call: Callable[[], None], count: int) -> list[float]:
    took = []
    for _ in range(count):
        begun = clock()
        call()
        took.append(clock() - begun)
    return took


def _row(what: str, took: list[float]) -> Row:
    took = sorted(took)
    p50, p99 = statistics.median(took) * 1e6, took[len(took) * 99 // 100] * 1e6
    return {"what": what, "p50 us": round(p50), "p99 us": round(p99)}


def main() -> int:
    """Measure, and write the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    install()
    from twisted.internet import reactor

    found: list[list[list[float]]] = []
    with Folder() as folder:

        def begin() -> None:
            measured = Deferred.fromCoroutine(publishes(folder / "data.sqlite", count, cast(IReactorTime, reactor)))
            _ = measured.addCallback(found.append).addBoth(end)

        def end(failed: object) -> None:
            if failed is not None:
                print(failed, file=sys.stderr)
            cast(IReactorCore, reactor).stop()

        cast(IReactorCore, reactor).callWhenRunning(begin)
        cast(IReactorCore, reactor).run()
        if not found:
            return 1
        (moments,) = found
        steps = ("to the store's thread", "statements", "COMMIT, with its sync", "back, and told")
        rows = [
            _row(what, [moment[place + 1] - moment[place] for moment in moments]) for place, what in enumerate(steps)
        ]
        rows.append(_row("all of it", [moment[-1] - moment[0] for moment in moments]))
        rows.append(_row("SQLite alone", alone(folder / "alone.sqlite", count)))
        rows.append(_row("a sync alone", syncs(folder / "page", count)))
    return report("one_message", rows, [])


if __name__ == "__main__":
    sys.exit(main())
