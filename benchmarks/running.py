"""Runs the cases: servers up, generators at them by turns, and what both took."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import peers
from benchmarks.cases import Against, Case, Comparison, Latency, Load, Mixed, Point, Sweep
from benchmarks.measuring import MIB, ROOT, Folder
from benchmarks.peers import Broker, NotThere, Server

SOURCE = ROOT / "benchmarks" / "generator.c"
#: Shares of the highest rate at which latency is measured.
SHARES = (10, 50, 90)
#: The share of a processor from which on the generator was perhaps the limit.
BUSY = 0.9
#: Messages that are published one by one while syncs are counted.
COUNTED = 100

Row = dict[str, Any]


@attrs.frozen
class How:
    """How long, and how often."""

    seconds: float = 2.0
    rounds: int = 3
    #: The generator, compiled.
    generator: Path = Path()


def compiled(folder: Path) -> Path:
    """The generator; raises `NotThere`."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NotThere("a C compiler is needed for the load generator; this mends it: apt-get install gcc libc6-dev")
    program = folder / "generator"
    done = subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True)
    if done.returncode:
        raise NotThere(f"the load generator does not compile: {done.stderr}")
    return program


# -- one run


def begin(how: How, server: Server, load: Load) -> subprocess.Popen[bytes]:
    """Start a generator; a setting of the load stands over that of `how`."""
    port = server.ports[load.protocol]
    settings = {"seconds": str(how.seconds), "count": "100000000"}
    settings |= dict(word.split("=", 1) for word in load.settings.split())
    words = [f"{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [str(how.generator), load.protocol, f"port={port}", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(running: subprocess.Popen[bytes], how: How) -> Row:
    """Its input ends here; what it says. Raises `NotThere` if the server did not do what was asked."""
    try:
        said, wrong = running.communicate(timeout=how.seconds * 3 + 60)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        raise NotThere("it did not end in time") from None
    if not said:
        raise NotThere(wrong.decode(errors="replace").strip()[-300:])
    found: Row = json.loads(said)
    if found["errors"]:
        raise NotThere(f"{found['errors']} errors: {wrong.decode(errors='replace').strip()[-300:]}")
    return found


def once(how: How, server: Server, load: Load) -> Row:
    """One run: the rate, what the server and the generator took, latencies in milliseconds."""
    running = begin(how, server, attrs.evolve(load, settings=f"{load.settings} hold=1"))
    assert running.stdout is not None
    if running.stdout.readline():  # else it could not connect, and `end` says so
        _settle(server)
    own, kernel = server.cpu_parts()
    begun = time.monotonic()
    found = end(running, how)
    passed = time.monotonic() - begun
    own, kernel = (after - before for after, before in zip(server.cpu_parts(), (own, kernel), strict=True))
    done = found["puts"] + found["takes"] if load.counts == "both" else found[load.counts]
    if not done:
        raise NotThere("it did nothing in time")
    row: Row = {
        "rate": done / max(found["seconds"], 1e-6),
        "cpu_us": (own + kernel) / done * 1e6,
        "kernel_us": kernel / done * 1e6,
        "server_share": (own + kernel) / passed,
        "generator_share": found["cpu"] / passed,
        "rss_mib": server.rss() / MIB,
        "cut": found["cut"],
    }
    for work in ("put", "take"):
        if work in found:
            row[work] = {name: value / 1e3 for name, value in found[work].items()}
    return row


def _settle(server: Server) -> None:
    """Wait until the server has done with connections that came: they are not counted with the messages.

    A thousand of them take a tenth of a second. Some servers are never quite at rest.
    """
    cpu = -1.0
    for _ in range(20):
        if cpu == (cpu := server.cpu()):
            return
        time.sleep(0.05)


def middle(rows: Sequence[Row]) -> Row:
    """The medians of several runs."""
    found: Row = {"rates": [round(row["rate"]) for row in rows]}
    for name in ("rate", "cpu_us", "kernel_us", "server_share", "generator_share", "rss_mib"):
        found[name] = _round(statistics.median(row[name] for row in rows))
    for work in ("put", "take"):
        if times := [row[work] for row in rows if work in row]:
            found[work] = {name: _round(statistics.median(one[name] for one in times)) for name in times[0]}
    return found


def _round(value: float) -> float:
    return float(f"{value:.4g}")


# -- cases


def run(case: Case, how: How, say: Callable[[str], None]) -> list[Row]:
    """The rows of a case."""
    match case:
        case Comparison():
            return _compared(case, how, say)
        case Sweep():
            return _swept(case, how)
        case Mixed():
            return _mixed(case, how)
        case Latency():
            return _latencies(case, how, say)


@contextlib.contextmanager
def up(kinds: Sequence[type[Server]], say: Callable[[str], None]) -> Iterator[dict[type[Server], Server]]:
    """These servers, running; those that cannot be had are left out."""
    with contextlib.ExitStack() as running:
        there: dict[type[Server], Server] = {}
        for kind in kinds:
            try:
                there[kind] = running.enter_context(kind(running.enter_context(Folder())))
            except NotThere as error:
                say(str(error))
        yield there


def _compared(case: Comparison, how: How, say: Callable[[str], None]) -> list[Row]:
    sides = [Against(case.server, case.ours), *case.against]
    rows: dict[type[Server], list[Row]] = {side.server: [] for side in sides}
    with up([side.server for side in sides], say) as there:
        for turn in range(how.rounds + 1):
            for side in sides:
                if (server := there.get(side.server)) is None:
                    continue
                try:
                    # the first is for caches, files and compilers to be warm, and short
                    found = once(attrs.evolve(how, seconds=0.3) if not turn else how, server, side.load)
                except NotThere as error:
                    say(f"{side.server.name}: {error}")
                    del there[side.server]
                    continue
                if turn:
                    rows[side.server].append(found)
    said: list[Row] = []
    ours = rows[case.server]
    for side in sides:
        if not (theirs := rows[side.server]):
            continue
        row: Row = {"server": side.server.name, "load": f"{side.load.protocol} {side.load.settings}", **middle(theirs)}
        if side.server is not case.server and ours:
            ratios = [
                our["rate"] / their["rate"] for our, their in zip(ours, theirs, strict=False)
            ]  # one may have broken off
            row["ratio"] = _round(statistics.median(ratios))
            row |= {name: value for name, value in (("must", side.must), ("aim", side.aim)) if value}
        said.append(row)
    return said


def _swept(case: Sweep, how: How) -> list[Row]:
    found: dict[int, list[Row]] = {point.x: [] for point in case.points}
    rounds = max(1, how.rounds - 1)
    with up([case.server], _refuse) as there:
        server = there[case.server]
        for point in case.points:
            _prepare(server, point, how)
            _warm(server, point, how)
        for turn in range(rounds):
            for point in case.points if turn % 2 == 0 else reversed(case.points):
                if turn and point.waiting and "puts=" not in point.load.settings and "both=" not in point.load.settings:
                    _prepare(server, point, how)  # what waited was taken
                found[point.x].append(once(how, server, point.load))
    return [{"x": x, "server": case.server.name, **middle(rows)} for x, rows in found.items()]


def _warm(server: Server, point: Point, how: How) -> None:
    """A short run for caches, files and compilers to be warm; every queue that the point uses is made by it.

    Each is sent to twice: a server may remember what comes a second time.

    What only takes is not run: it would take what is prepared for the measurement.
    """
    settings = dict(word.split("=", 1) for word in point.load.settings.split())
    if {"puts", "both"} & set(settings):
        once(attrs.evolve(how, seconds=0.3), server, point.load)
    if queues := int(settings.get("queues", 0)):
        every = attrs.evolve(point.load, settings=f"{point.load.settings} count={2 * queues} seconds=30")
        once(how, server, every)


def _prepare(server: Server, point: Point, how: How) -> None:
    """Let so many wait in the point's queue, and so many queues be bound to its topic."""
    settings = dict(word.split("=", 1) for word in point.load.settings.split())
    if point.waiting:
        queue = settings.get("queue", "bench").removeprefix("/queue/")
        fill = Load("memcache", f"puts=8 depth=256 queue={queue} count={point.waiting} seconds=120", "puts")
        end(begin(how, server, fill), attrs.evolve(how, seconds=60))
    if point.bound:
        topic = settings["queue"].removeprefix("/topic/")
        asking = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=30)
        for number in range(point.bound):
            asking.request("PUT", f"/channels/{topic}-{number}/topics/{topic}")
            asking.getresponse().read()
        asking.close()


def _mixed(case: Mixed, how: How) -> list[Row]:
    rows: list[list[Row]] = []
    with up([Broker], _refuse) as there:
        server = there[Broker]
        for _ in range(how.rounds):
            cpu, begun = server.cpu(), time.monotonic()
            running = [begin(how, server, load) for load in case.loads]
            found = [end(one, how) for one in running]
            passed = time.monotonic() - begun
            cpu = server.cpu() - cpu
            turn: list[Row] = []
            for load, one in zip(case.loads, found, strict=True):
                done = one["puts"] + one["takes"] if load.counts == "both" else one[load.counts]
                turn.append(
                    {
                        "rate": done / max(one["seconds"], 1e-6),
                        "cpu_us": 0.0,
                        "kernel_us": 0.0,
                        "server_share": cpu / passed,
                        "generator_share": one["cpu"] / passed,
                        "rss_mib": server.rss() / MIB,
                        **{
                            work: {name: value / 1e3 for name, value in one[work].items()}
                            for work in ("put", "take")
                            if work in one
                        },
                    }
                )
            rows.append(turn)
    said: list[Row] = []
    for place, load in enumerate(case.loads):
        row = middle([turn[place] for turn in rows])
        del row["cpu_us"], row["kernel_us"]
        said.append({"server": Broker.name, "load": f"{load.protocol} {load.settings}", **row})
    return said


def _latencies(case: Latency, how: How, say: Callable[[str], None]) -> list[Row]:
    said: list[Row] = []
    with up([kind for kind, _ in case.sides], say) as there:
        for kind, load in case.sides:
            if (server := there.get(kind)) is None:
                continue
            try:
                once(attrs.evolve(how, seconds=0.3), server, load)
                highest = statistics.median(once(how, server, load)["rate"] for _ in range(how.rounds))
                for share in SHARES:
                    at = attrs.evolve(load, settings=f"{load.settings} rate={highest * share / 100:.0f}")
                    row = middle([once(how, server, at)])
                    said.append({"server": kind.name, "x": share, "highest": round(highest), **row})
            except NotThere as error:
                say(f"{kind.name}: {error}")
    return said


def _refuse(why: str) -> None:
    raise NotThere(why)


# -- syncs


def synced(kind: type[Server], load: Load, how: How) -> Row:
    """How often a server called the kernel to write to the disk while messages were published one by one."""
    if (strace := shutil.which("strace")) is None:
        raise NotThere("strace is needed to count syncs; this mends it: apt-get install strace")
    with Folder() as folder, kind(folder) as server, Folder() as beside:
        end(begin(how, server, attrs.evolve(load, settings=f"{load.settings} count=20")), how)
        time.sleep(1.0)  # what it does by itself after its start
        trace = beside / "trace"
        calls = "trace=fsync,fdatasync,msync,sync_file_range"
        pids = [word for one in server.processes() for word in ("-p", str(one))]
        tracing = subprocess.Popen(
            [strace, "-f", "-qq", "-e", calls, "-o", str(trace), *pids],
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.5)
            end(begin(how, server, attrs.evolve(load, settings=f"{load.settings} count={COUNTED} seconds=20")), how)
            time.sleep(0.2)
        finally:
            tracing.send_signal(signal.SIGINT)
            tracing.wait(10)
        lines = [line for line in trace.read_text().splitlines() if "resumed" not in line and "(" in line]
        return {"server": kind.name, "durability": kind.durability, "messages": COUNTED, "syncs": len(lines)}


#: How each is asked for a message at a time.
ONE_BY_ONE: Sequence[tuple[type[Server], Load]] = (
    (peers.Broker, Load("memcache", "puts=1")),
    (peers.NormalBroker, Load("memcache", "puts=1")),
    (peers.Beanstalkd, Load("beanstalk", "puts=1")),
    (peers.Redis, Load("redis", "puts=1")),
    (peers.RabbitMQ, Load("stomp", "extra=persistent:true login=guest passcode=guest puts=1 queue=/queue/one")),
    (peers.ActiveMQ, Load("stomp", "extra=persistent:true puts=1 queue=/queue/one")),
    (peers.CoilMQ, Load("stomp", "versions=1.1 puts=1 queue=/queue/one")),
    (peers.Linger, Load("http", "puts=1")),
)


def all_synced(how: How, say: Callable[[str], None]) -> list[Row]:
    """The syncs of every server that can be had."""
    said: list[Row] = []
    for kind, load in ONE_BY_ONE:
        try:
            said.append(synced(kind, load, how))
        except NotThere as error:
            say(f"{kind.name}: {error}")
    return said


def warn(line: str) -> None:
    """To standard error, at once."""
    print(line, file=sys.stderr, flush=True)
