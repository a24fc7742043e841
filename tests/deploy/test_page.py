"""docs/operations-install.rst, followed command by command, by somebody whose systemctl starts a broker of the test."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
import textwrap
from pathlib import Path

import pytest

from tests.deploy.support import Activated
from tests.support import Twistd
from tests.test_docs import PORTS, ROOT, matches, steps

PAGE = ROOT / "docs/operations-install.rst"

_session = re.compile(r"^\.\. code-block:: shell-session\n\n((?:   .*\n|\n)+)", re.MULTILINE)


class Operator:
    """Who has a server, which is `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sockets = {name.lower(): socket.create_server(("127.0.0.1", 0)) for name in PORTS}
        self._broker: Activated | None = None
        for made in ("desk", "var/lib/twisted-broker"):
            (root / made).mkdir(parents=True)

    def follow(self, command: str) -> str:
        """What it prints."""
        if command.startswith("systemctl "):
            self._systemctl(command.split()[1])
            return ""
        for name, port in PORTS.items():
            command = command.replace(port, str(self._port(name)))
        command = re.sub(r"(?<!\S)/(etc|var)/", rf"{self._root}/\1/", command)
        command = command.replace("deploy/install", f"{ROOT}/deploy/install --files-only --root {self._root}")
        path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self._root / "desk",
            env={**os.environ, "PATH": path, "BROKER_URL": f"http://127.0.0.1:{self._port('HTTP')}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=Twistd.PATIENCE,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def _port(self, name: str) -> int:
        return int(self._sockets[name.lower()].getsockname()[1])

    def _systemctl(self, what: str) -> None:
        if what in ("stop", "restart"):
            self.end()
        if what in ("start", "restart", "enable"):
            config = self._root / "etc/twisted-broker/broker.toml"
            mine = self._root / "broker.toml"
            mine.write_text(config.read_text().replace('"/var/', f'"{self._root}/var/'))
            self._broker = Activated(self._root, "--config", str(mine), sockets=self._sockets)
            self._broker.ports()

    def end(self) -> None:
        """Stop the broker, as systemd does."""
        if self._broker is not None:
            self._broker.process.send_signal(signal.SIGTERM)
            assert self._broker.wait() == -signal.SIGTERM
            assert "Traceback" not in self._broker.said
            self._broker = None

    def leave(self) -> None:
        if self._broker is not None:
            self._broker.kill()
        for one in self._sockets.values():
            one.close()


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing (second layer: .ci/run installs it)")
    operator = Operator(tmp_path)
    sessions = [textwrap.dedent(body) for body in _session.findall(PAGE.read_text())]
    assert len(sessions) >= 4
    try:
        for session in sessions:
            for command, expected in steps(session):
                got = operator.follow(command)
                assert matches(expected, got), f"{command}\nprinted {got!r}"
        operator.end()
    finally:
        operator.leave()
