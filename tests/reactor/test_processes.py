"""Which reactor a process gets, and what can be seen of a reactor only from outside: processes of their own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

import twisted
from broker import reactor
from tests.reactor import test_transport
from tests.support import TWISTD, Twistd
from tests.test_service import Daemon

LEAN = "reactor class: broker.lean.LeanReactor."
STOCK = "reactor class: twisted.internet.epollreactor.EPollReactor."


def run(*command: str, stock: bool) -> subprocess.CompletedProcess[str]:
    """A process whose environment asks for Twisted's own reactor, or for none."""
    environment = os.environ | {reactor.STOCK: "1" if stock else "0"}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )


def test_everything_a_transport_promises_holds_on_the_other_reactor_too(pytestconfig: pytest.Config) -> None:
    path = str(Path(test_transport.__file__).relative_to(pytestconfig.rootpath))
    on_lean = not reactor.install()
    # In the checkout, which is where pytest was started or not.
    done = run("-m", "pytest", "-q", "--rootdir", str(pytestconfig.rootpath), path, stock=on_lean)
    assert done.returncode == 0, done.stdout


# -- twistd


def test_twistd_gives_the_broker_the_lean_reactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reactor.STOCK, raising=False)
    with Twistd(tmp_path) as twistd:
        twistd.until(r"#info\] ready")
        assert LEAN in twistd.said
        assert "Twisted's own reactor" not in twistd.said


def test_twistd_in_the_background_does_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reactor.STOCK, raising=False)
    daemon = Daemon(tmp_path)
    assert daemon.status == 0, daemon.said
    daemon.end()
    assert LEAN in daemon.log
    assert "stopped" in daemon.log


def test_the_environment_keeps_twisteds_own_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(reactor.STOCK, "1")
    with Twistd(tmp_path) as twistd:
        twistd.until(r"#info\] ready")
        assert STOCK in twistd.said
        assert twistd.said.count("Twisted's own reactor: BROKER_STOCK_REACTOR is set\n") == 1


def test_a_reactor_that_was_asked_for_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reactor.STOCK, raising=False)
    command = [str(TWISTD), "-n", "--pidfile=", "--logfile=-", "--reactor=poll", "broker"]
    command += ["--data=:memory:", "--memcache=0", "--stomp=off", "--http=off"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "#info] ready" not in said and (line := process.stdout.readline()):
                said += line
        finally:
            process.kill()
    assert "reactor class: twisted.internet.pollreactor.PollReactor." in said
    assert said.count("Twisted's own reactor: it was there already, as with --reactor\n") == 1


def test_to_import_the_broker_installs_no_reactor() -> None:
    asked = "import sys, broker.service; print('twisted.internet.reactor' in sys.modules)"
    assert run("-c", asked, stock=False).stdout == "False\n"


# -- what is chosen


@pytest.fixture
def nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "twisted.internet.reactor")
    monkeypatch.setattr("broker.reactor.installReactor", pytest.fail)


@pytest.mark.usefixtures("nobody_has_chosen")
def test_a_version_of_twisted_that_was_not_tried_runs_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twisted, "__version__", "99.1.0")
    assert reactor.install({}) == "the lean one was tested with Twisted 26.10.0, this is 99.1.0"


@pytest.mark.usefixtures("nobody_has_chosen")
def test_without_epoll_there_is_only_twisteds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert reactor.install({}) == "the lean one needs Linux's epoll"


@pytest.mark.usefixtures("nobody_has_chosen")
@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_environment_decides(value: str) -> None:
    assert reactor.install({reactor.STOCK: value}) == "BROKER_STOCK_REACTOR is set"


@pytest.mark.parametrize("value", ["", "0"])
def test_an_environment_that_says_no_changes_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "twisted.internet.reactor")
    installed: list[object] = []
    monkeypatch.setattr("broker.reactor.installReactor", installed.append)
    assert reactor.install({reactor.STOCK: value}) == ""
    assert [type(one).__name__ for one in installed] == ["LeanReactor"]


# -- the end

_STOPPED_WHILE_SENDING = """
import socket, time
from broker.reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

class Ending(Protocol):
    def connectionMade(self):
        self.asked = 0
        self.transport.registerProducer(self, False)
        self.transport.write(b"last")
    def resumeProducing(self):
        self.asked += 1
        if self.asked == 2:  # all is sent
            {how}
    def stopProducing(self):
        pass

port = reactor.listenTCP(0, Factory.forProtocol(Ending), interface="127.0.0.1")
client = socket.create_connection(("127.0.0.1", port.getHost().port))
reactor.callLater(20, print)
begun = time.monotonic()
reactor.run()
print(type(reactor).__name__, client.recv(100), "late" if time.monotonic() - begun > 10 else "in time")
"""


@pytest.mark.parametrize("how", ["reactor.stop()", "reactor.callFromThread(reactor.stop)", "reactor.crash()"])
@pytest.mark.parametrize("stock", [True, False])
def test_a_reactor_that_is_stopped_on_its_way_to_sleep_does_not_sleep(how: str, stock: bool) -> None:
    done = run("-c", _STOPPED_WHILE_SENDING.format(how=how), stock=stock)
    assert done.stdout == f"{'EPollReactor' if stock else 'LeanReactor'} b'last' in time\n"
