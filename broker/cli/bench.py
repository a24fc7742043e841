"""``broker bench``: how many messages a second a running broker takes and gives over one of its fronts.

One thread, standard library, one queue. It is bounded: by default five seconds or 100,000 messages, whichever ends
first, and what it published it takes again. What it measures is the broker and this command together: it says what
share of a processor it used itself, and where that is nearly all, it was the limit.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from broker.cli.exits import Exit
from broker.cli.output import as_json, printed
from broker.cli.parsing import Commands, add, add_json, count, host_port
from broker.cli.speech import Event, Http, Memcache, Refusal, Speaker, Stomp

#: Where each front listens unless it was told otherwise.
PORTS = {"memcache": 22122, "stomp": 61613, "http": 8989}
#: Seconds without any answer after which it gives up.
PATIENCE = 15.0
#: Seconds without a message after which nothing more is taken to come over STOMP, which does not say so.
QUIET = 1.0
#: The share of a processor from which on this command was probably the limit, not the broker.
BUSY = 0.85
_WIDTH = 30


def add_to(commands: Commands) -> None:
    """Add ``bench``."""
    bench = add(
        commands,
        "bench",
        _run,
        offline=True,
        help="measure a running broker",
        description="Publish messages into a queue of a running broker and take them again, for a while, and print "
        "rates and how long it took until a message was confirmed (put) and until one was taken and settled (take). "
        "Messages that others left in that queue are taken too. The user is $BROKER_LOGIN with the password "
        "$BROKER_PASSCODE; over HTTP, the one whose token is in $BROKER_TOKEN. Without TLS.",
    )
    bench.add_argument("front", choices=list(PORTS))
    bench.add_argument("address", metavar="HOST:PORT", nargs="?", help="default: this host, the front's usual port")
    bench.add_argument("--queue", default="bench", help="default: bench")
    bench.add_argument(
        "--only", choices=["put", "take"], help="only publish, and leave it there; or only take what is there"
    )
    bench.add_argument("--connections", metavar="N", type=count, default=10, help="default: 10")
    bench.add_argument(
        "--outstanding", metavar="N", type=count, default=1, help="messages a connection has under way (default: 1)"
    )
    bench.add_argument("--size", metavar="BYTES", type=count, default=100, help="of a body (default: 100)")
    bench.add_argument("--seconds", metavar="S", type=count, default=5, help="publish so long at most (default: 5)")
    bench.add_argument("--count", metavar="N", type=count, default=100_000, help="at most so many (default: 100000)")
    add_json(bench, "print one JSON object")


class Bench:
    """One run over some connections; `puts` and `takes` are the times that were seen, in seconds."""

    def __init__(self, connections: Sequence[Connection], options: argparse.Namespace) -> None:
        self._connections = connections
        self._count: int = options.count
        self._seconds: float = options.seconds
        self._outstanding: int = options.outstanding
        self._puts = options.only != "take"
        self._takes = options.only != "put"
        self._pushed = connections[0].speaker.pushed
        self._asked = 0
        self._until = self._last = 0.0
        self.puts: list[float] = []
        self.takes: list[float] = []
        #: Published and not taken, though it was to be.
        self.left = 0
        #: From the first request to the last answer.
        self.elapsed = 0.0

    def run(self, progress: Progress) -> None:
        """Raises `Refusal` and `OSError`."""
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                self._hear(connection, b"")
            waits = self._pushed and not self._puts
            begun = time.perf_counter()
            self._turn(selector, until=lambda: all(one.ready for one in self._connections), patience=PATIENCE)
            if not waits:  # else messages have come already
                begun = time.perf_counter()
            self._until = begun + self._seconds
            for connection in self._connections:
                for _ in range(self._outstanding):
                    self._next(connection)
            while not self._done():
                if not self._turn(selector, until=self._done, patience=QUIET if waits else PATIENCE, rounds=64):
                    break
                progress.show(self._share(begun), len(self.puts) + len(self.takes))
            self.elapsed = self._last - begun
        if self._puts and self._takes:
            self.left = len(self.puts) - len(self.takes)

    def _done(self) -> bool:
        if self._pushed and not self._puts:
            return len(self.takes) >= self._count or self._late()
        if any(one.putting or one.taking for one in self._connections):
            return False
        return not (self._pushed and self._takes) or len(self.takes) >= len(self.puts)

    def _more(self) -> bool:
        return self._asked < self._count and not self._late()

    def _late(self) -> bool:
        return time.perf_counter() >= self._until

    def _share(self, begun: float) -> float:
        done = len(self.puts) if self._puts else len(self.takes)
        return min(1.0, max(done / self._count, (time.perf_counter() - begun) / self._seconds))

    def _turn(
        self, selector: selectors.BaseSelector, *, until: Callable[[], bool], patience: float, rounds: int = 0
    ) -> bool:
        """Send and hear until this holds, or for some rounds; whether anything was heard in time."""
        turns = 0
        for connection in self._connections:
            connection.flush(selector)
        while not until() and not (rounds and turns == rounds):
            turns += 1
            if not (found := selector.select(patience)):
                return False
            for key, events in found:
                connection = key.data
                if events & selectors.EVENT_READ:
                    self._hear(connection, connection.read())
                connection.flush(selector)
        return True

    def _hear(self, connection: Connection, data: bytes) -> None:
        now = time.perf_counter()
        for event in connection.speaker.feed(data):
            match event:
                case Event.READY:
                    connection.ready = True
                case Event.PUT:
                    self._last = now
                    self.puts.append(now - connection.putting.popleft())
                    if self._takes and not self._pushed:
                        self._take(connection, now)
                    else:
                        self._next(connection)
                case Event.CAME:
                    connection.taking.append(now)
                case Event.TAKEN:
                    self._last = now
                    self.takes.append(now - connection.taking.popleft())
                    if not self._pushed:
                        self._next(connection)
                case Event.EMPTY:
                    connection.taking.popleft()
                    connection.empty = True
                    if self._puts:  # somebody else took it
                        self._next(connection)

    def _next(self, connection: Connection) -> None:
        now = time.perf_counter()
        if self._puts:
            if self._more():
                self._asked += 1
                connection.putting.append(now)
                connection.speaker.put()
        elif not self._pushed and self._more() and not connection.empty:
            self._asked += 1
            self._take(connection, now)

    def _take(self, connection: Connection, now: float) -> None:
        connection.taking.append(now)
        connection.speaker.take()


class Connection:
    """A socket, and what was asked over it and is not answered."""

    def __init__(self, address: tuple[str, int], speaker: Speaker) -> None:
        self.speaker = speaker
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.ready = False
        self.empty = False
        #: When each was asked for.
        self.putting: deque[float] = deque()
        self.taking: deque[float] = deque()

    def read(self) -> bytes:
        """What came; raises `OSError` when the broker has hung up."""
        try:
            if data := self.socket.recv(262144):
                return data
        except BlockingIOError:
            return b""
        raise ConnectionResetError(0, "the broker hung up")

    def flush(self, selector: selectors.BaseSelector) -> None:
        """Send what there is to say, as far as the socket takes it now."""
        out = self.speaker.out
        if out:
            try:
                del out[: self.socket.send(out)]
            except BlockingIOError:
                pass
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0)
        if selector.get_key(self.socket).events != wanted:
            selector.modify(self.socket, wanted, self)


class Progress:
    """A bar on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self, share: float, done: int) -> None:
        """Draw it anew, ten times a second."""
        if not self._terminal or (now := time.monotonic()) < self._shown + 0.1:
            return
        self._shown = now
        full = round(share * _WIDTH)
        print(f"\r[{'#' * full}{' ' * (_WIDTH - full)}] {done:,}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take it away."""
        if self._shown:
            print("\r" + " " * (_WIDTH + 20) + "\r", end="", file=sys.stderr, flush=True)


def _run(options: argparse.Namespace) -> int:
    address = options.address or f"127.0.0.1:{PORTS[options.front]}"
    if (place := host_port(address)) is None:
        return Exit.USAGE
    connections: list[Connection] = []
    progress = Progress()
    try:
        for _ in range(options.connections):
            connections.append(Connection(place, _speaker(options, address)))
        bench = Bench(connections, options)
        cpu, begun = time.process_time(), time.perf_counter()
        bench.run(progress)
        own = (time.process_time() - cpu) / (time.perf_counter() - begun)
    except Refusal as error:
        print(f"broker: refused: {error}", file=sys.stderr)
        return Exit.REFUSED
    except OSError as error:
        print(f"broker: cannot reach {address}: {error.strerror or error}", file=sys.stderr)
        return Exit.UNREACHABLE
    finally:
        progress.end()
        for connection in connections:
            connection.socket.close()
    said = _said(bench, own, options)
    return printed([as_json(said)] if options.json else _lines(said, address), bool(bench.puts or bench.takes))


def _speaker(options: argparse.Namespace, address: str) -> Speaker:
    body = (b"x" * 99 + b"\n") * (options.size // 100) + b"x" * (options.size % 100)
    name = os.environ.get("BROKER_LOGIN", "")
    login = (name, os.environ.get("BROKER_PASSCODE", "")) if name else None
    match options.front:
        case "memcache":
            return Memcache(options.queue, body, login)
        case "stomp":
            return Stomp(options.queue, body, login, options.outstanding if options.only != "put" else 0)
    return Http(options.queue, body, os.environ.get("BROKER_TOKEN", ""), address)


def _said(bench: Bench, own: float, options: argparse.Namespace) -> dict[str, Any]:
    said: dict[str, Any] = {
        "front": options.front,
        "connections": options.connections,
        "outstanding": options.outstanding,
        "size": options.size,
        "seconds": round(bench.elapsed, 3),
        "own_cpu_share": round(own, 3),
        "left": bench.left,
    }
    for work, times in (("put", bench.puts), ("take", bench.takes)):
        if times:
            times.sort()
            said[work] = {
                "messages": len(times),
                "per_second": round(len(times) / bench.elapsed),
                **{f"{name}_ms": round(_at(times, share) * 1e3, 3) for name, share in _SHARES.items()},
            }
    return said


_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def _at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))]


def _lines(said: dict[str, Any], address: str) -> list[str]:
    lines = [
        f"{said['front']} at {address}: {said['connections']} connections, {said['outstanding']} under way on each, "
        f"bodies of {said['size']:,} bytes, {said['seconds']} s"
    ]
    for work in ("put", "take"):
        if found := said.get(work):
            times = "  ".join(f"{name} {found[f'{name}_ms']} ms" for name in _SHARES)
            lines.append(f"{work:4}  {found['messages']:>9,}  {found['per_second']:>9,}/s  {times}")
    if not (said.get("put") or said.get("take")):
        lines.append("there was nothing to take")
    share = said["own_cpu_share"]
    limit = ": probably the limit, not the broker" if share > BUSY else ""
    lines.append(f"this command used {share:.0%} of a processor{limit}")
    if said["left"]:
        lines.append(f"{said['left']:,} messages were taken by somebody else, or are still there")
    return lines
