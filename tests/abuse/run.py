"""Abuses a broker on all its listeners, and looks whether it minds: a client beside it must be served throughout.

``script/abuse --seconds 60 --seed 1``. The broker is a process of its own, with users and TLS. It says what it did, how
long the client waited, and what memory the broker took; status 1 if the broker ended, logged a failure, kept a client
waiting for `PATIENCE`, gave a file away, took more than `MEMORY`, or did not let go of what left.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.abuse.attacks import ATTACKS, PROBES, TREASURE, Target
from tests.support import TWISTD

#: Seconds a client may wait for anything; more is a broker that hangs.
PATIENCE = 15.0
#: Seconds it may take to end, with all its clients gone.
END = 30.0
#: Bytes the broker may take more than at its start. It rests at 250 to 350 MiB within three minutes, 40 of which
#: are objects, most of them queues that attackers have named; a third of the rest is what malloc keeps.
MEMORY = 512 * 1024 * 1024
#: Attackers at a time.
ATTACKERS = 6
#: Connections that are left open, by those who send slowly or do not read.
HELD = 400
#: Files it may have open more than at its start, when all are gone.
FILES_LEFT = 30

PROBE = ("probe", "a very long password indeed")

_CONFIG = """
memcache = [{{ listen = 0, idle_timeout = 20000 }}, {{ listen = 0, {tls} }}]
stomp = [{{ listen = 0, login_timeout = 5000 }}, {{ listen = 0, {tls} }}]
http = [0, {{ listen = 0, {tls} }}]
users = "{folder}/users.toml"
allow_anonymous = true
[defaults]
max_messages = 2000
max_bytes = 20_000_000
max_idle = 60000
"""


class Abused:
    """The broker, and who looks after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "treasure").write_text(TREASURE)
        tools = Path(sys.executable).parent
        openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(folder / "key"), "-out", str(folder / "pem")]
        subprocess.run(openssl, check=True, capture_output=True)
        for name, rights in (("probe", "all=*"), ("anonymous", "all=*:open.*")):
            command = [str(tools / "broker"), "user", "add", name, "--allow", rights]
            command += ["--no-password"] if name == "anonymous" else []
            environment = {**os.environ, "BROKER_USERS": str(folder / "users.toml")}
            subprocess.run(command, check=True, env=environment, input=PROBE[1], text=True)
        tls = f'tls = {{ certificate = "{folder}/pem", key = "{folder}/key" }}'
        (folder / "broker.toml").write_text(_CONFIG.format(folder=folder, tls=tls))
        options = ["--nodaemon", "--pidfile=", "--logfile=log", "broker", "--config", str(folder / "broker.toml")]
        with (folder / "stacks").open("w") as stacks:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(TWISTD), *options],
                cwd=folder,
                text=True,
                stdout=subprocess.PIPE,
                stderr=stacks,
            )
        assert self.process.stdout is not None
        self.targets = []
        for line in self.process.stdout:
            words = line.split()
            if words[2:3] == ["on"]:
                where = words[3]
                secret = where.startswith(("tls:", "https:"))
                port = int(where.rpartition(":")[2])
                self.targets.append(Target(words[1].lower(), port, secret, str(folder / "treasure")))
            if "data in" in line:
                break

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) * 1024

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log(self) -> str:
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("log*")))

    def end(self) -> str:
        """Stop it; what was wrong with that."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler says where it is
            self.process.wait()
            return f"it does not end:\n{(self.folder / 'stacks').read_text()}"
        return "" if status == -signal.SIGTERM else f"it ended with status {status}"


class Probe(threading.Thread):
    """A client that knows how to behave; what it waited, by what it asked for."""

    def __init__(self, targets: list[Target], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.waited: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self._ports = {target.front: target.port for target in targets if not target.tls}
        self._stop_asked = stop

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self._visit()
        except Exception as error:
            self.wrong.append(f"the client beside it: {error!r}")

    def _visit(self) -> None:
        """Twenty rounds on connections that are kept."""
        login = "CONNECT\naccept-version:1.2\nhost:x\nlogin:{}\npasscode:{}\n\n\0".format(*PROBE).encode()
        with contextlib.ExitStack() as stack:
            http = stack.enter_context(contextlib.closing(self._http()))
            stomp = stack.enter_context(self._connect("stomp"))
            self._timed("STOMP login", lambda: self._talk(stomp, login, b"\0", b"CONNECTED"))
            memcache = stack.enter_context(self._connect("memcache"))
            for _ in range(20):
                self._round(http, stomp, memcache)
                if self._stop_asked.wait(0.01):
                    return

    def _round(self, http: http.client.HTTPConnection, stomp: socket.socket, memcache: socket.socket) -> None:
        version = b"version\r\n"
        self._timed("memcache", lambda: self._talk(memcache, version, b"\r\n", b"VERSION"))
        send = f"SEND\ndestination:{PROBES}\nreceipt:1\n\nbody\0".encode()
        self._timed("STOMP send", lambda: self._talk(stomp, send, b"\0", b"RECEIPT"))
        self._timed("HTTP take", lambda: self._take(http))
        with self._connect("memcache") as new:
            self._timed("a new connection", lambda: self._talk(new, version, b"\r\n", b"VERSION"))

    def _http(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._ports["http"], timeout=PATIENCE)

    def _take(self, client: http.client.HTTPConnection) -> None:
        secret = base64.b64encode(":".join(PROBE).encode()).decode()
        client.request("GET", f"/channels/{PROBES}?ack=auto&timeout=5", headers={"Authorization": f"Basic {secret}"})
        answer = client.getresponse()
        body = answer.read()
        assert (answer.status, body) == (200, b"body"), (answer.status, body)

    def _connect(self, front: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._ports[front]), PATIENCE)

    def _talk(self, connection: socket.socket, words: bytes, end: bytes, beginning: bytes) -> None:
        connection.sendall(words)
        found = b""
        while not found.endswith(end):
            piece = connection.recv(65536)
            assert piece, f"it closed after {found!r}"
            found += piece
        assert found.startswith(beginning), found

    def _timed(self, what: str, ask: Callable[[], object]) -> None:
        begun = time.monotonic()
        ask()
        self.waited.setdefault(what, []).append(time.monotonic() - begun)


class Attackers:
    """Threads that attack, and what they leave open for a while."""

    def __init__(self, targets: list[Target], seed: int, end: float) -> None:
        self._targets, self._end = targets, end
        self._lock = threading.Lock()
        self.held: list[socket.socket] = []
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.threads = [
            threading.Thread(target=self._attack, args=(random.Random(seed * 1000 + number),), daemon=True)
            for number in range(ATTACKERS)
        ]

    def _attack(self, chance: random.Random) -> None:
        while time.monotonic() < self._end:
            attack, target = chance.choice(ATTACKS), chance.choice(self._targets)
            left: list[socket.socket] = []
            try:
                left = attack(target, chance)
            except OSError:
                pass  # refused, cut, or closed on: its right
            except Exception as error:
                self.wrong.append(f"{attack.__name__} on {target.name}: {error!r}")
                return
            with self._lock:
                self.done[attack.__name__] += 1
                self.held += left
                gone, self.held = self.held[:-HELD], self.held[-HELD:]
            for one in gone:
                one.close()

    def leave(self) -> None:
        for one in self.held:
            one.close()


def run(folder: Path, seconds: float, seed: int) -> tuple[list[str], list[str]]:
    """What it has to say, and what was wrong."""
    abused = Abused(folder)
    said, wrong = [], []
    try:
        stop = threading.Event()
        first = Probe(abused.targets, stop)
        wait_until(lambda: "ready" in abused.log(), 30)
        memory, files = abused.memory(), abused.files()
        attackers = Attackers(abused.targets, seed, time.monotonic() + seconds)
        for thread in (first, *attackers.threads):
            thread.start()
        for thread in attackers.threads:
            thread.join(seconds + 60)
            if thread.is_alive():
                wrong.append("an attacker hangs")
        stop.set()
        first.join(PATIENCE * 2)
        attackers.leave()
        wrong += attackers.wrong + first.wrong
        if abused.process.poll() is not None:
            wrong.append(f"the broker has ended with status {abused.process.returncode}")
        else:
            if not wait_until(lambda: abused.files() <= files + FILES_LEFT, 30):
                wrong.append(f"{abused.files() - files} files more are open than at first, when all have left")
            peak = abused.memory("VmHWM") - memory
            said.append(
                f"memory: {peak >> 20} MiB more at most, {(abused.memory() - memory) >> 20} MiB more in the end"
            )
            if peak > MEMORY:
                wrong.append(f"it took {peak >> 20} MiB more than at first")
    finally:
        wrong += filter(None, [abused.end()])
    said += [f"{what}: {times(waited)}" for what, waited in first.waited.items()]
    said.append(", ".join(f"{count} {name}" for name, count in sorted(attackers.done.items())))
    for what, waited in first.waited.items():
        if max(waited) > PATIENCE:
            wrong.append(f"{what}: a client waited {max(waited):.1f} s")
    log = abused.log()
    (folder / "all.log").write_text(log)
    wrong += [f"logged: {line}" for line in log.splitlines() if "Traceback" in line or "#critical" in line][:5]
    for secret in (PROBE[1], TREASURE):
        if secret in log:
            wrong.append(f"{secret!r} is in the log")
    if strange := {path.name for path in folder.iterdir()} - _ours(folder):
        wrong.append(f"files nobody has made: {sorted(strange)}")
    return said, wrong


def _ours(folder: Path) -> set[str]:
    known = {"treasure", "stacks", "key", "pem", "users.toml", "users.toml.lock", "broker.toml", "all.log"}
    return known | {path.name for path in (*folder.glob("log*"), *folder.glob("broker.sqlite*"))}


def times(waited: list[float]) -> str:
    """The usual three, in milliseconds."""
    ranked = sorted(waited)

    def rank(share: float) -> float:
        return ranked[min(math.ceil(share * len(ranked)), len(ranked)) - 1] * 1000

    return f"{len(ranked)} times, p50 {rank(0.5):.1f} ms, p99 {rank(0.99):.1f} ms, max {ranked[-1] * 1000:.1f} ms"


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="script/abuse")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", metavar="DIR", help="where the broker's files and log stay")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = asked.keep or stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(folder, exist_ok=True)
        said, wrong = run(Path(folder).resolve(), asked.seconds, asked.seed)
    print(*said, sep="\n")
    print(*(wrong or ["nothing was harmed"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
