"""10,000 idle connections over the three fronts: memory each, processor time, and how others are served beside them.

    .venv/bin/python -m benchmarks.idle_connections [CONNECTIONS [SECONDS]]

A third each are memcache clients that have had an answer, STOMP clients that are connected without heart-beats, and
HTTP clients that keep their connection alive. Where the hard limit of open files allows fewer, that many are opened,
which is printed; under 4,000 it is no measurement. The processor's time is that of SECONDS (default 10) in which
nobody says anything; after that a probe sends pairs of set and get, one at a time, as it has done before.
"""

from __future__ import annotations

import http.client
import os
import re
import resource
import socket
import statistics
import sys
import time

from benchmarks.measuring import Folder, Memcache, Process, Row, frame, report

WANTED = 10_000
LEAST = 4_000
#: Files a process needs beside its connections and those it has open.
_OTHER_FILES = 100
#: Connections that are being made at a time: what a listener's backlog takes.
_AT_ONCE = 50
#: Goals. Stock Twisted's transport and protocol take about 8 KiB; 1 % of a processor for 1,000 connections.
MOST_BYTES = 24 * 1024
MOST_CPU = 0.10
PROBES = 500

_CONNECTIONS = re.compile(r'^broker_connections\{front="(\w+)"\} (\S+)$', re.MULTILINE)
_GREETINGS = {
    "memcache": (b"version\r\n", b"VERSION "),
    "stomp": (frame("CONNECT", {"accept-version": "1.2", "host": "here", "heart-beat": "0,0"}), b"CONNECTED\n"),
    "http": (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"HTTP/1.1 200 "),
}


def allowed(wanted: int) -> int:
    """As many connections as the hard limit of open files allows; the soft one is raised if need be, never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = len(os.listdir("/dev/fd")) + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted + others:
        return wanted
    most = wanted + others if hard == resource.RLIM_INFINITY else min(hard, wanted + others)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted + others:
        print(f"{most - others:,} connections: the hard limit of open files is {hard:,}")
    return most - others


def connect(ports: dict[str, int], count: int) -> list[socket.socket]:
    """So many connections, over each front in turn, all of them greeted."""
    opened: list[socket.socket] = []
    fronts = list(_GREETINGS)
    for first in range(0, count, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, count))
        for number in some:
            front = fronts[number % 3]
            opened.append(socket.create_connection(("127.0.0.1", ports[front]), timeout=30))
            opened[-1].sendall(_GREETINGS[front][0])
        for number in some:
            reply = opened[number].recv(4096)
            assert reply.startswith(_GREETINGS[fronts[number % 3]][1]), reply
    return opened


def probe(client: Memcache, count: int) -> list[float]:
    """Seconds of so many pairs of set and get, sorted."""
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        client.set_all(["probe"], b"x" * 100)
        client.get_all(["probe"], b"x" * 100)
        took.append(time.perf_counter() - begun)
    return sorted(took)


def connections(port: int) -> dict[str, int]:
    """How many the broker says it has, by front; the one that asks is not counted."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        asking.request("GET", "/metrics")
        said = asking.getresponse().read().decode()
    finally:
        asking.close()
    found = {front: int(float(value)) for front, value in _CONNECTIONS.findall(said)}
    return found | {"http": found["http"] - 1}


def measure(count: int, seconds: float, probes: int = PROBES) -> Row:
    """One run."""
    with Folder() as folder, Process(folder) as broker, Memcache(broker.ports["memcache"]) as client:
        alone = probe(client, probes)
        for one in connect(broker.ports, 30):  # what each front loads when it is first used
            one.close()
        before = broker.rss()
        opened = connect(broker.ports, count)
        try:
            each = (broker.rss() - before) / count
            begun, cpu = time.monotonic(), broker.cpu()
            time.sleep(seconds)
            share = (broker.cpu() - cpu) / (time.monotonic() - begun)
            beside = probe(client, probes)
            there = connections(broker.ports["http"])
        finally:
            for one in opened:
                one.close()
    return {
        "connections": count,
        **{f"{front} left": left - (front == "memcache") for front, left in there.items()},
        "KiB each": round(each / 1024, 2),
        "idle CPU %": round(share * 100, 2),
        "probe p50 ms alone": _ms(alone, 0.5),
        "beside": _ms(beside, 0.5),
        "p99 ms alone": _ms(alone, 0.99),
        "beside ": _ms(beside, 0.99),
        "ratio p50": round(statistics.median(beside) / statistics.median(alone), 2),
    }


def _ms(took: list[float], share: float) -> float:
    return round(took[int(len(took) * share)] * 1e3, 2)


def missed(row: Row) -> list[str]:
    """The goals that were not reached."""
    said = []
    if float(str(row["KiB each"])) * 1024 > MOST_BYTES:
        said.append(f"{row['KiB each']} KiB a connection")
    if float(str(row["idle CPU %"])) > MOST_CPU * 100:
        said.append(f"{row['idle CPU %']} % of a processor while idle")
    return said


def main() -> int:
    """Run, unless too few connections are allowed."""
    count = allowed(int(sys.argv[1]) if len(sys.argv) > 1 else WANTED)
    if count < LEAST:
        print(f"{count:,} connections are too few: raise the hard limit of open files", file=sys.stderr)
        return 1
    row = measure(count, float(sys.argv[2]) if len(sys.argv) > 2 else 10.0)
    return report("idle_connections", [row], missed(row))


if __name__ == "__main__":
    raise SystemExit(main())
