"""``broker upgrade`` and SIGUSR2: what they say, and what they leave alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.upgrade import END
from tests.crash.clients import Http, Memcache
from tests.support import TWISTD
from tests.upgrade.support import PATIENCE, Line

#: Seconds until whoever looks again and again gives up.
LIMIT = 60.0
BROKER = Path(sysconfig.get_path("scripts")) / "broker"
CONFIGURATION = 'memcache = ["127.0.0.1:0"]\nstomp = ["off"]\nhttp = ["127.0.0.1:0"]\n'


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    (tmp_path / "broker.toml").write_text(CONFIGURATION)
    (tmp_path / "code").mkdir()
    with Line(tmp_path, "--config=broker.toml", environment={"PYTHONPATH": str(tmp_path / "code")}) as line:
        yield line


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline, "it never holds"
        time.sleep(0.02)


def command(port: int) -> subprocess.CompletedProcess[str]:
    arguments = [str(BROKER), "upgrade", "--url", f"http://127.0.0.1:{port}"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_the_command_says_who_took_over_from_whom_and_messages_stay(line: Line) -> None:
    ports, before = line.ports(), line.pid
    with Memcache(ports["memcache"]) as wire:
        wire.sets([("q", b"kept")])
        assert wire.stored()
    ended = command(ports["HTTP"])
    assert ended.returncode == 0, ended.stderr + "".join(line.said)
    line.follow()
    assert ended.stdout.startswith(f"process {line.pid} has taken over from {before}, after ")
    with Memcache(ports["memcache"]) as wire:
        assert wire.get("q") == b"kept"
    line.stop()
    assert not (line.folder / "twistd.pid").exists()


def test_what_is_broken_is_named_and_the_old_process_goes_on(line: Line) -> None:
    ports, pid = line.ports(), line.pid
    module = line.folder / "code" / "sitecustomize.py"
    # As if the installed code were half of one version, half of another.
    module.write_text("import sys, broker.notify\ndel broker.notify.Notifier\n")
    with Memcache(ports["memcache"]) as wire:  # it stays open all the while
        ended = command(ports["HTTP"])
        assert ended.returncode == 3
        assert "409" in ended.stderr
        assert "ImportError: cannot import name 'Notifier' from 'broker.notify'" in ended.stderr
        module.unlink()
        (line.folder / "broker.toml").write_text(CONFIGURATION + "leese = 3\n")
        line.signal()
        said = line.until("SIGUSR2: no upgrade").string
        assert "this process goes on: the new process cannot serve: " in said
        assert "leese" in said
        wire.sets([("q", b"1")])
        assert wire.stored()
    assert line.pid == pid
    (line.folder / "broker.toml").write_text(CONFIGURATION)
    line.upgrade()
    with Http(ports["HTTP"]) as http:
        assert http.waiting("q") == 1
    assert "Traceback" not in "".join(line.said)


def test_code_that_is_older_than_the_data_is_refused(line: Line) -> None:
    line.ports()
    with contextlib.closing(sqlite3.connect(line.folder / "broker.sqlite")) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
        connection.commit()
    line.signal()
    line.until("no upgrade, this process goes on: the new process cannot serve: the data file has schema version 99")


def test_in_the_background_the_process_file_names_who_serves(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text(CONFIGURATION)
    environment = dict(os.environ) | {"BROKER_STOCK_REACTOR": "1"}  # the other one, for once
    command = [sys.executable, str(TWISTD), "--rundir=.", "broker", "--config=broker.toml"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    pid = int((tmp_path / "twistd.pid").read_text())
    try:
        eventually(lambda: "#info] ready" in (tmp_path / "twistd.log").read_text())
        os.kill(pid, signal.SIGUSR2)
        eventually(lambda: int((tmp_path / "twistd.pid").read_text()) != pid)
        eventually(lambda: not os.path.exists(f"/proc/{pid}"))
        pid = int((tmp_path / "twistd.pid").read_text())
        assert os.path.samefile(f"/proc/{pid}/cwd", tmp_path)
        assert "EPollReactor" in (tmp_path / "twistd.log").read_text()
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not (tmp_path / "twistd.pid").exists())
    finally:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)


def test_systemd_is_told_whom_to_watch(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(PATIENCE)
        (tmp_path / "broker.toml").write_text(CONFIGURATION)
        options = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
        with Line(tmp_path, "--config=broker.toml", environment=options) as line:
            line.ports()
            line.upgrade()
            said = b""
            # The second: from who is listened to by then.
            while b"MAINPID" not in said or b"READY=1" not in said.partition(b"MAINPID")[2]:
                said += told.recv(4096) + b"\n"
            assert f"MAINPID={line.pid}\n" in said.decode()
            assert b"STOPPING" not in said
            line.stop()


def test_sockets_of_systemd_are_left_to_the_next_one_too(tmp_path: Path) -> None:
    options = ("--memcache=systemd:domain=INET:name=memcache", "--stomp=off", "--http=off")
    with socket.create_server(("127.0.0.1", 0)) as memcache:
        with Line(tmp_path, *options, sockets={"memcache": memcache}) as line:
            line.ready()
            line.upgrade()
            line.upgrade()
            with Memcache(memcache.getsockname()[1]) as wire:
                wire.sets([("q", b"1")])
                assert wire.stored()
            line.stop()


def test_the_old_process_ends_with_status_1_if_it_does_not_know_the_data_any_more(line: Line) -> None:
    line.ports()
    (line.folder / "code" / "sitecustomize.py").write_text(
        "import os, sqlite3, broker.storage.sqlite as sqlite\n"
        "def migrate(self):\n"
        "    connection = sqlite3.connect('broker.sqlite')\n"
        "    connection.execute('UPDATE meta SET value = 99 WHERE key = \"schema_version\"')\n"
        "    connection.commit()\n"
        "    os.kill(os.getpid(), 9)\n"
        "sqlite.SQLiteStore.open = migrate\n"
    )
    line.signal()
    line.until("failed, taking back: signal 9 ended it")
    line.until("cannot start: the data file has schema version 99, written by a newer broker")
    assert line.wait() == 1


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--data=:memory:", "the data are in memory only"),
        (
            "--http=tcp:0:interface=127.0.0.1:backlog=5",
            "tcp:0:interface=127.0.0.1:backlog=5 cannot be handed on: let it be a port",
        ),
    ],
)
def test_what_cannot_be_handed_on_is_named(tmp_path: Path, option: str, reason: str) -> None:
    with Line(
        tmp_path, "--memcache=0", "--stomp=off", option, *(["--http=off"] if "http" not in option else [])
    ) as line:
        line.ready()
        line.signal()
        line.until(f"no upgrade, this process goes on: {reason}")
        line.stop()


def test_a_unix_socket_is_left_to_the_next_one_too(tmp_path: Path) -> None:
    path = tmp_path / "memcache"
    with Line(tmp_path, "--memcache=unix:memcache:mode=600", "--stomp=off", "--http=off") as line:
        line.ready()
        before = path.stat()
        assert stat.S_IMODE(before.st_mode) == 0o600
        for _ in range(2):
            line.upgrade()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"version\r\n")
                assert connection.recv(100).startswith(b"VERSION ")
        assert path.stat().st_ino == before.st_ino
        line.stop()
    assert not path.exists()


def test_signals_in_bursts_make_one_upgrade_and_harm_nobody(line: Line) -> None:
    ports, pid = line.ports(), line.pid
    # The new process waits at its start until somebody opens the other end: no signal comes after it serves.
    os.mkfifo(line.folder / "gate")
    (line.folder / "code" / "sitecustomize.py").write_text("open('gate').close()\n")
    line.signal()
    line.until("starting a new process")
    for _ in range(5):
        for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            line.signal(number)
    line.until("SIGUSR2: no upgrade, this process goes on: an upgrade is under way already")
    (line.folder / "gate").open("w").close()
    line.follow(failed="failed, taking back")  # the same may be said of each of the others
    assert "".join(line.said).count("starting a new process") == 1
    assert line.pid != pid
    with Http(ports["HTTP"]) as http:
        http.ask("GET", "/readyz", 200)
    line.stop()


@pytest.mark.parametrize("moment", ["starting a new process", "handing on", "broker .* starts, process"])
def test_who_is_stopped_during_an_upgrade_stops(line: Line, moment: str) -> None:
    line.ports()
    line.signal()
    line.until(moment)
    began = time.monotonic()
    line.stop()
    assert time.monotonic() - began < END  # nobody waits for somebody who waits for him
    assert not (line.folder / "twistd.pid").exists()
    assert "Failed to unlink" not in "".join(line.said)  # whose file it is, is settled


def test_the_old_process_takes_the_data_back_if_the_new_one_dies_with_them(line: Line) -> None:
    ports, pid = line.ports(), line.pid
    # It is killed where it opens the store, when the old one has let it go.
    (line.folder / "code" / "sitecustomize.py").write_text(
        "import os, broker.storage.sqlite as sqlite\nsqlite.SQLiteStore.open = lambda self: os.kill(os.getpid(), 9)\n"
    )
    with Memcache(ports["memcache"]) as wire:
        wire.sets([("q", b"1")])
        assert wire.stored()
    ended = command(ports["HTTP"])
    assert ended.returncode == 3
    assert f"failed, {pid} serves: its log says why" in ended.stderr
    line.until("failed, taking back: signal 9 ended it")
    line.until(r"#info\] ready")
    with Memcache(ports["memcache"]) as wire:
        assert wire.get("q") == b"1"
    (line.folder / "code" / "sitecustomize.py").unlink()
    line.upgrade()  # and what was taken back can be handed on
    assert os.path.exists(f"/proc/{line.pid}")
    line.stop()
