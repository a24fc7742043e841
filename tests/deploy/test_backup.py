"""A backup taken under load, put back: what was confirmed before it was begun is there, of one moment, and no more."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import sysconfig
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.support import Twistd

BROKER = Path(sysconfig.get_path("scripts")) / "broker"
#: Copies made while the load goes on, and messages that are there before it begins.
COPIES, BEFORE = 3, 300


@attrs.define
class Count:
    """How far one client came: what it has asked for, and what was confirmed of that, since numbers only grow."""

    asked: int = 0
    confirmed: int = 0


@attrs.frozen
class Moment:
    """The counts at one time. A copy is of some moment between two of them."""

    published: Count
    settled: Count
    moved: Count


class Load:
    """Publishes 0, 1, 2, ... to `work`, takes and settles them in that order, and moves those of `from` to `to`."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self._end = threading.Event()
        self._published, self._settled, self._moved = Count(), Count(), Count()
        self.failures: list[BaseException] = []
        loops: list[Callable[[], None]] = [self._publish, self._settle, self._move]
        self._threads = [threading.Thread(target=self._watched, args=(loop,)) for loop in loops]

    def now(self) -> Moment:
        """Copies of the counts, which only grow."""
        return Moment(*(attrs.evolve(one) for one in (self._published, self._settled, self._moved)))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(Twistd.PATIENCE)

    def _watched(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self.failures.append(error)

    def _publish(self) -> None:
        with Line(self._ports["memcache"]) as line:
            while not self._end.is_set():
                body = b"%d" % self._published.asked
                self._published.asked += 1
                assert line.ask(b"set work 0 0 %d\r\n%b\r\n" % (len(body), body), b"\r\n") == b"STORED\r\n"
                self._published.confirmed += 1

    def _settle(self) -> None:
        with Line(self._ports["memcache"]) as line:
            while not self._end.is_set():
                if line.ask(b"get work/t=100/open\r\n", b"END\r\n") == b"END\r\n":
                    continue
                self._settled.asked += 1
                assert line.ask(b"get work/close\r\n", b"END\r\n") == b"END\r\n"
                self._settled.confirmed += 1

    def _move(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._ports["HTTP"], timeout=Twistd.PATIENCE)
        with contextlib.closing(client):
            while not self._end.is_set() and self._moved.asked < BEFORE:
                client.request("GET", "/channels/from?nowait")
                answer = client.getresponse()
                body = answer.read().decode()
                ack = {"id": int(answer.headers["X-Linger-Msg-Id"]), "lease": answer.headers["X-Linger-Lease"]}
                self._moved.asked += 1
                ops = [{"ack": ack}, {"publish": {"channel": "to", "body": body}}]
                client.request("POST", "/commit", json.dumps({"ops": ops}), {"Content-Type": "application/json"})
                answer = client.getresponse()
                assert answer.status == 200, answer.read()
                answer.read()
                self._moved.confirmed += 1


class Line:
    """A connection on which one thing is asked after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE)

    def ask(self, words: bytes, end: bytes) -> bytes:
        self._socket.sendall(words)
        said = b""
        while not said.endswith(end):
            piece = self._socket.recv(65536)
            assert piece, said
            said += piece
        return said

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def drained(port: int, queue: str) -> list[int]:
    """What a queue holds, in order."""
    with Line(port) as line:
        found = []
        while (said := line.ask(b"get %b\r\n" % queue.encode(), b"END\r\n")) != b"END\r\n":
            found.append(int(said.split(b"\r\n")[1]))
        return found


def listed(port: int, queue: str) -> list[int]:
    """What a queue holds, in order, with what is on loan: a lease over HTTP outlives its broker."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/channels/{queue}/messages?limit=1000") as answer:
        return [int(base64.b64decode(one["event"]["data_base64"])) for one in json.load(answer)["messages"]]


def test_what_was_confirmed_before_a_backup_was_begun_is_in_it_and_it_is_of_one_moment(tmp_path: Path) -> None:
    copies = []
    with Twistd(tmp_path) as twistd:
        ports = twistd.ports()
        with Line(ports["memcache"]) as line:
            for number in range(BEFORE):
                line.ask(b"set from 0 0 %d\r\n%d\r\n" % (len(str(number)), number), b"\r\n")
        with Load(ports) as load:
            for number in range(COPIES):
                copy = tmp_path / f"copy {number}.sqlite"
                before = load.now()
                subprocess.run(
                    [BROKER, "backup", tmp_path / "broker.sqlite", copy], check=True, timeout=Twistd.PATIENCE
                )
                copies.append((copy, before, load.now()))
        assert not load.failures
        assert load.now().settled.confirmed > 0
    for copy, before, after in copies:
        assert after.published.confirmed > before.published.confirmed, "there was no load"
        subprocess.run([BROKER, "check", copy], check=True, timeout=Twistd.PATIENCE)
        with Twistd(tmp_path, "--data", str(copy)) as twistd:
            ports = twistd.ports()
            work, moved = (drained(ports["memcache"], name) for name in ("work", "to"))
            left = listed(ports["HTTP"], "from")
        # No hole: it is of one moment. Nothing that was confirmed is missing, nothing that was settled comes back.
        first, end = (work[0], work[-1] + 1) if work else (after.settled.asked, after.published.asked)
        assert work == list(range(first, end))
        assert before.settled.confirmed <= first <= after.settled.asked
        assert before.published.confirmed <= end <= after.published.asked
        # A transaction is in it whole, or not at all.
        assert moved + left == list(range(BEFORE))
        assert before.moved.confirmed <= len(moved) <= after.moved.asked
