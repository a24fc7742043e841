"""What comes and goes over one connection, of each front, told while it happens; passwords never are."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from broker.auth.door import Door
from broker.http import tapped as http
from broker.memcache import tapped as memcache
from broker.memcache.server import MemcacheFactory
from broker.stomp import tapped as stomp
from broker.stomp.server import StompFactory
from broker.tap import HIDDEN, Tap, Taps
from tests.auth.support import PASSWORD, TOKEN, Known, entry, everything, write
from tests.auth.test_http import basic
from tests.auth.test_memcache import login
from tests.http.support import World
from tests.memcache.support import Client as Memcache
from tests.stomp.support import Client as Stomp
from tests.support import Twistd


class Tapped(World):
    """A broker with users, and what was told of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.door = Door(self.broker, Known({"alice": everything()}))
        self.lines: list[dict[str, Any]] = []
        self.text = b""
        self.tap = Tap(self.clock, self._write, 1000, logs=True)

    def _write(self, line: bytes) -> None:
        self.text += line
        self.lines.append(json.loads(line))

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """These fields of each event since the last look."""
        found = [tuple(line.get(name) for name in ("event", *names)) for line in self.lines]
        self.lines.clear()
        return found

    def check(self) -> None:
        """That nothing was told that nobody may see."""
        assert PASSWORD.encode() not in self.text
        assert basic().split()[1].encode() not in self.text


def test_the_frames_of_a_stomp_connection() -> None:
    world = Tapped()
    client = Stomp(StompFactory(world.broker, clock=world.clock, door=world.door), world.clock)
    before = dict(vars(client.protocol))
    end = stomp.watch(client.protocol, world.tap.tell)
    client.connect(login="alice", passcode=PASSWORD)
    assert world.lines[0]["headers"]["passcode"] == HIDDEN
    assert world.told("command") == [("in", "CONNECT"), ("out", "CONNECTED")]
    client.send("SUBSCRIBE", destination="/queue/q", id="1", ack="client")
    for body in (b"one", b"two", b"three"):
        client.send("SEND", body, destination="/queue/q")
    (message, *_) = [line for line in world.lines if line.get("command") == "MESSAGE"]
    client.send("ACK", id=message["headers"]["ack"], receipt="r")
    told = world.told("command", "body")
    assert [("in", "SEND", body) for body in ("one", "two", "three")] == [one for one in told if one[1] == "SEND"]
    assert [("out", "MESSAGE", body) for body in ("one", "two", "three")] == [
        one for one in told if one[1] == "MESSAGE"
    ]
    assert [one[:2] for one in told[-2:]] == [("in", "ACK"), ("out", "RECEIPT")]
    end()
    client.send("SEND", b"x", destination="/queue/other", receipt="late")
    assert world.told() == []
    after = vars(client.protocol)
    assert {name for name in after if name not in before} <= {"_access"}
    world.check()


def test_a_trace_of_frames_that_begins_in_the_middle_of_one_says_so() -> None:
    world = Tapped()
    client = Stomp(StompFactory(world.broker, clock=world.clock, door=world.door), world.clock)
    client.connect(login="alice", passcode=PASSWORD)
    stomp.watch(client.protocol, world.tap.tell)
    client.protocol._outbox.write(b"x" * 2000 + b"\n\0")
    client.protocol._outbox.write(b"more")
    assert world.told("unreadable") == [("out", True)]


def test_the_commands_of_a_memcache_connection() -> None:
    world = Tapped()
    client = Memcache(MemcacheFactory(world.broker, door=world.door))
    end = memcache.watch(client.protocol, world.tap.tell)
    client.send(b"get %b\r\n" % PASSWORD.encode())
    client.send(login())
    client.send(b"set q 0 0 5\r\nhello\r\nset q 0 0 5\r\nthere\r\nget q\r\n%b\r\n" % PASSWORD.encode())
    told = world.told("command", "key", "body")
    assert told[0] == ("in", "get", None, None)
    assert ("in", "set", "q", "hello") in told
    assert ("in", "set", "q", "there") in told
    assert any(event == "out" and "hello" in (body or "") for event, _, _, body in told)
    end()
    client.send(b"get q\r\n")
    assert world.told() == []
    again = memcache.watch(client.protocol, world.tap.tell)
    client.go()
    assert world.told() == [("gone",)]
    again()
    world.check()


def test_the_requests_of_an_http_connection() -> None:
    world = Tapped()
    world.site.door = world.door
    connection = world.connect()
    end = http.watch(connection.protocol, world.tap.tell)
    connection.ask("POST", "/channels/q", b"a body", {"Authorization": basic(), "Cookie": PASSWORD})
    world.clock.advance(0)
    assert world.lines[0]["headers"]["authorization"] == world.lines[0]["headers"]["cookie"] == HIDDEN
    first, body, head, *_ = world.told("request", "body", "status")
    assert first == ("in", "POST /channels/q HTTP/1.1", None, None)
    assert body == ("in", None, "a body", None)
    assert (head[0], head[3]) == ("out", 202)
    connection.answer()
    end()
    connection.ask("GET", "/channels/q?nowait", None, {"Authorization": basic()})
    assert world.told() == []
    connection.answer()
    again = http.watch(connection.protocol, world.tap.tell)
    connection.leave()
    assert world.told() == [("gone",)]
    again()
    world.check()


def test_a_trace_of_the_connection_that_shows_it_tells_nothing_of_itself() -> None:
    world = World()
    connection = world.connect()
    taps = Taps(world.clock, world.broker.watching.watch, lambda: [(http.watch, connection.protocol, "it")])
    written: list[bytes] = []

    def write(line: bytes) -> None:
        written.append(line)
        connection.protocol.write(line)

    _, end = taps.tap(write, queue=None, connection="it", size=10, logs=False)
    connection.protocol.write(b"x")
    assert len(written) == 1
    end()


def test_a_trace_of_a_connection_ends_with_it() -> None:
    world = World()
    connection = world.connect()
    taps = Taps(world.clock, world.broker.watching.watch, lambda: [(http.watch, connection.protocol, "it")])
    over: list[int] = []
    tap, end = taps.tap(lambda line: None, queue=None, connection="it", size=10, logs=False)
    tap.over = lambda: over.append(1)
    connection.leave()
    end()
    end()
    assert (over, taps.open) == ([1], 0)


# -- a process


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    folder: Path = tmp_path_factory.mktemp("data")
    users = write(folder / "users", {"alice": entry(tokens=(TOKEN,), **everything())})
    with Twistd(folder, "--data=:memory:", f"--users={users}") as twistd:
        yield twistd.ports()
        twistd.process.terminate()
        twistd.wait()  # which looks for the password in all it said


def reading(port: int, query: str) -> Iterator[bytes]:
    """The lines of a trace; the first one says that it has begun."""
    client = HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/x-ndjson"}
    client.request("GET", f"/debug/trace?{query}", headers=headers)
    response = client.getresponse()
    assert response.status == 200, response.read()
    yield from response
    client.close()


def test_a_login_over_each_kind_of_socket_shows_no_password(ports: dict[str, int]) -> None:
    stomp_login = f"CONNECT\naccept-version:1.2\nhost:h\nlogin:alice\npasscode:{PASSWORD}\n\n\0".encode()
    http_login = f"GET /channels HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {basic()}\r\n\r\n".encode()
    for front, said, last in (
        ("STOMP", stomp_login, b"CONNECTED"),
        ("memcache", login(), b"STORED"),
        ("HTTP", http_login, b"channels"),
    ):
        with socket.create_connection(("127.0.0.1", ports[front]), Twistd.PATIENCE) as client:
            host, port = client.getsockname()
            lines = reading(ports["HTTP"], f"connection={host}:{port}&bytes=4096&log=1")
            assert next(lines) == b"\n"
            client.sendall(said)
            told = b""
            while last not in told:
                told += next(lines)
        for line in lines:
            told += line
        assert told.splitlines()[-1].endswith(b'"event":"gone"}')
        assert PASSWORD.encode() not in told
        assert basic().split()[1].encode() not in told


def test_the_command_prints_what_happens_and_ends_when_it_was_told_to(ports: dict[str, int]) -> None:
    command = "import sys; from broker.cli import main; sys.exit(main(sys.argv[1:]))"
    url = f"--url=http://127.0.0.1:{ports['HTTP']}"
    words = [sys.executable, "-c", command, "trace", url, "--queue=q", "--seconds=3"]
    environment = {**os.environ, "BROKER_TOKEN": TOKEN}
    client = HTTPConnection("127.0.0.1", ports["HTTP"], timeout=Twistd.PATIENCE)
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as trace:
        assert trace.stdout is not None
        while not select.select([trace.stdout], [], [], 0.05)[0]:
            client.request("POST", "/channels/q", b"x", {"Authorization": f"Bearer {TOKEN}"})
            assert client.getresponse().read()
        line = json.loads(trace.stdout.readline())
        assert (line["event"], line["body"]) == ("publish", "x")
        assert trace.wait(Twistd.PATIENCE) == 0
    client.close()
    for wrong in (["--queue=q", "--seconds=x"], ["--connection=nobody"]):
        done = subprocess.run([*words[:5], *wrong], capture_output=True, env=environment, timeout=Twistd.PATIENCE)
        assert (done.returncode, b"refused: 40" in done.stderr) == (3, True)
