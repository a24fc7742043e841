"""``twistd broker``, run as ``python -m tests.costs.counted``, that counts what it does.

On SIGRTMIN it prints the numbers so far as a line of JSON. Counted are the calls of the kernel that the reactor's
thread makes for its sockets, the statements SQLite was given and the steps of its virtual machine, the bytes it wrote
to files, what the reactor's thread called, and the blocks of memory that are in use: all of them numbers that depend on
the code, and not on how fast the machine is.
"""

from __future__ import annotations

import cProfile
import gc
import json
import re
import select
import signal
import socket
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

#: Steps of SQLite's virtual machine between two calls of ours.
STEPS = 20

counts: Counter[str] = Counter()


def _counting(kind: type, names: list[str], what: str) -> dict[str, Any]:
    """Methods that count, and do what those of `kind` do."""

    def one(name: str) -> Any:
        method = getattr(kind, name)

        def counted(self: Any, *arguments: Any) -> Any:
            counts[what] += 1
            return method(self, *arguments)

        return counted

    return {name: one(name) for name in names}


class Epoll:
    """`select.epoll`, which cannot be inherited from."""

    def __init__(self, *arguments: Any) -> None:
        self._epoll = select_epoll(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def poll(self, *arguments: Any) -> Any:
        counts["polls"] += 1
        return self._epoll.poll(*arguments)

    def modify(self, *arguments: Any) -> None:
        counts["changes"] += 1
        self._epoll.modify(*arguments)

    def register(self, *arguments: Any) -> None:
        counts["changes"] += 1
        self._epoll.register(*arguments)

    def unregister(self, *arguments: Any) -> None:
        counts["changes"] += 1
        self._epoll.unregister(*arguments)


select_epoll = select.epoll
sqlite3_connect = sqlite3.connect


def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
    """A connection whose work is counted."""
    connection = sqlite3_connect(*arguments, **named)

    def statement(_: str) -> None:
        counts["statements"] += 1

    def steps() -> int:
        counts["steps"] += STEPS
        return 0

    connection.set_trace_callback(statement)
    connection.set_progress_handler(steps, STEPS)
    return connection


def say(profile: cProfile.Profile) -> None:
    """Print the numbers."""
    profile.disable()
    calls = sum(entry.callcount for entry in profile.getstats())
    written = re.search(r"wchar: (\d+)", Path("/proc/self/io").read_text())
    assert written is not None
    gc.collect()
    numbers = dict(counts) | {"calls": calls, "written": int(written[1]), "blocks": sys.getallocatedblocks()}
    print(f"counted {json.dumps(numbers)}", file=sys.__stdout__, flush=True)  # twistd logs what goes to sys.stdout
    profile.enable()


def main() -> None:
    """Run twistd."""
    for name, method in _counting(socket.socket, ["recv", "recv_into", "send", "sendmsg"], "transfers").items():
        setattr(socket.socket, name, method)
    vars(select)["epoll"] = Epoll
    vars(sqlite3)["connect"] = connect
    profile = cProfile.Profile()
    signal.signal(signal.SIGRTMIN, lambda *_: say(profile))

    from twisted.scripts.twistd import run

    profile.enable()
    run()


if __name__ == "__main__":
    main()
