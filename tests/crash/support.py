"""A broker in another process, as its parent sees it."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.crash import broker_process
from tests.crash.clients import PATIENCE, Ports

ROOT = Path(__file__).parents[2]


class BrokerProcess:
    """A running broker on the file `data`; whoever made it closes it.

    `point`, `passes`: where it kills itself, once `arm` was called. `store`: one that lies, by the name of its lie.
    """

    def __init__(self, data: Path, point: str = "", passes: int = 0, *, store: str = "honest") -> None:
        command = [sys.executable, "-m", broker_process.__name__, str(data), f"--store={store}"]
        if point:
            command += [f"--point={point}", f"--passes={passes}"]
        started = time.monotonic()
        self._wal = Path(f"{data}-wal")
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        #: Every line it said.
        self.said: list[str] = []
        self._held = b""
        try:
            self._until("ready")
            #: Seconds until it served.
            self.start = time.monotonic() - started
            fronts = dict(line.split(" ") for line in self.said[:-1])
            #: "lean", or "stock": Twisted's own.
            self.reactor = fronts.pop("reactor")
            self.ports = Ports(**{name: int(port) for name, port in fronts.items()})
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """From now on it counts how often it passes its point."""
        self._process.send_signal(signal.SIGUSR1)
        self._until("armed")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def fill_disk(self) -> None:
        """Let no file of it grow beyond what its WAL is now."""
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (self._wal.stat().st_size, resource.RLIM_INFINITY))

    def empty_disk(self) -> None:
        """Let its files grow again."""
        endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, endless)

    def wait(self, timeout: float) -> int:
        """Wait for its end, and read what it said; how it ended (negative: by that signal)."""
        status = self._process.wait(timeout)
        while self._read(0.0):
            pass
        return status

    def _until(self, line: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while line not in self.said:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"it never said {line!r} but {self.said}")

    def _read(self, timeout: float) -> bool:
        """Read some of what it says within `timeout` seconds; False: nothing came, or nothing comes any more."""
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        if not select.select([source], [], [], max(timeout, 0.0))[0]:
            return False
        data = os.read(source, 65536)
        *lines, self._held = (self._held + data).split(b"\n")
        self.said += [line.decode() for line in lines]
        return bool(data)

    def close(self) -> None:
        """Kill it if it still runs, and leave nothing of it behind."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
