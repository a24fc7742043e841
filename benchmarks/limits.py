"""What the broker takes when much waits, at its start, and when nothing happens: one number for each."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import idle_connections
from benchmarks.cases import Load
from benchmarks.measuring import MIB, Folder
from benchmarks.peers import Broker
from benchmarks.running import How, begin, end

Row = dict[str, Any]
BODY = b"x" * 100


def waiting(how: How, backlog: int) -> list[Row]:
    """Memory while messages of 100 bytes wait in one durable queue, and how soon after a restart the first comes."""
    with Folder() as folder:
        with Broker(folder) as server:
            end(begin(how, server, Load("memcache", "both=10 depth=8 queue=warm count=5000")), how)
            before = server.rss()
            begun = time.monotonic()
            fill = Load("memcache", f"puts=8 depth=256 queue=full count={backlog} seconds=300", "puts")
            found = end(begin(how, server, fill), How(seconds=120))
            filled = time.monotonic() - begun
            grown = (server.rss() - before) / MIB
            server.end()  # as if the machine had failed
        again = [_first(folder) for _ in range(3)]
    return [
        {
            "what": f"memory for {found['puts']:,} messages that wait",
            "value": round(grown, 1),
            "unit": "MiB",
            "must": 64,
            "aim": 32,
        },
        {
            "what": "restart with them until the first is delivered",
            "value": round(sorted(again)[1], 2),
            "unit": "s",
            "must": 1,
            "aim": 0.7,
        },
        {"what": "filling", "value": round(found["puts"] / filled), "unit": "messages/s"},
    ]


def _first(folder: Any) -> float:
    """Seconds from the start of the process until a message has come."""
    begun = time.monotonic()
    with Broker(folder) as server:
        with socket.create_connection(("127.0.0.1", server.ports["memcache"]), timeout=30) as client:
            client.sendall(b"get full\r\n")
            said = client.makefile("rb").readline()
        passed = time.monotonic() - begun
        if not said.startswith(b"VALUE"):
            raise RuntimeError(f"after a restart the broker said {said!r}")
    return passed


def idle(how: How, backlog: int) -> list[Row]:
    """The processor time of a broker with a thousand connections of which none says anything."""
    row = idle_connections.measure(idle_connections.allowed(1_000), 5.0, probes=20)
    return [
        {
            "what": f"idle, with {row['connections']:,} connections",
            "value": row["idle CPU %"],
            "unit": "% of a processor",
            "must": 1,
            "aim": 0.2,
        },
        {"what": "memory of a connection", "value": row["KiB each"], "unit": "KiB"},
    ]


def start(how: How, backlog: int) -> list[Row]:
    """From the start of the process until all three fronts accept connections, and its memory then."""
    took, memory = [], 0.0
    for _ in range(5):
        with Folder() as folder:
            begun = time.monotonic()
            with Broker(folder) as server:
                took.append(time.monotonic() - begun)
                memory = server.rss() / MIB
    return [
        {"what": "start until it accepts connections", "value": round(sorted(took)[2], 2), "unit": "s", "must": 0.7},
        {"what": "memory of an idle broker", "value": round(memory, 1), "unit": "MiB", "must": 80},
    ]


#: By name: what is measured, and how.
LIMITS: Mapping[str, tuple[str, Callable[[How, int], list[Row]]]] = {
    "waiting": ("messages that wait", waiting),
    "idle": ("idle connections", idle),
    "start": ("the start", start),
}
