"""A backlog of 1,000,000 messages: memory over idle, and the time from exec to the first delivery after a restart.

    .venv/bin/python benchmarks/backlog.py [MESSAGES]

Goals: under 64 MiB over idle, under 1 s to the first delivery (100-byte bodies, a durable queue, SQLite, sync=full).
Runs its own broker on 127.0.0.1, in a temporary folder, and stops it.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BODY = b"x" * 100
#: Sets sent before their replies are read.
PIPELINE = 512
LIMIT_S = 300


class Running:
    """A broker process, and a memcache connection to it."""

    def __init__(self, folder: Path) -> None:
        self.started = time.monotonic()
        command = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "broker"]
        command += ["--memcache", "0", "--stomp", "off", "--http", "off", "--data", str(folder / "data.sqlite")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
        self.socket = socket.create_connection(("127.0.0.1", self._port()), timeout=LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def _port(self) -> int:
        assert self.process.stdout is not None
        output = b""
        while select.select([self.process.stdout], [], [], 30)[0]:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            output += chunk
            if match := re.search(rb"memcache\D+127\.0\.0\.1:(\d+)", output):
                return int(match[1])
            if not chunk:
                break
        raise SystemExit(f"the broker did not say where it listens: {output!r}")

    def rss(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    def sets(self, count: int) -> None:
        """Store `count` messages, all of them answered."""
        one = b"set q 0 0 %d\r\n%s\r\n" % (len(BODY), BODY)
        while count:
            batch = min(PIPELINE, count)
            self.socket.sendall(one * batch)
            if self.file.read(8 * batch) != b"STORED\r\n" * batch:
                raise SystemExit("a set was not stored")
            count -= batch

    def get(self) -> None:
        """Take one message."""
        self.socket.sendall(b"get q\r\n")
        if not self.file.readline().startswith(b"VALUE q "):
            raise SystemExit("nothing was delivered")
        self.file.read(len(BODY) + 2)
        self.file.readline()

    def end(self, how: int) -> None:
        """Stop the process with a signal."""
        self.socket.close()
        self.process.send_signal(how)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def main() -> int:
    """Run, print one JSON object, and say whether the goals are reached."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="backlog-"))
    running = None
    try:
        running = Running(folder)
        running.sets(1)
        running.get()
        idle = running.rss()
        begun = time.monotonic()
        running.sets(count)
        filled = time.monotonic() - begun
        full = running.rss()
        restarts = {}
        for name, how in (("after SIGTERM", signal.SIGTERM), ("after SIGKILL", signal.SIGKILL)):
            running.end(how)
            running = Running(folder)
            running.get()
            restarts[name] = round(time.monotonic() - running.started, 3)
        report = {
            "messages": count,
            "body_bytes": len(BODY),
            "sets_per_second": round(count / filled),
            "idle_mib": round(idle / 2**20, 1),
            "over_idle_mib": round((full - idle) / 2**20, 1),
            "restart_to_first_delivery_s": restarts,
            "file_mib": round((folder / "data.sqlite").stat().st_size / 2**20, 1),
        }
        print(json.dumps(report, indent=1))
        return 0 if full - idle < 64 * 2**20 and max(restarts.values()) < 1 else 1
    finally:
        if running is not None and running.process.poll() is None:
            running.end(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
