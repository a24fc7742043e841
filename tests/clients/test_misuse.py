"""Misuse of every front over sockets: an answer in the protocol's own terms, and no harm to the others.

That nothing of it is logged as a failure is seen to after every test.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from broker.core.policy import Policy
from tests.clients import misuse
from tests.clients.misuse import LIMIT, Misuse
from tests.clients.support import PATIENCE, Http, Memcache, Speaker, Stomp, Wire, settled, turn, wired
from tests.support import Served, serving, tx

POLICY: dict[str, Any] = {
    "defaults": Policy(max_message_size=LIMIT),
    "said": frozenset({"defaults.max_message_size"}),
}
CASES = {"memcache": misuse.MEMCACHE, "stomp": misuse.STOMP, "http": misuse.HTTP}
EACH = [
    pytest.param(front, case, id=f"{front}, {name}") for front, cases in CASES.items() for name, case in cases.items()
]


def gone(served: Served) -> bool:
    """Whether no client is left."""
    return not any(front.connections.count() for front in served.service.fronts)


async def misbehave(port: int, case: Misuse) -> None:
    """Send it, and see the answer."""
    async with wired(port) as wire:
        wire.send(case.sent)
        await wire.until(b"^" + case.answer + b"$")
        if case.closes:
            await wire.end()
        assert b"Traceback" not in wire.received
        assert b".py" not in wire.received


async def together(work: list[Coroutine[Deferred[Any], Any, None]]) -> None:
    """All of it at once; the first failure is raised when all of it is done."""
    for succeeded, failure in await DeferredList(map(Deferred.fromCoroutine, work), consumeErrors=True):
        if not succeeded:
            assert isinstance(failure, Failure)
            failure.raiseException()


@pytest.mark.parametrize(("front", "case"), EACH)
@tx(60)
async def test_a_misuse_is_answered(front: str, case: Misuse) -> None:
    async with serving(**POLICY) as served:
        await misbehave(getattr(served, front), case)
        await settled(lambda: gone(served))
        assert served.broker.queues() == []
        assert served.broker.stats.published == 0


# -- who is beside them


class Probes:
    """A client of each protocol, which puts messages in and takes them out again, in order, until told to stop."""

    def __init__(self, served: Served) -> None:
        self._stop = threading.Event()
        self.rounds = [0, 0, 0]
        kinds: list[tuple[Callable[[int], Speaker], int]] = [
            (Memcache, served.memcache),
            (Stomp, served.stomp),
            (Http, served.http),
        ]
        self._ends = [deferToThread(self._probe, *kind, place) for place, kind in enumerate(kinds)]

    def _probe(self, kind: Callable[[int], Speaker], port: int, place: int) -> None:
        with contextlib.closing(kind(port)) as client:
            while not self._stop.is_set():
                bodies = [b"%d %d" % (self.rounds[place], number) for number in range(3)]
                for body in bodies:
                    client.put(f"probe-{place}", body)
                assert [client.take(f"probe-{place}").body for _ in bodies] == bodies
                self.rounds[place] += 1

    async def round(self) -> None:
        """Wait until each has done at least one more whole round."""
        wanted = [number + 2 for number in self.rounds]
        await settled(
            lambda: (
                any(end.called for end in self._ends)
                or all(number >= want for number, want in zip(self.rounds, wanted, strict=True))
            )
        )

    async def stop(self) -> None:
        """Raise what a probe saw that should not be."""
        self._stop.set()
        for end in self._ends:
            await end


@contextlib.asynccontextmanager
async def probed(served: Served) -> AsyncIterator[Probes]:
    """Probes at work."""
    probes = Probes(served)
    try:
        await probes.round()
        yield probes
        await probes.round()
    finally:
        await probes.stop()


@pytest.mark.parametrize("front", CASES)
@tx(120)
async def test_all_misuses_at_once_disturb_nobody(front: str) -> None:
    async with serving(**POLICY) as served:
        port = getattr(served, front)
        async with probed(served):
            for _ in range(5):
                await together([misbehave(port, case) for case in CASES[front].values()])


@pytest.mark.parametrize("front", CASES)
@tx(120)
async def test_clients_that_vanish_disturb_nobody(front: str) -> None:
    """Each misuse, cut after some of its bytes: a reset, or an orderly close, in the middle of everything."""

    async def vanish(port: int, sent: bytes) -> None:
        async with wired(port) as wire:
            wire.send(sent)
            await turn()
            if len(sent) % 2:
                await wire.close()

    async with serving(**POLICY) as served:
        port = getattr(served, front)
        async with probed(served):
            for part in 7, 3, 2, 1:
                await together([vanish(port, case.sent[: len(case.sent) // part]) for case in CASES[front].values()])


@pytest.mark.parametrize("front", CASES)
@tx(120)
async def test_half_frames_that_stay_disturb_nobody(front: str) -> None:
    """Twenty clients stop in the middle of something, and stay."""
    halves = [case for name, case in CASES[front].items() if name.startswith("half")]
    async with serving(**POLICY) as served, contextlib.AsyncExitStack() as opened:
        async with probed(served) as probes:
            for _ in range(20 // len(halves)):
                for case in halves:
                    wire = await opened.enter_async_context(wired(getattr(served, front)))
                    wire.send(case.sent)
            await probes.round()


# -- what a client can make us hold


@attrs.frozen
class Flood:
    """`first`, then `more` again and again, `size` bytes in all, or as many as are read.

    `body` bytes of it are a body that was announced, or may come.
    """

    front: str
    first: bytes
    more: bytes
    body: int = 0
    size: int = 4_000_000


HEAD = b"POST /channels/q HTTP/1.1\r\nHost: localhost\r\n"
LOGIN = b"CONNECT\n\n\0"
LIST = b"GET /channels HTTP/1.1\r\nHost: localhost\r\n\r\n"
FLOODS = {
    "memcache, a line without end": Flood("memcache", b"get ", b"x" * 65536),
    "memcache, lines of garbage": Flood("memcache", b"", b"what is this\r\n" * 5000, size=200_000),
    "memcache, a body that is too large": Flood("memcache", b"set q 0 0 2000000000\r\n", bytes(65536)),
    "memcache, a body in pieces": Flood("memcache", b"set q 0 0 999999\r\n", b"x" * 999, LIMIT),
    "memcache, commands behind one that waits": Flood("memcache", b"get q/t=60000\r\n", b"version\r\n" * 5000),
    "memcache, replies nobody reads": Flood("memcache", b"", b"get big/peek\r\n" * 1000, size=100_000),
    "memcache, open reads": Flood("memcache", b"", b"get big/open\r\n" * 1000, size=50_000),
    "STOMP, a line without end": Flood("stomp", LOGIN + b"SEND\n", b"x" * 65536),
    "STOMP, headers without end": Flood("stomp", LOGIN + b"SEND\n", b"a:b\n" * 10_000),
    "STOMP, the same header without end": Flood("stomp", LOGIN + b"SEND\na:b\n", b"a:b\n" * 10_000),
    "STOMP, heart-beats": Flood("stomp", LOGIN, b"\n" * 65536),
    "STOMP, a body without end": Flood("stomp", LOGIN + b"SEND\ndestination:q\n\n", b"x" * 65536, LIMIT),
    "STOMP, a body in pieces": Flood(
        "stomp", LOGIN + b"SEND\ndestination:q\ncontent-length:999999\n\n", b"x" * 999, LIMIT
    ),
    "STOMP, messages nobody reads": Flood("stomp", LOGIN, b"SUBSCRIBE\ndestination:big\n\n\0" + b"\n" * 65536),
    "STOMP, receipts nobody reads": Flood(
        "stomp",
        LOGIN,
        b"BEGIN\ntransaction:1\n\n\0ABORT\ntransaction:1\nreceipt:" + b"x" * 5000 + b"\n\n\0",
        size=8_000_000,
    ),
    "HTTP, a line without end": Flood("http", b"GET /", b"x" * 65536),
    "HTTP, headers without end": Flood("http", HEAD, b"a: b\r\n" * 10_000),
    "HTTP, a body without end": Flood("http", HEAD + b"Content-Length: 1500000\r\n\r\n", b"x" * 65536, LIMIT),
    "HTTP, chunks without end": Flood(
        "http", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + bytes(4096) + b"\r\n", LIMIT
    ),
    "HTTP, tiny chunks": Flood(
        "http", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000, LIMIT, size=300_000
    ),
    "HTTP, a chunk's size without end": Flood("http", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
    "HTTP, requests behind one that waits": Flood(
        "http",
        b"GET /channels/q HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
    ),
    "HTTP, replies nobody reads": Flood("http", b"", LIST * 1000, size=100_000),
}

#: Clients at once.
CLIENTS = 4
#: Reactor turns until what is in the kernel's buffers is read, 64 KiB in each, and dealt with.
DIGESTION = 60
MIB = 2**20


async def pour(client: socket.socket, flood: Flood, other: Wire) -> int:
    """Send it without reading an answer, until `other`'s round trips show that no more is read; the bytes sent."""
    client.setblocking(False)
    data, sent, refusals = memoryview(flood.first or flood.more), 0, 0
    while sent < flood.size and refusals < 10:
        try:
            count = client.send(data)
        except BlockingIOError:
            refusals += 1
            await other.ask(b"version\r\n", b"VERSION .*\r\n")
        else:
            sent += count
            refusals = 0
            data = data[count:] or memoryview(flood.more)
    for _ in range(DIGESTION):
        await other.ask(b"version\r\n", b"VERSION .*\r\n")
    return sent


@contextlib.asynccontextmanager
async def filled() -> AsyncIterator[tuple[Served, Wire]]:
    """A broker with 20 large messages in `big`, and 20 queues with long names; and a memcache client."""
    async with serving(**POLICY) as served, wired(served.memcache) as producer:
        for number in range(20):
            await producer.ask(b"set big 0 0 100000\r\n" + bytes(100_000) + b"\r\n", b"STORED\r\n")
            await producer.ask(b"set name-%d-%b 0 0 1\r\nx\r\n" % (number, b"x" * 200), b"STORED\r\n")
        yield served, producer


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@tx(120)
async def test_memory_per_client_is_bounded(flood: Flood) -> None:
    """At most 1 MiB beyond the body, counted by the allocator over clients that all do it at once."""

    async def client(other: Wire) -> None:
        with socket.create_connection(("127.0.0.1", getattr(served, flood.front))) as connection:
            with contextlib.suppress(ConnectionError):  # closed on us
                await pour(connection, flood, other)

    async with filled() as (served, _), contextlib.AsyncExitStack() as opened:
        others = [await opened.enter_async_context(wired(served.memcache)) for _ in range(CLIENTS)]
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await together([client(other) for other in others])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (peak - before) / CLIENTS < flood.body + MIB


@pytest.mark.parametrize(
    ("flood", "request_", "answer"),
    [
        (FLOODS["memcache, replies nobody reads"], b"get big/peek\r\n", b"VALUE big/peek 0 100000\r\n"),
        (FLOODS["STOMP, receipts nobody reads"], FLOODS["STOMP, receipts nobody reads"].more, b"RECEIPT\n"),
        (FLOODS["HTTP, replies nobody reads"], LIST, b"HTTP/1.1 200 OK\r\n"),
    ],
    ids=["memcache", "STOMP", "HTTP"],
)
@tx(120)
async def test_who_reads_late_gets_every_answer(flood: Flood, request_: bytes, answer: bytes) -> None:
    """A client is not read while it reads nothing; afterwards everything goes on."""

    def read(connection: socket.socket, count: int) -> int:
        connection.setblocking(True)
        connection.settimeout(PATIENCE)
        found, rest = 0, b""
        while found < count:
            received = connection.recv(2**20)
            assert received, f"the end came after {found} of {count} answers"
            rest += received
            found += rest.count(answer)
            rest = rest[-len(answer) + 1 :]
        return found

    async with filled() as (served, other):
        with socket.create_connection(("127.0.0.1", getattr(served, flood.front))) as connection:
            sent = await pour(connection, flood, other)
            count = (sent - len(flood.first)) // len(request_)
            assert await deferToThread(read, connection, count) == count
