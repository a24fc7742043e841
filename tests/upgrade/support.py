"""A broker in other processes, one after the other, as whoever has started the first sees them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.deploy.support import LAUNCH
from tests.support import TWISTD

#: Seconds until whoever waits for a line gives up.
PATIENCE = 60.0
SERVES = r"upgrade: process (\d+) serves; this one ends"


class Line:
    """``twistd broker`` in the foreground and who follows it: they share standard output. A context manager.

    `sockets` are left to it as systemd does, by their names.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        sockets: Mapping[str, socket.socket] = {},
        environment: Mapping[str, str] = {},
    ) -> None:
        self.folder = folder
        descriptors = [one.fileno() for one in sockets.values()]
        twistd = [sys.executable, str(TWISTD), "--nodaemon", "--pidfile=twistd.pid", "--logfile=-", "broker", *options]
        self._first = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, ",".join(map(str, descriptors)), *twistd],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LISTEN_FDNAMES": ":".join(sockets), **environment},
            pass_fds=descriptors,
            start_new_session=True,
        )
        #: Who serves, or did last.
        self.pid = self._first.pid
        self.said: list[str] = []
        self._looked = 0
        self._is_over = False
        self._more = threading.Condition()
        # Else a pipe that is full would stop whoever writes to it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._first.stdout is not None
        for line in self._first.stdout:
            with self._more:
                self.said.append(line)
                self._more.notify_all()
        with self._more:
            self._is_over = True
            self._more.notify_all()

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line, behind the one that was waited for last; `AssertionError` if it does not come."""

        with self._more:
            while True:
                while self._looked < len(self.said):
                    self._looked += 1
                    if match := re.search(pattern, self.said[self._looked - 1]):
                        return match
                if self._is_over or not self._more.wait(PATIENCE):
                    raise AssertionError(f"it never said {pattern!r} but\n{''.join(self.said)}")

    def ports(self) -> dict[str, int]:
        """By front, those with TLS as ``memcache over TLS``; it accepts connections now."""
        self.ready()
        text = "".join(self.said)
        found = re.findall(r"^broker: (\w+) on (tls://|https://|http://)?127.0.0.1:(\d+)$", text, re.MULTILINE)
        return {name + (" over TLS" if scheme in ("tls://", "https://") else ""): int(n) for name, scheme, n in found}

    def ready(self) -> None:
        """Wait until it accepts connections."""
        self.until(r"#info\] ready")

    def signal(self, number: int = signal.SIGUSR2) -> None:
        """Send a signal to who serves."""
        os.kill(self.pid, number)

    def upgrade(self) -> None:
        """Have another process take over, and wait until it serves."""
        self.signal()
        self.follow()

    def follow(self, failed: str = "no upgrade|failed, taking back") -> None:
        """Wait until another process has taken over; `failed` is said where none does."""
        found = self.until(f"{SERVES}|{failed}")
        assert found[1], found.string
        self.pid = int(found[1])

    def stop(self) -> None:
        """SIGTERM to who serves, and wait until all have ended."""
        self.signal(signal.SIGTERM)
        if self.pid == self._first.pid:
            self._first.wait(PATIENCE)
            with contextlib.suppress(OSError):  # it had handed on already
                os.kill(int((self.folder / "twistd.pid").read_text()), signal.SIGTERM)
        self.wait()

    def wait(self) -> int:
        """Wait until all have ended; the status of the first."""
        self._reader.join(PATIENCE)
        assert self._is_over, "somebody has not ended"
        return self._first.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self._first.pid, signal.SIGKILL)
        self._first.wait()
        self._reader.join(PATIENCE)
        assert self._first.stdout is not None
        self._first.stdout.close()
