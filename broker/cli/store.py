"""``broker check``, ``dump``, ``load`` and ``backup``: a data file, which for two of them a broker may be using.

What they need of the storage is imported when they run, so that the other commands start without it.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import msgspec

from broker.cli.exits import Exit
from broker.cli.output import unwritten
from broker.cli.parsing import Commands, add, add_json
from broker.errors import BrokerError, ConfigError

#: What a terminal takes to begin its line anew.
_LINE = "\r\033[K"


def add_to(commands: Commands) -> None:
    """Add the four commands."""
    epilog = "No broker may be using the file."
    running = "A broker may be using the file: what is printed, or copied, is then what was stored at one moment."

    check = add(
        commands,
        "check",
        _run(_check),
        offline=True,
        help="see whether a data file is whole",
        description="Read everything in a data file once and compare it with everything else. Nothing is changed.",
        epilog=f"{epilog} Exit status: 0 it is whole; 1 it is not; 2 wrong usage; 4 it cannot be opened.",
    )
    check.add_argument("path", metavar="PATH", help="the data file")
    add_json(check, "print one JSON object")

    dump = add(
        commands,
        "dump",
        _run(_dump),
        offline=True,
        help="print a data file as lines of JSON",
        description="Print what is defined in a data file, and every message that some queue has not settled, as "
        "lines of JSON.",
        epilog=f"{running} Exit status: 0 done; 1 something could not be read and is left out; 2 wrong usage; 4 the "
        "file cannot be opened; 5 the output could not be written.",
    )
    dump.add_argument("path", metavar="PATH", help="the data file")

    load = add(
        commands,
        "load",
        _run(_load),
        offline=True,
        help="put what was dumped into a data file",
        description="Put what `broker dump` printed into a data file, behind what is there already. If there is no "
        "such file it is made, whole or not at all. Messages get new ids.",
        epilog=f"{epilog} Exit status: 0 done; 2 wrong usage; 3 the input is no dump, or not a whole one; 4 a file "
        "cannot be opened; 5 the data file could not be written.",
    )
    load.add_argument("file", metavar="FILE", help="the lines; - is standard input")
    load.add_argument("path", metavar="PATH", help="the data file")

    backup = add(
        commands,
        "backup",
        _run(_backup),
        offline=True,
        help="copy a data file",
        description="Copy a data file with all that is in its write-ahead log.",
        epilog=f"{running} Exit status: 0 done; 2 wrong usage; 4 the file cannot be opened, or the copy exists "
        "already; 5 the copy could not be written.",
    )
    backup.add_argument("path", metavar="PATH", help="the data file")
    backup.add_argument("destination", metavar="DEST", help="the copy; it must not exist")


def _run(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`command`, its errors told."""

    def run(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except ConfigError as error:
            return _failed(Exit.UNREACHABLE, error.reason)
        except BrokerError as error:
            return _failed(Exit.REFUSED, error.reason)
        except sqlite3.Error as error:
            return _failed(Exit.UNREACHABLE, f"{options.path}: {error}")
        except OSError as error:
            return _failed(Exit.UNWRITTEN, f"cannot write: {error.strerror}")

    return run


def _failed(status: Exit, reason: str) -> int:
    print(f"broker: {reason}", file=sys.stderr)
    return status


def _check(options: argparse.Namespace) -> int:
    from broker.storage.check import check
    from broker.storage.offline import connected, locked

    with locked(options.path), connected(options.path) as connection:
        report = check(connection)
    if options.json:
        fields: dict[str, Any] = {name: getattr(report, name) for name in report.__slots__ if name != "__weakref__"}
        print(msgspec.json.encode(fields).decode())
    else:
        print(
            f"{options.path}: {report.destinations} destinations, {report.lanes} lanes, {report.readers} readers, "
            f"{report.bindings} bindings\n"
            f"{report.messages} messages of {report.bytes} bytes in {report.batches} batches and {report.records} "
            f"records; {report.unsettled} wait in queues"
        )
        if report.quarantined:
            print(f"{report.quarantined} runs of messages could not be read, and were set aside before")
        for text in report.problems:
            print(f"problem: {text}")
        if report.more:
            print(f"problem: and {report.more} more")
        print("it is whole" if not report.problems else f"{len(report.problems) + report.more} problems")
    return Exit.NOTHING if report.problems else Exit.DONE


def _dump(options: argparse.Namespace) -> int:
    from broker.storage.dump import Dump
    from broker.storage.offline import Offline

    encode = msgspec.json.Encoder().encode_into
    out = sys.stdout.buffer
    line = bytearray()
    with _opened(options.path) as connection:
        store = Offline(connection)
        try:
            for one in Dump(store).lines():
                encode(one, line)
                line += b"\n"
                out.write(line)
            out.flush()
        except OSError as error:
            return unwritten(error)
        lost = {(one.lane, one.base): one for one in store.unreadable}
        for flaw in lost.values():
            last = flaw.base + flaw.count - 1
            _failed(
                Exit.NOTHING,
                f"lane {flaw.lane}, messages {flaw.base} to {last} cannot be read, and are left out: {flaw.reason}",
            )
    return Exit.NOTHING if lost else Exit.DONE


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """A connection to a file, or to a copy of one that a broker uses."""
    from broker.lock import InUse
    from broker.storage import live
    from broker.storage.offline import connected, locked

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except InUse:
            yield stack.enter_context(live.snapshot(path))
        else:
            yield stack.enter_context(connected(path))


def _load(options: argparse.Namespace) -> int:
    from broker.storage.load import Load
    from broker.storage.offline import Offline, connected, created, locked

    try:
        file = sys.stdin.buffer if options.file == "-" else open(options.file, "rb")  # noqa: SIM115
    except OSError as error:
        return _failed(Exit.UNREACHABLE, f"cannot read {options.file}: {error.strerror}")
    with file:
        progress = _Progress(file)
        if os.path.exists(options.path):
            with locked(options.path), connected(options.path, write=True) as connection:
                store = Offline(connection)
                load = Load(store, progress)
                load.take(_lines(file))
                store.finish()
        else:
            with created(options.path) as connection:
                store = Offline(connection)
                load = Load(store, progress)
                load.take(_lines(file))
                store.finish()
        progress.end()
    print(f"{load.messages} messages", file=sys.stderr)
    return Exit.DONE


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    from broker.storage.load import MAX_LINE

    while line := file.readline(MAX_LINE + 1):
        yield line


class _Progress:
    """How far a file is read, on a terminal."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size if file.seekable() else 0
        self._shown = sys.stderr.isatty()

    def __call__(self, messages: int) -> None:
        if self._shown:
            done = f"{100 * self._file.tell() // self._size:3d} %, " if self._size else ""
            print(f"\r{done}{messages} messages", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """All of it."""
        if self._shown:
            print(_LINE, end="", file=sys.stderr)


def _backup(options: argparse.Namespace) -> int:
    from broker.lock import InUse
    from broker.storage import live
    from broker.storage.offline import connected, copy, locked

    try:
        with locked(options.path), connected(options.path) as connection:
            size = copy(connection, options.destination)
    except InUse:
        size = live.copy(options.path, options.destination, _copied)
    print(f"{_LINE if sys.stderr.isatty() else ''}{size} bytes", file=sys.stderr)
    return Exit.DONE


def _copied(size: int) -> None:
    """How far a copy is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{size} bytes", end="", file=sys.stderr, flush=True)
