"""What the benchmarks share: a broker in a process of its own, clients that cost little, and what is written of a run.

A benchmark prints a table and writes it to ``results/<name>.txt``, and the same as ``results/<name>.json`` with the
versions and the kind of machine it ran on. Rates of one run may be compared with each other; those of two runs differ
by a factor of 2.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import twisted
from broker import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MIB = 1024 * 1024
#: Seconds after which a client gives up on the broker.
PATIENCE = 300
#: Requests sent before their replies are read.
PIPELINE = 512

#: One line of a table: what each column says.
Row = Mapping[str, object]


class Process:
    """``twistd broker`` in a process of its own, on free ports, with its data in `folder`.

    A context manager: left, the process is killed if it still runs.
    """

    def __init__(self, folder: Path, *, config: str = "", options: Iterable[str] = ()) -> None:
        self.folder = folder
        command = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "broker", *options]
        command += ["--memcache=0", "--stomp=0", "--http=0", "--log-level=warn"]
        if config:
            (folder / "broker.toml").write_text(config)
            command.append("--config=broker.toml")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
        try:
            self.ports = self._ports()
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def _ports(self) -> dict[str, int]:
        """Where each front listens, as the broker prints it; they accept connections a moment later."""
        assert self.process.stdout is not None
        said = b""
        while select.select([self.process.stdout], [], [], PATIENCE)[0]:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            said += chunk
            ports = {name.decode().lower(): int(port) for name, port in re.findall(rb"broker: (\w+) on .*:(\d+)", said)}
            if len(ports) == 3:
                return ports
            if not chunk:
                break
        raise RuntimeError(f"the broker did not say where it listens: {said.decode(errors='replace')}")

    # -- what it takes

    def rss(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most resident memory since `forget_peak`, in bytes."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Begin to look for the most resident memory anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def disk(self) -> int:
        """Bytes of the data file and its log; the reserve beside them holds nothing."""
        files = [self.folder / f"broker.sqlite{suffix}" for suffix in ("", "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def _status(self, field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    # -- its end

    def end(self, how: int = signal.SIGTERM) -> None:
        """Stop it with a signal, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(signal.SIGKILL)


class Connection:
    """A TCP connection to a front."""

    def __init__(self, port: int) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                break
            except ConnectionRefusedError:  # bound, and not listening before the store is open
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def expect(self, reply: bytes) -> None:
        """Read exactly this."""
        if (got := self.file.read(len(reply))) != reply:
            raise RuntimeError(f"the broker said {got[:200]!r}, not {reply[:200]!r}")

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Memcache(Connection):
    """A memcache client that pipelines."""

    #: Replies that have not been read.
    owed = 0

    def set_all(self, keys: Iterable[str], body: bytes) -> None:
        """One message to each of these, all of them answered."""
        for some in _chunks(keys):
            self.send_sets(some, body)
            self.stored()

    def send_sets(self, keys: list[str], body: bytes) -> None:
        """One message to each of these; `stored` reads the answers."""
        tail = b" 0 0 %d\r\n%b\r\n" % (len(body), body)
        self.socket.sendall(b"".join(b"set %b%b" % (key.encode(), tail) for key in keys))
        self.owed += len(keys)

    def stored(self) -> None:
        """Everything sent is stored."""
        owed, self.owed = self.owed, 0
        self.expect(b"STORED\r\n" * owed)

    def get_all(self, keys: Iterable[str], body: bytes) -> None:
        """Take one message of each of these, which all have one."""
        value = b" 0 %d\r\n%b\r\nEND\r\n" % (len(body), body)
        for some in _chunks(keys):
            self.socket.sendall(b"".join(b"get %b\r\n" % key.encode() for key in some))
            self.expect(b"".join(b"VALUE %b%b" % (key.encode(), value) for key in some))


def fill(port: int, keys: Iterable[str], body: bytes) -> None:
    """One message to each of these, over several connections, so that commits are shared."""
    with contextlib.ExitStack() as opened:
        clients = deque(opened.enter_context(Memcache(port)) for _ in range(8))
        for some in _chunks(keys):
            clients.rotate()
            clients[0].stored()
            clients[0].send_sets(some, body)
        for client in clients:
            client.stored()


class Stomp(Connection):
    """A STOMP 1.2 client that is connected."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.send("CONNECT", {"accept-version": "1.2", "host": "here"})
        command, *_ = self.read()
        if command != "CONNECTED":
            raise RuntimeError(f"the broker said {command}, not CONNECTED")

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame."""
        self.socket.sendall(frame(command, headers, body))

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """Read a frame: its command, its headers as they were sent, its body. `EOFError`: the broker hung up."""
        command = b"\n"
        while command == b"\n":
            command = self.file.readline()
        if not command:
            raise EOFError
        headers: dict[str, str] = {}
        while (line := self.file.readline()) not in (b"\n", b""):
            name, _, value = line[:-1].decode().partition(":")
            headers.setdefault(name, value)
        body = self.file.read(int(headers.get("content-length", 0)))
        self.expect(b"\0")
        return command[:-1].decode(), headers, body


def frame(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A STOMP frame; nothing in it is escaped."""
    lines = "".join(f"{name}:{value}\n" for name, value in (*headers.items(), ("content-length", str(len(body)))))
    return f"{command}\n{lines}\n".encode() + body + b"\0"


class Folder:
    """A temporary folder, gone with everything in it at the end."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="bench-"))
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def own_rss() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- what is written


def mib(size: float) -> float:
    """Bytes as MiB, to be read."""
    return round(size / MIB, 2)


def report(name: str, rows: list[Row], misses: list[str]) -> int:
    """Print the table, write it with what it was measured on; the exit status: 1 if a goal was missed."""
    print(table(rows))
    for miss in misses:
        print(f"missed: {miss}", file=sys.stderr)
    written: dict[str, object] = {
        "benchmark": name,
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "results": rows,
        "missed": misses,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    (RESULTS / f"{name}.txt").write_text(f"{table(rows)}\n\n{_where()}\n")
    return 1 if misses else 0


def table(rows: list[Row]) -> str:
    """Rows as lines of text with a heading; a few rows of many columns stand side by side. A row may lack columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    if len(rows) < 4 < len(columns):
        cells = [list(line) for line in zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def machine() -> dict[str, object]:
    """What kind of machine this is; nothing that names it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "architecture": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
    }


def versions() -> dict[str, str]:
    """Of everything that has a say in the figures."""
    return {
        "twisted-broker": __version__,
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "msgspec": msgspec.__version__,
        "sqlite": sqlite3.sqlite_version,
    }


def _where() -> str:
    """What it was measured on, in a line or two."""
    on, of = machine(), versions()
    programs = ", ".join(f"{name} {version}" for name, version in of.items())
    kind = f"{on['system']}, {on['architecture']}, {on['processors']} processors, {on['memory_gib']} GiB"
    return f"{kind}; {time.strftime('%Y-%m-%d', time.gmtime())}\n{programs}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _chunks(keys: Iterable[str]) -> Iterable[list[str]]:
    some: list[str] = []
    for key in keys:
        some.append(key)
        if len(some) == PIPELINE:
            yield some
            some = []
    if some:
        yield some
