"""The documentation's examples, run as they stand against a broker.

A ``console`` block is a shell session: lines that begin with ``$`` are run one after the other, in one folder, and what
each prints must be what stands below it, where ``...`` is anything. A ``python`` block is a program, and what it prints
is the comment behind each ``print``. A ``sh`` block is a script of which no command may fail. The default ports stand
for those of the broker under test.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Twistd

ROOT = Path(__file__).resolve().parent.parent
#: Said in a session, this line has the broker killed and started again.
RESTART = "# the broker is killed and started again"
PORTS = {"memcache": "22122", "STOMP": "61613", "HTTP": "8989"}

Block = tuple[str, str]

_fenced = re.compile(r"^```(console|python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_directive = re.compile(r"^\.\. code-block:: (console|python|sh)\n\n((?:   .*\n|\n)+)", re.MULTILINE)

#: What nc does, where there is none: standard input to the server, and what comes back until the server closes.
NC = """#!{python}
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as server:
    server.sendall(sys.stdin.buffer.read())
    while said := server.recv(65536):
        sys.stdout.buffer.write(said)
"""


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = _fenced.findall(text) if page.suffix == ".md" else _directive.findall(text)
    return [(kind, textwrap.dedent(body)) for kind, body in found]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))) if blocks(page)]


def steps(session: str) -> Iterator[tuple[str, str]]:
    """The commands of a session, each with what it is to print."""
    parts = re.split(rf"^(?:\$ |(?={re.escape(RESTART)}))", session, flags=re.MULTILINE)
    assert not parts[0].strip(), f"no $ before {parts[0]!r}"
    for part in parts[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected.strip()


def matches(expected: str, got: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), got, re.DOTALL) is not None


class Reader:
    """Somebody who follows a page: a folder, a broker, and a shell."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._desk = folder / "desk"
        self._tools = folder / "tools"
        for made in (self._data, self._desk, self._tools):
            made.mkdir()
        if shutil.which("nc") is None:
            (self._tools / "nc").write_text(NC.format(python=sys.executable))
            (self._tools / "nc").chmod(0o755)
        self._variables = ""
        #: Groups of processes: what a step leaves running ends with the page.
        self._groups: list[int] = []
        self._start()

    def _start(self) -> None:
        self._twistd = Twistd(self._data)
        self._ports = self._twistd.ports()

    def end(self) -> str:
        """Stop the broker; what it said."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._twistd.kill()
        return self._twistd.said

    def _mine(self, text: str) -> str:
        for name, port in PORTS.items():
            text = text.replace(port, str(self._ports[name]))
        return text

    def _run(self, *command: str) -> str:
        path = os.pathsep.join((str(self._tools), sysconfig.get_path("scripts"), os.environ["PATH"]))
        process = subprocess.Popen(
            command,
            cwd=self._desk,
            env={**os.environ, "PATH": path, "BROKER_URL": f"http://127.0.0.1:{self._ports['HTTP']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said, errors = process.communicate(timeout=Twistd.PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 0)
                self._groups.append(process.pid)
        assert process.returncode == 0, f"{command}: {errors.decode()}"
        return said.decode().replace("\r\n", "\n").strip()

    def follow(self, kind: str, body: str) -> None:
        if kind == "python":
            expected = "\n".join(re.findall(r"print\(.*\)  # (.*)$", body, re.MULTILINE))
            assert self._run(sys.executable, "-c", self._mine(body)) == expected
            return
        if kind == "sh":
            self._run("sh", "-e", "-c", self._variables + self._mine(body))
            self._variables += "".join(re.findall(r"^\w+=\S+\n", self._mine(body), re.MULTILINE))
            return
        for command, expected in steps(body):
            if command == RESTART:
                self._twistd.kill()
                self._start()
                continue
            if kept := re.fullmatch(r"(\w+)=\$\((.*)\)", command):  # a shell of its own runs each command
                self._variables += f"{kept[1]}='{self._run('sh', '-c', self._variables + self._mine(kept[2]))}'\n"
                continue
            got = self._run("sh", "-c", self._variables + self._mine(command))
            assert matches(expected, got), f"{command}\nprinted {got!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_do_what_they_say(page: Path, tmp_path: Path) -> None:
    tools = ["curl", "openssl", *(["node"] if "-- node " in page.read_text() else [])]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"missing: {missing} (second layer: .ci/run installs them)")
    reader = Reader(tmp_path)
    try:
        for kind, body in blocks(page):
            reader.follow(kind, body)
        assert "Traceback" not in reader.end()
    finally:
        reader.end()


def test_the_pages_for_newcomers_have_examples() -> None:
    readme = blocks(ROOT / "README.md")
    for tool in ("curl", "nc", "broker publish", "pymemcache", "stomp"):
        assert any(tool in body for _, body in readme), tool
    assert {ROOT / "README.md", ROOT / "docs/tutorial.rst"} <= set(PAGES)


def test_what_is_printed_must_match() -> None:
    assert list(steps("$ a\n1\n2\n$ b\n")) == [("a", "1\n2"), ("b", "")]
    assert matches('{"id":...}', '{"id":17}')
    assert not matches('{"id":...}', '{"id":17} and more')
    assert not matches("one", "two")


def test_links_lead_somewhere() -> None:
    dead = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*.rst"), *(ROOT / "docs").glob("*.rst")]:
        text = page.read_text()
        links = [page.parent / link for link in re.findall(r"\]\(([^):#]+)\)", text)]
        links += [page.parent / f"{name}.rst" for name in re.findall(r":doc:`([\w/-]+)`", text)]
        dead += [f"{page.name}: {link}" for link in links if not link.exists()]
    assert not dead


def test_the_options_are_all_documented() -> None:
    from broker.config import File
    from broker.core.policy import Policy, TopicPolicy
    from broker.options import Options

    page = (ROOT / "docs/operations.rst").read_text()
    options = {word for word in Options().synonyms if len(word) > 1} - {"version", "help"}
    assert not [name for name in options if f"``--{name.replace('_', '-')}" not in page]
    page = (ROOT / "docs/configuration.rst").read_text()
    for struct in (File, Policy, TopicPolicy):
        assert not [key for key in struct.__struct_fields__ if f"   * - ``{key}``\n" not in page]


def test_the_tables_of_keys_are_what_the_types_say() -> None:
    reference = runpy.run_path(str(ROOT / "docs/_reference.py"))
    page = (ROOT / "docs/configuration.rst").read_text()
    assert page == reference["written"](page), "python docs/_reference.py"
