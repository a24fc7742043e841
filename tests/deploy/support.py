"""A broker that is started as systemd starts it: with sockets, and a socket to tell how it is."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support import TWISTD, Twistd

#: Puts the descriptors it is given where sd_listen_fds(3) has them, says whose they are, and becomes the program.
LAUNCH = """
import fcntl, os, sys
given, program = [int(one) for one in sys.argv[1].split(",") if one], sys.argv[2:]
for place, descriptor in enumerate([fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in given], 3):
    os.dup2(descriptor, place)
if given:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(program[0], program)
"""


class Activated(Twistd):
    """``twistd broker`` with `sockets`, by their names, and `environment` beside its own."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        sockets: Mapping[str, socket.socket] = {},
        environment: Mapping[str, str] = {},
    ) -> None:
        descriptors = [one.fileno() for one in sockets.values()]
        twistd = [sys.executable, str(TWISTD), "--nodaemon", "--pidfile=", "--logfile=-", "broker", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, ",".join(map(str, descriptors)), *twistd],
            cwd=folder,
            env={**os.environ, "LISTEN_FDNAMES": ":".join(sockets), **environment},
            pass_fds=descriptors,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""


class Notified:
    """The other end of NOTIFY_SOCKET. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(self.path))
        self._socket.settimeout(Twistd.PATIENCE)

    def next(self) -> dict[str, str]:
        """What is told next."""
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().splitlines())

    def until(self, key: str) -> dict[str, str]:
        """What is told next of `key`, with all that is told in the same breath."""
        while key not in (told := self.next()):
            pass
        return told

    def drain(self) -> None:
        """Forget what was told until now."""
        while not self.silent_for(0):
            self.next()

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing is told for so long."""
        return not select.select([self._socket], [], [], seconds)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
