"""What a backlog costs: one queue of 5,000,000 messages, 100,000 queues of 10, and 1,000 queues of which one is slow.

    .venv/bin/python -m benchmarks.queue_sizes [SHARE [CASE...]]        SHARE: of these sizes, 1 if it is not said

Bodies have 100 bytes, queues are durable, in SQLite with sync=full. The first two find their messages in the file, as
an earlier run left them (`benchmarks.prepare`), and everything else goes through the fronts. The third case is a topic
that 1,000 queues are bound to; 999 of them are read by one STOMP connection, nobody reads the last.

Goals: no more memory than idle + 64 MiB + 2 KiB for each queue touched in the last minute, and 100,000 queues are
loaded in 1 s and 100 MB. Rates are told beside those of the same work where 1,000 messages wait, in the same process
and by turns: only their ratio says something. A start is timed from exec to the first message delivered, after
SIGTERM and after SIGKILL.
"""

from __future__ import annotations

import http.client
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.measuring import MIB, ROOT, Folder, Memcache, Process, Row, Stomp, fill, frame, mib, report

BODY = b"x" * 100
MESSAGES = 5_000_000
QUEUES, EACH = 100_000, 10
READERS, SLOW = 1_000, 200_000
#: What so many queues may take when they are loaded (bytes).
LOADED = 100e6
#: What the other side of each comparison has waiting.
BESIDE = 1_000
#: Messages put and taken by each side, in each of `ROUNDS` rounds.
RATE = 20_000
ROUNDS = 3

Rates = dict[str, list[float]]


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


class Run:
    """A broker over a case's messages, and what is measured of it."""

    def __init__(self, folder: Path, case: str) -> None:
        self.folder = folder
        self.row: dict[str, object] = {"case": case}
        self._start()
        self.client.set_all(["idle"], BODY)
        self.client.get_all(["idle"], BODY)
        self.empty_start = time.monotonic() - self.broker.started
        self.idle = self.broker.rss()

    def _start(self) -> None:
        self.broker = Process(self.folder)
        self.client = Memcache(self.broker.ports["memcache"])

    def prepare(self, queues: int, each: int) -> None:
        """Start anew over a file that holds so much already."""
        self.end()
        for file in self.folder.glob("broker.sqlite*"):
            file.unlink()
        command = [
            sys.executable,
            "-m",
            "benchmarks.prepare",
            str(self.folder / "broker.sqlite"),
            str(queues),
            str(each),
        ]
        subprocess.run(command, cwd=ROOT, check=True, timeout=600)
        self._start()
        self.row["messages"] = queues * each

    def fill(self, queues: Iterable[str]) -> None:
        """One message to each of these."""
        fill(self.broker.ports["memcache"], queues, BODY)

    def rates(self, sides: dict[str, Callable[[], list[str]]], count: int) -> None:
        """Put into, and take from, the queues that each side names: `count` messages a round, by turns."""
        put: Rates = {side: [] for side in sides}
        take: Rates = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, queues in sides.items():
                names = queues()
                put[side].append(count / _timed(lambda names=names: self.client.set_all(names, BODY)))  # type: ignore[misc]
                take[side].append(count / _timed(lambda names=names: self.client.get_all(names, BODY)))  # type: ignore[misc]
        self.compare("put", put)
        self.compare("take", take)

    def compare(self, what: str, rates: Rates) -> None:
        """The rates of the case, and of where 1,000 wait."""
        medians = {side: statistics.median(each) for side, each in rates.items()}
        self.row |= {
            f"{what}/s": round(medians["case"]),
            f"beside 1,000: {what}/s": round(medians["beside"]),
            f"{what} ratio": round(medians["case"] / medians["beside"], 2),
        }

    def memory(self, touched: int, loaded: float = 0) -> None:
        """The most memory so far, beside what it may be with so many queues touched in the last minute.

        `loaded`: what the queues that are there may take at a start (bytes); they are no part of an empty broker.
        """
        self.row |= {
            "idle MiB": mib(self.idle),
            "over idle MiB": mib(self.broker.peak() - self.idle),
            "goal MiB": mib(64 * MIB + 2048 * touched + loaded),
        }

    def disk(self) -> None:
        """Bytes on disk, all together and for each message."""
        size = self.broker.disk()
        self.row |= {"disk MiB": mib(size), "disk bytes each": round(size / int(str(self.row["messages"])))}

    def starts(self, queue: str) -> None:
        """Two starts over what is there, timed to the first delivery."""
        for name, how in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
            self.client.close()
            self.broker.end(how)
            self.broker = Process(self.folder)
            self.client = Memcache(self.broker.ports["memcache"])
            self.client.get_all([queue], BODY)
            self.row[f"start after {name} s"] = round(time.monotonic() - self.broker.started, 2)
        self.row["empty start s"] = round(self.empty_start, 2)
        self.row["started over idle MiB"] = mib(self.broker.rss() - self.idle)

    def end(self) -> None:
        """Stop the broker."""
        self.client.close()
        self.broker.end(signal.SIGKILL)


# -- the cases


def one_queue(run: Run, messages: int, rate: int) -> str:
    """All in one queue; its name."""
    run.prepare(1, messages)
    run.fill(["shallow"] * BESIDE)
    run.rates({"beside": lambda: ["shallow"] * rate, "case": lambda: ["q0"] * rate}, rate)
    run.memory(touched=2)
    run.disk()
    return "q0"


def many_queues(run: Run, queues: int, rate: int) -> str:
    """Ten in each of many; the other side works on a hundred of them. The name of one."""
    run.prepare(queues, EACH)
    few = min(BESIDE // EACH, queues)
    step = max(queues // rate, 1)
    everywhere = [f"q{n * step % queues}" for n in range(rate)]
    run.rates({"beside": lambda: [f"q{n % few}" for n in range(rate)], "case": lambda: everywhere}, rate)
    run.memory(touched=min(rate, queues), loaded=LOADED * queues / QUEUES)
    run.disk()
    run.row["started goal MB"] = LOADED / 1e6
    return "q7"


def one_slow(run: Run, readers: int, backlog: int, rate: int) -> str:
    """A topic whose readers keep up, but for one; the other side's slow one has 1,000 waiting. The slow one's name."""
    backlogs = {"beside": BESIDE, "case": backlog}
    control = http.client.HTTPConnection("127.0.0.1", run.broker.ports["http"], timeout=60)
    for side, waiting in backlogs.items():
        _bind(control, f"{side}-slow", side)
        run.fill([f"/topic/{side}"] * waiting)
    run.row["messages"] = backlog + BESIDE
    fast = {side: _fast(run, control, side, readers - 1) for side in backlogs}
    rounds = max(rate // readers, 20)
    delivered: Rates = {side: [] for side in backlogs}
    for _ in range(ROUNDS):
        for side in backlogs:
            took = _timed(lambda side=side: _round(run, fast[side], side, rounds, readers - 1))  # type: ignore[misc]
            delivered[side].append(rounds * (readers - 1) / took)
            backlogs[side] += rounds
    run.compare("delivered", delivered)
    control.close()  # idle for a minute, perhaps; the next request opens it again
    for side, waiting in backlogs.items():
        assert _waiting(control, f"{side}-slow") == waiting
        fast[side].close()
    run.row["backlog at the end"] = backlogs["case"]
    run.memory(touched=2 * readers)
    run.disk()
    control.close()
    return "case-slow"


def _bind(control: http.client.HTTPConnection, queue: str, topic: str) -> None:
    control.request("PUT", f"/channels/{queue}/topics/{topic}")
    reply = control.getresponse()
    reply.read()
    assert reply.status == 204, reply.status


def _waiting(control: http.client.HTTPConnection, queue: str) -> int:
    control.request("GET", f"/channels/{queue}/stats")
    return int(json.loads(control.getresponse().read())["ready"])


def _fast(run: Run, control: http.client.HTTPConnection, topic: str, count: int) -> Stomp:
    """A connection that reads `count` further queues bound to `topic`."""
    for n in range(count):
        _bind(control, f"{topic}-{n}", topic)
    reader = Stomp(run.broker.ports["stomp"])
    wishes = [frame("SUBSCRIBE", {"destination": f"/queue/{topic}-{n}", "id": str(n)}) for n in range(count)]
    reader.socket.sendall(b"".join(wishes) + frame("SEND", {"destination": "/queue/idle", "receipt": "r"}))
    assert reader.read()[0] == "RECEIPT"
    return reader


def _round(run: Run, reader: Stomp, topic: str, messages: int, readers: int) -> None:
    """Publish, and see everything delivered to those that read; bodies hold no zero, so frames can be counted."""
    run.client.socket.sendall(b"set /topic/%b 0 0 %d\r\n%b\r\n" % (topic.encode(), len(BODY), BODY) * messages)
    missing = messages * readers
    while missing:
        data = reader.socket.recv(1 << 18)
        missing -= data.count(b"\0")
        assert missing >= 0
        assert data
    run.client.expect(b"STORED\r\n" * messages)


CASES: dict[str, Callable[[Run, float], str]] = {
    "one queue": lambda run, share: one_queue(run, math.ceil(MESSAGES * share), _rate(share)),
    "many queues": lambda run, share: many_queues(run, math.ceil(QUEUES * share), _rate(share)),
    "one slow": lambda run, share: one_slow(
        run, max(math.ceil(READERS * share), 10), math.ceil(SLOW * share), 10 * _rate(share)
    ),
}


def _rate(share: float) -> int:
    return max(min(RATE, math.ceil(20 * RATE * share)), 200)


def measure(case: str, share: float, *, restarted: bool = True) -> Row:
    """One case, at a share of its size."""
    with Folder() as folder:
        run = Run(folder, case)
        try:
            queue = CASES[case](run, share)
            if restarted:
                run.starts(queue)
        finally:
            run.end()
        return run.row


def missed(row: Row) -> list[str]:
    """The goals of memory that a case did not reach."""
    said = []
    figure = {name: float(str(value)) for name, value in row.items() if isinstance(value, int | float)}
    if figure["over idle MiB"] > figure["goal MiB"]:
        said.append(f"{row['case']}: {row['over idle MiB']} MiB over idle, of {row['goal MiB']}")
    if "started goal MB" in figure and figure.get("started over idle MiB", 0) * MIB > figure["started goal MB"] * 1e6:
        said.append(f"{row['case']}: {row['started over idle MiB']} MiB over idle after a start")
    return said


def slow(row: Row) -> list[str]:
    """The goals of time that a case did not reach."""
    said = []
    for name in ("start after SIGTERM s", "start after SIGKILL s"):
        if "started goal MB" in row and float(str(row[name])) - float(str(row["empty start s"])) > 1:
            said.append(f"{row['case']}: {name} is {row[name]}, of an empty one {row['empty start s']}")
    return said


def main() -> int:
    """All cases, or those that are named."""
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rows = []
    for case in sys.argv[2:] or CASES:
        rows.append(measure(case, share))
        print(f"{case}: done", file=sys.stderr)
    return report("queue_sizes", rows, [miss for row in rows for miss in (*missed(row), *slow(row))])


if __name__ == "__main__":
    raise SystemExit(main())
