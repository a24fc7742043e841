"""``twistd broker`` as it is started: in the foreground, in the background, and all that keeps it from starting."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import treq
from twisted.internet.defer import Deferred

from broker.config import Config
from broker.core.store import Inventory
from broker.errors import ConfigError, StoreUnavailable
from broker.lock import Lock
from broker.options import Options
from broker.service import build, makeService
from broker.storage.memory import MemoryStore
from tests.support import TWISTD, Twistd, serving, tx


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One HTTP request to 127.0.0.1, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()


def talk(port: int, words: bytes) -> bytes:
    """What comes back for `words` until the server closes."""
    with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as connection:
        connection.sendall(words)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# -- in the foreground


def test_each_front_answers_on_a_free_port_that_is_printed(tmp_path: Path) -> None:
    with Twistd(tmp_path) as twistd:
        ports = twistd.ports()
        assert talk(ports["memcache"], b"version\r\nquit\r\n").startswith(b"VERSION ")
        stomp = talk(ports["STOMP"], b"CONNECT\naccept-version:1.2\nhost:x\n\n\0DISCONNECT\n\n\0")
        assert stomp.startswith(b"CONNECTED\n")
        assert ask(ports["HTTP"], "GET", "/readyz")[0] == 200
        assert f"broker: data in {tmp_path}/broker.sqlite (sync full)\n" in twistd.said


def test_what_was_confirmed_is_there_after_sigkill_and_after_sigterm(tmp_path: Path) -> None:
    with Twistd(tmp_path) as twistd:
        assert ask(twistd.ports()["HTTP"], "POST", "/channels/q", b"one")[0] == 202
        twistd.kill()
    with Twistd(tmp_path) as twistd:
        assert ask(twistd.ports()["HTTP"], "POST", "/channels/q", b"two")[0] == 202
        twistd.process.send_signal(signal.SIGTERM)
        assert twistd.wait() == -signal.SIGTERM
        assert "stopped" in twistd.said
    with Twistd(tmp_path) as twistd:
        port = twistd.ports()["HTTP"]
        assert [ask(port, "GET", "/channels/q?nowait")[1] for _ in range(2)] == [b"one", b"two"]


def test_memory_leaves_nothing_behind(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--data", ":memory:") as twistd:
        assert ask(twistd.ports()["HTTP"], "POST", "/channels/q", b"one")[0] == 202
        assert "broker: data in memory only" in twistd.said
    assert os.listdir(tmp_path) == []


def test_sigterm_ends_a_long_poll_with_503_and_not_as_if_there_were_nothing(tmp_path: Path) -> None:
    answers = []
    with Twistd(tmp_path) as twistd:
        port = twistd.ports()["HTTP"]
        poll = threading.Thread(target=lambda: answers.append(ask(port, "GET", "/channels/q")[0]))
        poll.start()
        while b'"q"' not in ask(port, "GET", "/channels")[1]:  # a queue exists while somebody waits for it
            pass
        twistd.process.send_signal(signal.SIGTERM)
        poll.join(Twistd.PATIENCE)
        assert answers == [503]
        assert twistd.wait() == -signal.SIGTERM


def test_sigterm_gives_back_what_is_on_loan_and_closes_the_connection(tmp_path: Path) -> None:
    with Twistd(tmp_path) as twistd:
        ports = twistd.ports()
        ask(ports["HTTP"], "POST", "/channels/q", b"one")
        with socket.create_connection(("127.0.0.1", ports["memcache"]), Twistd.PATIENCE) as connection:
            connection.sendall(b"get q/open\r\n")
            assert connection.recv(65536).endswith(b"END\r\n")
            twistd.process.send_signal(signal.SIGTERM)
            assert connection.recv(65536) == b""
        twistd.wait()
    with Twistd(tmp_path) as twistd:
        assert talk(twistd.ports()["memcache"], b"get q\r\nquit\r\n") == b"VALUE q 0 3\r\none\r\nEND\r\n"


def test_sighup_does_not_end_it(tmp_path: Path) -> None:
    with Twistd(tmp_path) as twistd:
        port = twistd.ports()["HTTP"]
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: nothing to reload")
        assert ask(port, "GET", "/healthz")[0] == 200


def test_sighup_brings_new_policies_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[queue.'work*']\npaused = true\n")
    with Twistd(tmp_path, "--config", str(file)) as twistd:
        port = twistd.ports()["HTTP"]
        ask(port, "POST", "/channels/work", b"one")
        assert ask(port, "GET", "/channels/work?nowait")[0] == 204
        file.write_text("[queue.'work*']\npaused = 'no'\n")
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: everything stays as it was")
        assert ask(port, "GET", "/channels/work?nowait")[0] == 204
        file.write_text("sync = 'normal'\n[queue.'work*']\npaused = false\n")
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("sync has changed; that takes effect at the next start")
        twistd.until("policies of 1 patterns of queues")
        assert ask(port, "GET", "/channels/work?nowait")[0] == 200


def test_a_message_leaves_no_line_in_the_log_unless_asked_for(tmp_path: Path) -> None:
    for level, seen in (("info", False), ("debug", True)):
        with Twistd(tmp_path, "--log-level", level) as twistd:
            ask(twistd.ports()["HTTP"], "POST", "/channels/secret", b"one")
            twistd.process.send_signal(signal.SIGTERM)
            twistd.wait()
            assert ("secret" in twistd.said) == seen


def test_a_default_port_in_use_is_a_warning(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ours = False
        while True:
            with contextlib.suppress(OSError):  # then somebody else has it, which serves as well, while he has
                stack.enter_context(socket.create_server(("127.0.0.1", 22122)))
                ours = True
            twistd = stack.enter_context(Twistd(tmp_path, "--stomp=off", "--http=0", free_ports=False))
            ports = twistd.ports()
            if ours or "memcache" not in ports:
                break
            twistd.kill()  # the other one gave it up before the broker asked for it
        assert list(ports) == ["HTTP"]
        assert "broker: warning: memcache is off, cannot listen on 127.0.0.1:22122: the port is in use\n" in twistd.said


def test_an_endpoint_that_cannot_be_opened_ends_it_late_with_status_1(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--memcache", f"unix:{tmp_path}/nowhere/socket") as twistd:
        assert twistd.wait() == 1
        assert re.search(r"#critical\] cannot start: .*nowhere/socket", twistd.said)
        assert "Traceback" not in twistd.said


def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--memcache=unix:socket", "--stomp=off", "--http=off", free_ports=False) as twistd:
        twistd.ports()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "socket"))
            connection.sendall(b"version\r\n")
            assert connection.recv(100).startswith(b"VERSION ")


def test_data_that_are_none_end_it_late_with_status_1_and_are_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "broker.sqlite"
    data.write_bytes(b"a letter to my aunt" * 1000)
    with Twistd(tmp_path) as twistd:
        assert twistd.wait() == 1
        assert re.search(r"#critical\] cannot start: .*not a database", twistd.said)
        assert "Traceback" not in twistd.said
    assert data.read_bytes() == b"a letter to my aunt" * 1000


# -- in the background


class Daemon:
    """``twistd broker`` in the background, its data in the folder ``run`` of `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir()
        ports = ("--memcache=0", "--stomp=0", "--http=0")
        command = [sys.executable, str(TWISTD), "--rundir=run", "broker", *ports, *options]
        started = subprocess.run(
            command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=Twistd.PATIENCE
        )
        self.status, self.said = started.returncode, started.stdout

    @property
    def pid(self) -> int:
        return int((self.folder / "twistd.pid").read_text())

    @property
    def log(self) -> str:
        return (self.folder / "twistd.log").read_text()

    def http(self) -> int:
        found = re.search(r"HTTP on .*:(\d+)", self.said)
        assert found, self.said
        return int(found[1])

    def end(self) -> None:
        """SIGTERM, and wait for the process to be gone; it is no child of ours."""
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            assert select.select([process], [], [], Twistd.PATIENCE)[0], "it did not end"
        finally:
            os.close(process)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    assert daemon.status == 0, daemon.said
    try:
        yield daemon
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.kill(daemon.pid, signal.SIGKILL)


def test_a_daemon_serves_in_its_run_directory_and_ends_with_everything_on_disk(daemon: Daemon) -> None:
    # The port was taken before the process went to the background: this waits for it, it is not refused.
    assert ask(daemon.http(), "GET", "/readyz")[0] == 200
    assert ask(daemon.http(), "POST", "/channels/q", b"one")[0] == 202
    assert (daemon.run / "broker.sqlite").stat().st_mode & 0o777 == 0o600
    daemon.end()
    assert "stopped" in daemon.log
    assert not (daemon.folder / "twistd.pid").exists()
    assert not (daemon.run / "broker.sqlite-wal").exists()
    with Twistd(daemon.run) as twistd:
        assert ask(twistd.ports()["HTTP"], "GET", "/channels/q?nowait") == (200, b"one")


def test_the_lock_names_the_daemon_and_not_the_process_that_started_it(daemon: Daemon) -> None:
    assert ask(daemon.http(), "GET", "/readyz")[0] == 200
    with pytest.raises(ConfigError, match=rf"broker\.sqlite is in use by process {daemon.pid}$"):
        Lock(str(daemon.run / "broker.sqlite"))


def test_a_second_daemon_says_why_it_does_not_start(daemon: Daemon) -> None:
    assert ask(daemon.http(), "GET", "/readyz")[0] == 200
    command = [sys.executable, str(TWISTD), "--rundir=run", "--pidfile=2.pid", "broker", "--http=0"]
    second = subprocess.run(command, cwd=daemon.folder, text=True, capture_output=True, timeout=Twistd.PATIENCE)
    assert second.returncode == 1
    assert second.stderr == f"broker: {daemon.run}/broker.sqlite is in use by process {daemon.pid}\n"
    assert not (daemon.folder / "2.pid").exists()


def test_a_daemon_whose_port_is_in_use_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = Daemon(tmp_path, "--http", where)
    assert daemon.status == 1
    assert daemon.said.endswith(f"broker: cannot listen on {where}: the port is in use\n")
    assert "Traceback" not in daemon.said
    assert not (tmp_path / "twistd.pid").exists()


# -- what keeps it from starting


def refusal(*options: str) -> str:
    """What `makeService` ends the process with."""
    parsed = Options()
    parsed.parseOptions(["--memcache=0", "--stomp=off", "--http=off", *options])
    with pytest.raises(SystemExit) as ended:
        makeService(parsed)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith("broker: ")
    return ended.value.code.removeprefix("broker: ")


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("127.0.0.1:99999", "cannot listen on 127.0.0.1:99999: ports end at 65535"),
        ("99999", "cannot listen on 99999: ports end at 65535"),
        ("nonsense", "cannot listen on 'nonsense': not a port, host:port, endpoint or \"off\""),
        ("tcp:nonsense", "cannot listen on 'tcp:nonsense': not a port, host:port, endpoint or \"off\""),
        ("", "cannot listen on '': not a port, host:port, endpoint or \"off\""),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ("name that is none:0", "cannot listen on name that is none:0: "),
        ("0.0.0.0:0", "memcache on 0.0.0.0:"),
        (":0", "memcache on 0.0.0.0:"),
        ("tcp:0", "memcache on 0.0.0.0:"),
        ("tcp6:0", "memcache on [::]:"),
        ("[::]:0", "memcache on [::]:"),
        ("haproxy:tcp:0", "memcache on haproxy:tcp:0 is open to anybody on the network"),
    ],
)
def test_a_place_to_listen_that_is_none_or_not_allowed(where: str, reason: str, tmp_path: Path) -> None:
    assert refusal("--data", f"{tmp_path}/data", "--memcache", where).startswith(reason)


def starts(*options: str) -> None:
    """`makeService` succeeds; what it took is given back."""
    parsed = Options()
    parsed.parseOptions(["--stomp=off", "--http=off", "--data=:memory:", *options])
    made = makeService(parsed).current
    assert made is not None
    made.let_go()


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "localhost:0", "tcp:0:interface=127.0.0.1", "127.0.0.2:0"])
def test_a_loopback_address_needs_no_permission(where: str) -> None:
    starts(f"--memcache={where}")


def test_beyond_loopback_it_starts_if_told_so() -> None:
    starts("--memcache=0.0.0.0:0", "--allow-anonymous")


def test_a_port_named_twice_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert refusal("--data=:memory:", f"--memcache={port}", f"--stomp={port}") == (
        f"cannot listen on 127.0.0.1:{port}: the port is in use"
    )


def test_nowhere_to_listen(tmp_path: Path) -> None:
    parsed = Options()
    parsed.parseOptions(["--memcache=off", "--stomp=off", "--http=off", "--data", f"{tmp_path}/data"])
    with pytest.raises(SystemExit, match="it would listen nowhere"):
        makeService(parsed)
    Lock(f"{tmp_path}/data").release()  # it was given back


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{0}/none/data", "the data directory {0}/none does not exist"),
        ("{0}", "the data file {0} is not a file"),
        ("/proc/data", "cannot write /proc/data.lock: "),
    ],
)
def test_data_that_cannot_be_kept_there(data: str, reason: str, tmp_path: Path) -> None:
    assert refusal("--data", data.format(tmp_path)).startswith(reason.format(tmp_path))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--sync=often", "sync: 'often' is none of 'full', 'normal'"),
        ("--log-level=loud", "log_level: 'loud' is none of 'debug', 'info', 'warn', 'error'"),
        ("--config=/none.toml", "cannot read /none.toml: No such file or directory"),
    ],
)
def test_an_option_with_a_value_it_cannot_have(option: str, reason: str) -> None:
    assert refusal(option) == reason


def test_a_configuration_file_with_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[defaults]\nleese = 1\n")
    assert refusal("--config", str(file)) == f"{file}: defaults.leese: unknown key"


# -- configuration


def test_without_a_word_it_listens_on_the_default_ports_of_loopback() -> None:
    from twisted.internet import reactor

    from broker.listeners import wishes

    found = [(wish.front, str(wish.place), wish.named) for wish in wishes(Config(), reactor)]  # type: ignore[arg-type]
    assert found == [
        ("memcache", "127.0.0.1:22122", False),
        ("stomp", "127.0.0.1:61613", False),
        ("http", "127.0.0.1:8989", False),
    ]


# -- in this process


class SlowStore(MemoryStore):
    """Opens when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open: Deferred[None] = Deferred()

    def open(self) -> Deferred[Inventory]:
        return self.may_open.addCallback(lambda _: MemoryStore.open(self))


@tx()
async def test_nobody_is_answered_before_the_store_is_open() -> None:
    from twisted.internet import reactor

    store = SlowStore()
    config = Config(memcache=["off"], stomp=["off"], http=["0"])
    service = build(config, reactor=reactor, store=store, tell=lambda line: None)  # type: ignore[arg-type]
    service.startService()
    url = f"http://{service.fronts[0].way.name}/readyz"
    answer = Deferred.fromCoroutine(_status(url))
    await Deferred.fromCoroutine(_turns())
    assert not answer.called
    assert service.fronts[0].connections.count() == 0
    store.may_open.callback(None)
    assert await answer == 200
    await service.stopService()


@tx()
async def test_a_store_that_does_not_open_is_a_failure_and_stopping_is_clean() -> None:
    from twisted.internet import reactor

    store = SlowStore()
    failed = []
    service = build(Config(http=["0"], memcache=["off"], stomp=["off"]), reactor=reactor, store=store, tell=print)  # type: ignore[arg-type]
    service.on_failure = lambda: failed.append(True)
    service.startService()
    store.may_open.errback(StoreUnavailable("the disk is gone"))
    await service.opening
    assert failed == [True]
    assert not service.ready
    await service.stopService()


@tx()
async def test_all_three_fronts_serve_one_queue() -> None:
    async with serving() as served:
        response = await treq.post(f"{served.url}/channels/q", b"one", persistent=False)
        assert response.code == 202
        assert served.broker.queue_stats("q").ready == 1


async def _status(url: str) -> int:
    response = await treq.get(url, persistent=False)
    await response.content()
    return int(response.code)


async def _turns() -> None:
    from twisted.internet import reactor, task

    for _ in range(20):
        await task.deferLater(reactor, 0)
