"""docs/users.rst, followed command by command. Its broker has the users that the page makes."""

from __future__ import annotations

import re
import shutil
import signal
import textwrap
from pathlib import Path

import pytest

from tests.support import Twistd
from tests.test_docs import PORTS, ROOT, Reader, matches, steps

PAGE = ROOT / "docs/users.rst"
#: Said in a session, this line has the test wait for it.
RELOADED = "# the broker has read the users again"

_session = re.compile(r"^\.\. code-block:: shell-session\n\n((?:   .*\n|\n)+)", re.MULTILINE)


class Administrator(Reader):
    """Somebody who follows the page; the broker starts with the first command that talks to it."""

    def _start(self) -> None:
        self._ports = {name: int(port) for name, port in PORTS.items()}

    def start(self) -> None:
        self._twistd = Twistd(self._data, "--users", str(self._desk / "users.toml"))
        self._ports = self._twistd.ports()
        self._variables += f"broker={self._twistd.process.pid}\n"

    def reload_seen(self) -> None:
        self._twistd.until("SIGHUP: ")

    def stop(self) -> str:
        self._twistd.process.send_signal(signal.SIGTERM)
        self._twistd.wait()
        return self._twistd.said


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing (second layer: .ci/run installs it)")
    reader = Administrator(tmp_path)
    sessions = [textwrap.dedent(body) for body in _session.findall(PAGE.read_text())]
    assert len(sessions) >= 6
    started = False
    try:
        for session in sessions:
            if not started and any(port in session for port in PORTS.values()):
                reader.start()
                started = True
            for command, expected in steps(session.replace(RELOADED, f"$ {RELOADED}")):
                if command == RELOADED:
                    reader.reload_seen()
                elif kept := re.fullmatch(r"(\w+)=\$\((.*)\)", command):
                    reader._variables += f"{kept[1]}='{reader._run('sh', '-c', reader._variables + kept[2])}'\n"
                else:
                    got = reader._run("sh", "-c", reader._variables + reader._mine(command))
                    assert matches(expected, got), f"{command}\nprinted {got!r}"
        said = reader.stop()
    finally:
        if started:
            reader.end()
    assert "Traceback" not in said
    for secret in ("correct horse", "battery staple", "a better one"):
        assert secret not in said
