"""What the commonest operations cost, in numbers that do not depend on the machine.

A broker in another process counts (`counted`) what it asks of the kernel for its sockets, of SQLite, of the disk and of
Python, while a client does the same thing again and again, one at a time. `LIMITS` is what was counted when the table
was made; `TOLERANCE` is allowed beyond. Whoever makes something cheaper lowers its line, or the gain is lost unseen;
whoever makes it dearer says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BODY = b"x" * 100
TOLERANCE = 1.25
#: Added to each limit: timers and the odd wake-up.
SLACK = 0.05
STOCK = os.environ.get("BROKER_STOCK_REACTOR", "0") not in ("", "0")
#: How often each is done for one mean, how many are in one write where they are pipelined, to how many a topic fans
#: out, and of how many means the least counts.
ROUNDS = 10
PIPELINE = 50
FAN = 10
MEANS = 3
#: Seconds after which an answer is waited for no longer.
PATIENCE = 60

#: Per message: calls of the kernel that the reactor's thread makes for sockets (polls, changes, transfers), statements
#: and steps of SQLite, bytes written to files, calls of and in Python, blocks of memory that stay.
#: What is settled rides along in the next commit; how many share one depends on the disk, so that gets are given as
#: much as they take if each has one to itself. So has what is leased, if the client takes its time to settle it.
LIMITS: dict[str, dict[str, float]] = {
    "memcache set": {"kernel": 4, "statements": 3, "steps": 16, "written": 4136, "calls": 355, "blocks": 8},
    "memcache get": {"kernel": 4, "statements": 3, "steps": 16, "written": 4136, "calls": 371, "blocks": 10},
    "memcache sets in one write": {"kernel": 0.08, "statements": 0.06, "steps": 0.32, "written": 413, "calls": 41},
    "memcache sets of many connections": {
        "kernel": 2.1,
        "statements": 0.12,
        "steps": 0.64,
        "written": 495,
        "calls": 147,
    },
    "memcache gets in one write": {"kernel": 0.08, "statements": 0.12, "steps": 0.64, "written": 100, "calls": 121},
    "STOMP SEND": {"kernel": 4, "statements": 3, "steps": 16, "written": 4136, "calls": 361, "blocks": 8},
    "STOMP SENDs in one write": {"kernel": 0.08, "statements": 0.06, "steps": 0.32, "written": 413, "calls": 45},
    "STOMP SENDs to many queues in one write": {
        "kernel": 0.08,
        "statements": 0.06,
        "steps": 0.32,
        "written": 413,
        "calls": 88,
    },
    "STOMP message sent, delivered, acked": {
        "kernel": 0.22,
        "statements": 0.24,
        "steps": 1.3,
        "written": 660,
        "calls": 163,
    },
    "STOMP delivery of a fan-out": {"kernel": 0.13, "statements": 0, "steps": 0, "written": 1, "calls": 10},
    "HTTP POST": {"kernel": 4, "statements": 3, "steps": 16, "written": 4137, "calls": 556, "blocks": 8},
    "HTTP GET and DELETE": {"kernel": 8, "statements": 6, "steps": 33, "written": 8500, "calls": 1029, "blocks": 10},
    "HTTP batch posted, leased, acked": {
        "kernel": 0.24,
        "statements": 0.24,
        "steps": 1.28,
        "written": 907,
        "calls": 283,
    },
    "HTTP batch that several wait for": {
        "kernel": 1.4,
        "statements": 0.72,
        "steps": 3.84,
        "written": 1567,
        "calls": 469,
    },
}


class Counted:
    """A broker that counts; a context manager."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.costs.counted", "-n", "--pidfile=", "--logfile=-", "broker"]
        self.process = subprocess.Popen(
            [*command, "--memcache=0", "--stomp=0", "--http=0"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: dict[str, int] = {}
        while "#info] ready" not in (line := self._line()):
            if found := re.match(r"broker: (\w+) on .*:(\d+)$", line):
                self.ports[found[1]] = int(found[2])

    def _line(self) -> str:
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, "the broker ended"
        return line

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """It stands still: what it is sent meanwhile is there when it goes on, however slowly that was sent."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def numbers(self) -> dict[str, float]:
        """All it has counted so far."""
        self.process.send_signal(signal.SIGRTMIN)
        while not (line := self._line()).startswith("counted "):
            pass
        found: dict[str, float] = json.loads(line.removeprefix("counted "))
        found["kernel"] = sum(found.pop(name, 0) for name in ("polls", "changes", "transfers"))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Wire:
    """A connection on which requests are written and as many answers are read."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def ask(self, request: bytes, answer: bytes) -> None:
        """Write this, and read exactly that."""
        self.socket.sendall(request)
        got = self.file.read(len(answer))
        assert got == answer

    def frame(self) -> bytes:
        """The next STOMP frame."""
        lines = [self.file.readline()]
        while lines[-1] != b"\n" or len(lines) == 1:  # an empty line may come before a frame
            lines.append(self.file.readline())
            assert lines[-1]
        frame = b"".join(lines).lstrip(b"\n")
        found = re.search(rb"\ncontent-length:(\d+)", frame)
        assert self.file.read((int(found[1]) if found else 0) + 1).endswith(b"\0")
        return frame

    def response(self) -> tuple[dict[str, str], bytes]:
        """The headers of the next HTTP response, and its body."""
        headers = {"status": self.file.readline().split()[1].decode()}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return headers, self.file.read(int(headers.get("content-length", "0")))


SET = b"set %b 0 0 100\r\n" + BODY + b"\r\n"
VALUE = b"VALUE %b 0 100\r\n" + BODY + b"\r\nEND\r\n"
SEND = b"SEND\ndestination:%b\nreceipt:r\ncontent-length:100\n\n" + BODY + b"\0"
RECEIPT = b"RECEIPT\nreceipt-id:r\n\n\0\n"


def stomp(broker: Counted, subscribe: bytes = b"") -> Wire:
    wire = Wire(broker.ports["STOMP"])
    wire.socket.sendall(b"CONNECT\naccept-version:1.2\nhost:h\nheart-beat:0,0\n\n\0")
    assert wire.frame().startswith(b"CONNECTED")
    if subscribe:
        wire.socket.sendall(b"SUBSCRIBE\nid:0\nreceipt:r\n" + subscribe + b"\n\n\0")
        assert wire.frame().startswith(b"RECEIPT")
    return wire


def memcache_set(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["memcache"])

    def once() -> int:
        wire.ask(SET % b"a", b"STORED\r\n")
        return 1

    return once


def memcache_get(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["memcache"])
    wire.ask(SET % b"b" * (ROUNDS * (MEANS + 1)), b"STORED\r\n" * (ROUNDS * (MEANS + 1)))

    def once() -> int:
        wire.ask(b"get b\r\n", VALUE % b"b")
        return 1

    return once


def memcache_sets(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["memcache"])

    def once() -> int:
        wire.ask(SET % b"c" * PIPELINE, b"STORED\r\n" * PIPELINE)
        return PIPELINE

    return once


def memcache_set_shared(broker: Counted) -> Callable[[], int]:
    """From many connections at a time, each waiting for its own."""
    wires = [Wire(broker.ports["memcache"]) for _ in range(PIPELINE)]

    def once() -> int:
        with broker.asleep():
            for wire in wires:
                wire.socket.sendall(SET % b"k")
        for wire in wires:
            wire.ask(b"", b"STORED\r\n")
        return PIPELINE

    return once


def memcache_gets(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["memcache"])
    for _ in range(ROUNDS * (MEANS + 1)):
        wire.ask(SET % b"d" * PIPELINE, b"STORED\r\n" * PIPELINE)

    def once() -> int:
        wire.ask(b"get d\r\n" * PIPELINE, VALUE % b"d" * PIPELINE)
        return PIPELINE

    return once


def stomp_send(broker: Counted) -> Callable[[], int]:
    wire = stomp(broker)

    def once() -> int:
        wire.socket.sendall(SEND % b"/queue/e")
        assert wire.frame().startswith(b"RECEIPT")
        return 1

    return once


def stomp_sends(broker: Counted) -> Callable[[], int]:
    wire = stomp(broker)

    def once() -> int:
        wire.socket.sendall(SEND % b"/queue/f" * PIPELINE)
        for _ in range(PIPELINE):
            assert wire.frame().startswith(b"RECEIPT")
        return PIPELINE

    return once


def stomp_sends_spread(broker: Counted) -> Callable[[], int]:
    """Each to a queue of its own."""
    wire = stomp(broker)
    sends = b"".join(SEND % b"/queue/m%d" % number for number in range(PIPELINE))

    def once() -> int:
        wire.socket.sendall(sends)
        for _ in range(PIPELINE):
            assert wire.frame().startswith(b"RECEIPT")
        return PIPELINE

    return once


def stomp_acked(broker: Counted) -> Callable[[], int]:
    """To a subscription, and acknowledged one by one."""
    producer = stomp(broker)
    consumer = stomp(broker, b"destination:/queue/g\nack:client-individual")

    def once() -> int:
        producer.socket.sendall(SEND % b"/queue/g" * PIPELINE)
        acks = b""
        for _ in range(PIPELINE):
            found = re.search(rb"\nack:([^\n]+)", consumer.frame())
            assert found is not None
            acks += b"ACK\nid:%b\n\n\0" % found[1]
        consumer.socket.sendall(acks.removesuffix(b"\n\n\0") + b"\nreceipt:r\n\n\0")
        assert consumer.frame().startswith(b"RECEIPT")
        for _ in range(PIPELINE):
            producer.frame()
        return PIPELINE

    return once


def stomp_fan_out(broker: Counted) -> Callable[[], int]:
    """From a topic; per delivery."""
    producer = stomp(broker)
    consumers = [stomp(broker, b"destination:/topic/h") for _ in range(FAN)]

    def once() -> int:
        producer.socket.sendall(SEND % b"/topic/h" * FAN)
        for wire in (producer, *consumers):
            for _ in range(FAN):
                wire.frame()
        return FAN * FAN

    return once


def http_post(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["HTTP"])

    def once() -> int:
        wire.socket.sendall(b"POST /channels/i HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n" + BODY)
        assert wire.response()[0]["status"] == "202"
        return 1

    return once


def http_get_and_delete(broker: Counted) -> Callable[[], int]:
    wire = Wire(broker.ports["HTTP"])
    filling = Wire(broker.ports["memcache"])
    filling.ask(SET % b"j" * (ROUNDS * (MEANS + 1)), b"STORED\r\n" * (ROUNDS * (MEANS + 1)))

    def once() -> int:
        wire.socket.sendall(b"GET /channels/j?nowait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        number = wire.response()[0]["x-linger-msg-id"].encode()
        wire.socket.sendall(b"DELETE /messages/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        assert wire.response()[0]["status"] == "204"
        return 1

    return once


class Batches:
    """A connection that posts, leases and settles batches."""

    def __init__(self, broker: Counted, channel: str) -> None:
        self._wire = Wire(broker.ports["HTTP"])
        self._channel = f"/channels/{channel}"

    def post(self) -> None:
        self._send(f"{self._channel}/messages", (b'"%b"\n' % BODY) * PIPELINE, "application/x-ndjson")
        self._wire.response()

    def lease(self, wait: str) -> None:
        self._send(f"{self._channel}/lease?limit={PIPELINE}&{wait}", b"{}")

    def waiting(self) -> int:
        """How many wait for messages."""
        self._wire.socket.sendall(b"GET %b/stats?full=1 HTTP/1.1\r\nHost: localhost\r\n\r\n" % self._channel.encode())
        found: int = json.loads(self._wire.response()[1])["waiters"]
        return found

    def settle(self) -> int:
        """What was leased; how many that are."""
        leased = json.loads(self._wire.response()[1])["messages"]
        acks = [{"ack": {"id": message["id"]}} for message in leased]
        self._send("/commit?atomic=0", json.dumps({"ops": acks}).encode())
        assert [one["status"] for one in json.loads(self._wire.response()[1])["results"]] == [204] * len(leased)
        return len(leased)

    def _send(self, target: str, body: bytes, kind: str = "application/json") -> None:
        head = (
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._wire.socket.sendall(head.encode() + body)


def http_batch(broker: Counted) -> Callable[[], int]:
    """Batches that are put in, taken and settled; per message."""
    batches = Batches(broker, "l")

    def once() -> int:
        batches.post()
        batches.lease("nowait")
        assert batches.settle() == PIPELINE
        return PIPELINE

    return once


def http_batch_awaited(broker: Counted) -> Callable[[], int]:
    """The same for several who wait, and share it."""
    producer, *consumers = (Batches(broker, "n") for _ in range(1 + FAN))

    def once() -> int:
        for consumer in consumers:
            consumer.lease("wait=120")
        while producer.waiting() < FAN:
            pass  # what is put before all wait is shared by fewer
        producer.post()
        assert [consumer.settle() for consumer in consumers] == [PIPELINE // FAN] * FAN
        return PIPELINE

    return once


OPERATIONS: Mapping[str, Callable[[Counted], Callable[[], int]]] = {
    "memcache set": memcache_set,
    "memcache get": memcache_get,
    "memcache sets in one write": memcache_sets,
    "memcache sets of many connections": memcache_set_shared,
    "memcache gets in one write": memcache_gets,
    "STOMP SEND": stomp_send,
    "STOMP SENDs in one write": stomp_sends,
    "STOMP SENDs to many queues in one write": stomp_sends_spread,
    "STOMP message sent, delivered, acked": stomp_acked,
    "STOMP delivery of a fan-out": stomp_fan_out,
    "HTTP POST": http_post,
    "HTTP GET and DELETE": http_get_and_delete,
    "HTTP batch posted, leased, acked": http_batch,
    "HTTP batch that several wait for": http_batch_awaited,
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    with Counted(tmp_path_factory.mktemp("data")) as counted:
        yield counted


def measured(broker: Counted, operation: str) -> dict[str, float]:
    """What one costs: the mean of many, after some that load what is loaded once.

    The least of several means: what the store does by itself, folding and emptying its log, is in some of them.
    """
    once = OPERATIONS[operation](broker)
    for _ in range(ROUNDS):
        once()
    costs = []
    for _ in range(MEANS):
        before = broker.numbers()
        done = sum(once() for _ in range(ROUNDS))
        after = broker.numbers()
        costs.append({name: (after[name] - before.get(name, 0)) / done for name in after})
    return {name: round(min(cost[name] for cost in costs), 2) for name in costs[0]}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_costs_no_more_than_it_did(broker: Counted, operation: str) -> None:
    cost = measured(broker, operation)
    print(f"{operation!r}: {cost},")
    limits = dict(LIMITS[operation])
    if STOCK:
        limits["kernel"] *= 2  # Twisted's own asks twice for each turn what there is to read
        limits["calls"] *= 1.3
    dearer = {name: (cost[name], most) for name, most in limits.items() if cost[name] > most * TOLERANCE + SLACK}
    assert not dearer, f"{operation}: counted, and the limit: {dearer}"
