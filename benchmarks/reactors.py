"""The lean reactor beside Twisted's own: requests per second, and what each costs in processor time and system calls.

    .venv/bin/python -m benchmarks.reactors [SECONDS [ROUNDS]]

The same servers on both, by turns, each measured for so many seconds in so many rounds; shown are medians. ``bare``
answers memcache sets and does nothing else: what the reactor itself costs. The others are the broker, in memory and
with a file (``sync = "normal"``). Every connection has one request under way. The generator is this process, and how
busy it was is shown; where that is near 100 % it was the limit, and the processor time per request is what counts.
System calls are counted in a run of their own, if there is strace.

Goal: on the lean reactor the bare server takes no more than 0.7 of the time, and nothing takes longer.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import attrs

from benchmarks.measuring import PATIENCE, ROOT, Folder, Process, Row, Stomp, frame, report
from broker.reactor import STOCK, install

#: The most a bare request may cost of what it costs on Twisted's reactor, and any other.
MOST_BARE = 0.7
MOST = 1.1
BODY = b"x" * 100
_SET = b"set q 0 0 100\r\n%b\r\n" % BODY
_STORED = b"STORED\r\n"
_GET = b"get q\r\n"
_VALUE = b"VALUE q 0 100\r\n%b\r\nEND\r\n" % BODY
_SEND = frame("SEND", {"destination": "/queue/q", "receipt": "r"}, BODY)
_RECEIPT = b"RECEIPT\nreceipt-id:r\n\n\0"
_POST = b"POST /channels/q HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n%b" % BODY


@attrs.frozen
class Case:
    """What is asked of which server."""

    name: str
    #: Of which of a broker's fronts; the bare server has one.
    front: str
    request: bytes
    #: How long the reply is, and how it begins.
    size: int
    begins: bytes
    connections: int


def _put(connections: int) -> Case:
    return Case("memcache set", "memcache", _SET, len(_STORED), _STORED, connections)


def _take(connections: int) -> Case:
    return Case("memcache get", "memcache", _GET, len(_VALUE), _VALUE, connections)


#: What each server is asked. A take follows the put that made the messages.
CASES = {
    "bare": [_put(10), _put(100)],
    "memory": [
        _put(10),
        _take(10),
        _put(100),
        _take(100),
        Case("STOMP SEND, receipt", "stomp", _SEND, len(_RECEIPT), b"RECEIPT", 10),
        Case("HTTP POST", "http", _POST, 0, b"HTTP/1.1 202", 10),
    ],
    "file": [_put(100), _take(100)],
}


def answer(at: int = 0) -> None:
    """The bare server. It prints its port and answers whatever comes as if it were sets, or gets of what was set."""
    install()
    from twisted.internet import reactor
    from twisted.internet.interfaces import ITCPTransport
    from twisted.internet.protocol import Factory, Protocol

    class Answering(Protocol):
        def connectionMade(self) -> None:
            assert ITCPTransport.providedBy(self.transport)
            self.transport.setTcpNoDelay(True)

        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(_STORED * data.count(b"set ") or _VALUE * data.count(b"get "))

    port: Any = reactor.listenTCP(at, cast(Any, Factory.forProtocol(Answering)), interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


class Bare(Process):
    """The bare server in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from benchmarks.reactors import answer; answer()"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.ports = {"memcache": int(self.process.stdout.readline())}


@contextlib.contextmanager
def serving(kind: str, stock: bool) -> Iterator[Process]:
    """A server on one of the two reactors, ready."""
    kept = os.environ.get(STOCK)
    os.environ[STOCK] = "1" if stock else "0"
    try:
        with Folder() as folder:
            options = ["--data=:memory:"] if kind == "memory" else ["--sync=normal"]
            with Bare() if kind == "bare" else Process(folder, options=options) as process:
                yield process
    finally:
        os.environ.pop(STOCK, None)
        if kept is not None:
            os.environ[STOCK] = kept


class Load:
    """Connections that ask again as soon as they are answered."""

    def __init__(self, case: Case, port: int) -> None:
        self._case = case
        self._size = case.size
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(case.connections):
            one = Stomp(port).socket if case.front == "stomp" else _connected(port)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._poll.register(one, select.EPOLLIN)

    def run(self, seconds: float = float("inf"), count: int = sys.maxsize) -> int:
        """Ask for so long, or so many times; the number of replies. Each is a single read, being small."""
        request, sockets, poll = self._case.request, self._sockets, self._poll
        asked = min(count, len(sockets))
        for one in list(sockets.values())[:asked]:
            one.send(request)
        answered = 0
        end = time.monotonic() + min(seconds, PATIENCE)
        while answered < asked:
            for fd, _ in poll.poll(PATIENCE):
                reply = sockets[fd].recv(4096)
                if len(reply) != self._size or not reply.startswith(self._case.begins):
                    self._check(reply)
                answered += 1
                if asked < count:
                    sockets[fd].send(request)
                    asked += 1
            if time.monotonic() > end:
                count = 0  # what is under way is answered
        return answered

    def _check(self, reply: bytes) -> None:
        """A reply of another size than the first ones: of HTTP it grows with the message's number."""
        if not reply.startswith(self._case.begins) or (self._case.size and len(reply) != self._case.size):
            raise RuntimeError(f"the server said {reply[:200]!r}")
        self._size = len(reply)

    def close(self) -> None:
        """Hang up."""
        self._poll.close()
        for one in self._sockets.values():
            one.close()


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            result = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:  # bound, and not open yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            result.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return result


@attrs.frozen
class Measured:
    """One run of one case."""

    rate: float
    #: Processor time of the server per request (us).
    cost: float
    #: Of a processor, how much the generator used.
    busy: float
    answered: int


def measure(case: Case, process: Process, seconds: float, count: int = sys.maxsize) -> Measured:
    """Ask a server for so long, or until it has answered so often."""
    load = Load(case, process.ports[case.front])
    try:
        load.run(count=case.connections)  # everybody is known
        cost, busy, begun = process.cpu(), _used(), time.monotonic()
        answered = load.run(seconds, count)
        took = time.monotonic() - begun
        cost, busy = process.cpu() - cost, _used() - busy
    finally:
        load.close()
    return Measured(answered / took, 1e6 * cost / answered, busy / took, answered + case.connections)


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(kind: str, stock: bool, seconds: float) -> list[Measured]:
    """All that one server is asked, once."""
    measured: list[Measured] = []
    with serving(kind, stock) as process:
        for case in CASES[kind]:
            if case.request is _GET:
                # No more than is there: some are asked for before it counts.
                measured.append(measure(case, process, PATIENCE, measured[-1].answered - case.connections))
            else:
                measured.append(measure(case, process, seconds))
    return measured


def system_calls(kind: str, case: Case, stock: bool, count: int) -> float | None:
    """How many a request takes; None: that cannot be counted here."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    with serving(kind, stock) as process, Folder() as folder:
        load = Load(case, process.ports[case.front])
        load.run(count=case.connections)
        attached = [strace, "-c", "-o", str(folder / "counted"), "-p", str(process.process.pid)]
        with subprocess.Popen(attached, stderr=subprocess.PIPE) as tracing:
            assert tracing.stderr is not None
            said = tracing.stderr.readline()  # that it is attached, or that it may not
            answered = load.run(count=count)
            load.close()
            tracing.send_signal(signal.SIGINT)
        if b"attached" not in said:
            return None
        counted = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+)", (folder / "counted").read_text(), re.MULTILINE)
        return round(sum(map(int, counted[:-1])) / answered, 2)  # the last line is the total


def missed(rows: list[Row]) -> list[str]:
    """What was no better than it is to be."""
    said = []
    for row in rows:
        most = MOST_BARE if row["server"] == "bare" else MOST
        if float(str(row["us lean"])) > most * float(str(row["us stock"])):
            said.append(f"{row['server']}, {row['request']}, {row['connections']} connections: more than {most} of it")
    return said


def main(seconds: float, rounds: int) -> int:
    """All of it."""
    found: dict[tuple[str, int, bool], list[Measured]] = defaultdict(list)
    for _ in range(rounds):
        for kind in CASES:
            for stock in (True, False):
                for number, one in enumerate(run(kind, stock, seconds)):
                    found[kind, number, stock].append(one)
    rows: list[Row] = []
    for kind, cases in CASES.items():
        for number, case in enumerate(cases):
            row: dict[str, object] = {"server": kind, "request": case.name, "connections": case.connections}
            rate, cost = {}, {}
            for stock, name in ((True, "stock"), (False, "lean")):
                runs = found[kind, number, stock]
                rate[name] = statistics.median(one.rate for one in runs)
                cost[name] = statistics.median(one.cost for one in runs)
            row |= {f"{name}/s": round(value) for name, value in rate.items()}
            row["times"] = round(rate["lean"] / rate["stock"], 2)
            row |= {f"us {name}": round(value, 1) for name, value in cost.items()}
            row["of it"] = round(cost["lean"] / cost["stock"], 2)
            row["generator"] = f"{100 * max(one.busy for one in found[kind, number, False]):.0f} %"
            if case.connections == 10 and case.request is not _GET:
                row["calls stock"] = system_calls(kind, case, True, 2_000)
                row["calls lean"] = system_calls(kind, case, False, 2_000)
            rows.append(row)
    return report("reactors", rows, missed(rows))


if __name__ == "__main__":
    given = sys.argv[1:] + ["1", "3"][len(sys.argv) - 1 :]
    sys.exit(main(float(given[0]), int(given[1])))
