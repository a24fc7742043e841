"""Write a data file as an earlier run of the broker left it; what a million publishes would do, in a few seconds.

    .venv/bin/python -m benchmarks.prepare FILE QUEUES EACH [BYTES]

Queues ``q0``, ``q1``, ... with EACH messages of BYTES bytes (default: 100).
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.store import DefineDestination, DefineLane, DefineReader, Definition, Group
from broker.storage.sqlite import SQLiteStore

#: Messages of one commit.
_GROUP = 20_000

#: Makes message number `n` of a queue, with the stamp it is given.
Make = Callable[[int, int], Message]


def plain(size: int) -> Make:
    """Messages of so many bytes; none of them is a zero."""
    body = b"x" * size
    return lambda stamp, n: Message(stamp, body)


async def fill(path: Path, queues: int, each: int, make: Make) -> None:
    """Queues ``q0``, ``q1``, ... with `each` messages."""
    store = SQLiteStore(str(path), sync="normal")
    await store.open()
    try:
        stamps = itertools.count(int(time.time() * 1e6))
        last = next(stamps)
        at_once = max(_GROUP // each, 1)
        for first in range(1, queues + 1, at_once):
            some = range(first, min(first + at_once, queues + 1))
            definitions: list[Definition] = []
            for id in some:
                definitions += [DefineDestination(id, Kind.QUEUE, f"q{id - 1}"), DefineLane(id, id, 0)]
                definitions.append(DefineReader(id, id, id, 0))
            for begin in range(0, each, _GROUP):
                numbers = range(begin, min(begin + _GROUP, each))
                parts = {id: [make(next(stamps), n) for n in numbers] for id in some}
                last = parts[some[-1]][-1].stamp
                await store.commit(Group(definitions=definitions, parts=parts, last_stamp=last))
                definitions = []
    finally:
        await store.close()


def main(reactor: IReactorCore, path: str, queues: str, each: str, size: str = "100") -> Deferred[None]:
    return Deferred.fromCoroutine(fill(Path(path), int(queues), int(each), plain(int(size))))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
