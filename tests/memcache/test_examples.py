"""The programs of docs/examples/memcache, one for each language, run as they stand there against one broker process.

What each prints must be what stands behind the ``=>`` of its lines; the default port stands for that of the broker. And
libmemcached's own test of a server, as far as a queue can pass it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from pymemcache.client.base import Client

from tests.support import Twistd

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "memcache"
NODE = Path(__file__).resolve().parent / "js"
#: Debian's places for what it packages of Go and of Java.
GO, JAR = Path("/usr/share/gocode"), Path("/usr/share/java/spymemcached.jar")
#: Seconds for one program.
PATIENCE = 60


@attrs.frozen
class Language:
    """How a program is run, and what says that its client is there."""

    file: str
    run: tuple[str, ...]
    probe: tuple[str, ...]
    #: What to install, for whoever reads why a test was skipped.
    packages: str
    environment: dict[str, str] = attrs.Factory(dict)
    #: What is changed in the file: a second client with the same methods.
    instead: tuple[str, str] = ("", "")

    @property
    def missing(self) -> bool:
        """Whether the interpreter or the client is not there."""
        return shutil.which(self.run[0]) is None or subprocess.run(self.probe, capture_output=True).returncode != 0


def perl(client: str, package: str) -> Language:
    return Language(
        "cache-memcached.pl", ("perl",), ("perl", f"-M{client}", "-e1"), package, instead=("Cache::Memcached", client)
    )


LANGUAGES = {
    "ruby": Language("dalli.rb", ("ruby",), ("ruby", "-rdalli", "-e1"), "ruby ruby-dalli"),
    "php": Language(
        "memcached.php", ("php",), ("php", "-r", "exit((int) !extension_loaded('memcached'));"), "php-cli php-memcached"
    ),
    "perl": perl("Cache::Memcached", "libcache-memcached-perl"),
    "perl-fast": perl("Cache::Memcached::Fast", "libcache-memcached-fast-perl"),
    "shell": Language("libmemcached.sh", ("sh", "-e"), ("memcping", "--version"), "libmemcached-tools"),
    "go": Language(
        "gomemcache.go",
        ("go", "run"),
        ("test", "-d", str(GO / "src/github.com/bradfitz/gomemcache")),
        "golang-go golang-github-bradfitz-gomemcache-dev",
        {"GOPATH": str(GO), "GO111MODULE": "off", "GOFLAGS": "-buildvcs=false"},
    ),
    "java": Language(
        "Spymemcached.java",
        ("java", "-XX:TieredStopAtLevel=1", "-cp", str(JAR)),
        ("test", "-f", str(JAR)),
        "default-jre-headless libspymemcached-java",
    ),
    "node": Language(
        "node.cjs", ("node",), ("npm", "--version"), "nodejs npm", {"NODE_PATH": str(NODE / "node_modules")}
    ),
}

#: The tests of memccapable that a queue passes. Not among them: those that read a message twice, and those that need
#: a value to be there for add, replace, append, prepend, incr, decr, or for a cas of what nobody has on loan.
CAPABLE = {
    "ascii": """version, verbosity, set, set noreply, get, gets, mget, flush, flush noreply, add noreply,
        replace noreply, cas noreply, delete, delete noreply, stat""",
    "binary": "noop, quit, quitq, flush, flushq, delete, deleteq, get, getq, getk, getkq, version, stat",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A broker, as the port of its memcache front."""
    with Twistd(tmp_path_factory.mktemp("broker"), "--data=:memory:") as process:
        yield process.ports()["memcache"]
        process.kill()
        assert "Traceback" not in process.said


@pytest.fixture
def port(broker: int) -> int:
    """The same; all queues are empty."""
    with closing(Client(("127.0.0.1", broker), timeout=PATIENCE)) as client:
        client.flush_all(noreply=False)
    return broker


def node_modules() -> None:
    """Both clients of Node are installed."""
    with (NODE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may share the folder
        if not (NODE / "node_modules" / ".package-lock.json").exists():
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=list(LANGUAGES))
def test_the_program_prints_what_stands_behind_its_lines(language: Language, port: int, tmp_path: Path) -> None:
    if language.missing:
        pytest.skip(f"missing: {language.packages} (second layer: .ci/run installs them)")
    if "NODE_PATH" in language.environment:
        node_modules()
    text = (EXAMPLES / language.file).read_text()
    expected = re.findall(r"(?:#|//) => (.*)$", text, re.MULTILINE)
    (tmp_path / language.file).write_text(text.replace("22122", str(port)).replace(*language.instead))
    done = subprocess.run(
        [*language.run, language.file],
        cwd=tmp_path,
        env={**os.environ, "GOCACHE": str(tmp_path / "go"), **language.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.splitlines() == expected, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_page_shows_every_program() -> None:
    page = (ROOT / "docs" / "memcache-clients.rst").read_text()
    shown = re.findall(r"literalinclude:: examples/memcache/(\S+)", page)
    assert sorted(shown) == sorted(path.name for path in EXAMPLES.iterdir())
    assert set(shown) == {language.file for language in LANGUAGES.values()}


def test_node_s_binary_client_goes_through_its_conversation(port: int) -> None:
    if LANGUAGES["node"].missing:
        pytest.skip("missing: nodejs npm (second layer: .ci/run installs them)")
    node_modules()
    done = subprocess.run(
        ["node", "conversation.cjs", f"127.0.0.1:{port}"], cwd=NODE, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 8, done.stdout


def test_libmemcached_finds_the_server_capable(port: int) -> None:
    if shutil.which("memccapable") is None:
        pytest.skip("missing: libmemcached-tools (second layer: .ci/run installs them)")
    refused = {}
    for name in [f"{protocol} {word.strip()}" for protocol, words in CAPABLE.items() for word in words.split(",")]:
        command = ["memccapable", "-h", "127.0.0.1", "-p", str(port), "-t", "30", "-v", "-T", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if "[pass]" not in done.stdout:
            refused[name] = done.stdout + done.stderr
    assert not refused


def test_php_and_libmemcached_read_version_and_numbers(port: int) -> None:
    if LANGUAGES["php"].missing:
        pytest.skip("missing: php-cli php-memcached (second layer: .ci/run installs them)")
    program = f"""
        $queues = new Memcached();
        $queues->addServer('127.0.0.1', {port});
        $queues->set('numbers', 1);
        echo current($queues->getVersion()), ' ', current($queues->getStats())['queue_numbers_items'], "\\n";
        $queues->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
        echo current($queues->getVersion()), ' ', $queues->get('numbers'), ' ';
        echo $queues->get('numbers') === false ? $queues->getResultMessage() : 'twice', "\\n";
    """
    done = subprocess.run(["php", "-r", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == ["1.6.18 1", "1.6.18 1 NOT FOUND"], done.stderr
