"""The audit log: what stands in it, what a disk that is full does, and that nothing logs a secret."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.threads import deferToThread

from broker.audit import MAX_WAITING, Audit
from broker.errors import ConfigError
from tests.auth import test_http
from tests.auth.support import PASSWORD, Log, entry, everything, write
from tests.support import leaks, serving, tx


@attrs.define
class Written:
    """An audit log that is written, and the lines there are."""

    path: Path
    audit: Audit

    def lines(self) -> list[dict[str, Any]]:
        """All of them, without their times."""
        self.audit.stop()
        return lines(self.path)


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(one.pop("time") for one in found)
    return found


def audit(path: Path) -> Audit:
    return Audit(str(path), wall=lambda: 1.5, later=lambda call: call())


@pytest.fixture
def written(tmp_path: Path) -> Written:
    path = tmp_path / "audit.json"
    made = Written(path, audit(path))
    made.audit.start()
    return made


def test_an_entry_is_a_line_of_json_in_ascii_and_the_file_is_its_owner_s(written: Written) -> None:
    written.audit.record("login", "allowed", user="jürgen\n", address="192.0.2.1", front="STOMP")
    written.audit.record("purge", "refused", user="eve", on="queue q")
    written.audit.stop()
    assert written.path.read_bytes() == (
        b'{"time": "1970-01-01T00:00:01.500000+00:00", "what": "login", "outcome": "allowed", '
        b'"user": "j\\u00fcrgen\\n", "address": "192.0.2.1", "front": "STOMP"}\n'
        b'{"time": "1970-01-01T00:00:01.500000+00:00", "what": "purge", "outcome": "refused", '
        b'"user": "eve", "on": "queue q"}\n'
    )
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(written: Written) -> None:
    written.audit.record("first", "done")
    wait_for(lambda: written.path.exists() and written.path.read_text() != "")
    written.path.rename(written.path.with_suffix(".1"))
    written.audit.record("second", "done")
    assert [one["what"] for one in written.lines()] == ["second"]
    assert [one["what"] for one in lines(written.path.with_suffix(".1"))] == ["first"]


def wait_for(true: Callable[[], bool]) -> None:
    """Until another thread has done it."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        pause.wait(0.001)


def test_a_full_disk_is_one_line_in_the_log_and_what_is_missing_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    made = audit(path)
    path.symlink_to("/dev/full")
    with Log() as log:
        made.start()
        for number in range(3):
            made.record("try", "done", number=number)
            wait_for(lambda: made._waiting.empty())
        wait_for(lambda: made._unwritten > 0)
        path.unlink()
        made.stop()  # it tries a last time
        again = audit(path)
        again.start()
        again.stop()
    said = [line for line in log.text.splitlines() if "cannot write" in line.partition("{'")[0]]
    assert len(said) == 1
    assert f"audit: cannot write {path}: No space left on device; the broker goes on" in said[0]


def test_a_file_that_can_be_written_again_says_how_many_entries_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    made = audit(path)
    path.mkdir()
    with Log() as log:
        made._write([{"time": 1.0, "what": "lost"}] * 3)
        path.rmdir()
        made._write([{"time": 1.0, "what": "kept"}])
        made._close()
    assert lines(path) == [{"what": "audit", "outcome": "lost", "count": 3}, {"what": "kept"}]
    assert f"audit: {path} is written again, 3 entries are missing" in log.text


def test_a_line_that_was_written_in_part_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.json"
    made = audit(path)
    made._stopping.set()  # no pause
    real = os.write
    made._write([{"time": 1.0, "what": "first"}])
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    made._write([{"time": 1.0, "what": "second"}])
    monkeypatch.undo()
    made._write([{"time": 1.0, "what": "third"}])
    made._close()
    assert [one["what"] for one in lines(path)] == ["first", "audit", "third"]


def test_entries_that_wait_take_a_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    made = audit(path)
    for _ in range(MAX_WAITING + 5):
        made.record("flood", "refused")
    made.start()
    wait_for(made._waiting.empty)  # the end gives up on what takes it too long
    made.stop()
    found = lines(path)
    assert (len(found), found[0]) == (MAX_WAITING + 1, {"what": "audit", "outcome": "lost", "count": 5})


def test_the_start_leaves_no_file_behind_and_one_that_is_there_as_it_is(tmp_path: Path) -> None:
    audit(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
    old = tmp_path / "old.json"
    old.write_text("kept")
    audit(old)
    assert old.read_text() == "kept"


def test_a_file_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit: cannot write .*: No such file or directory"):
        audit(tmp_path / "none" / "audit.json")


# -- what the fronts write


SECRET = "canary-7f3a9c"
#: Seconds a client, or who waits for another thread, has patience.
PATIENCE = 60


def talk(port: int, sent: bytes, last: bytes) -> bytes:
    """Say something, and read on until `last`, or to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(sent)
        got = b""
        while last not in got and (data := client.recv(4096)):
            got += data
    return got


def put(name: str, password: str) -> bytes:
    """memcache's login."""
    token = f"{name} {password}".encode()
    return b"set l 0 0 %d\r\n%b\r\n" % (len(token), token)


def ask(port: int, method: str, path: str, authorization: str, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body, {"Authorization": authorization})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def connect(name: str, passcode: str) -> bytes:
    return f"CONNECT\naccept-version:1.2\nhost:h\nlogin:{name}\npasscode:{passcode}\n\n\0".encode()


@tx(120)
async def test_logins_refusals_administration_and_reloads_are_taken_down_and_no_secret_is_logged(
    tmp_path: Path,
) -> None:
    path, wrong = tmp_path / "audit.json", SECRET[::-1]
    users = write(
        tmp_path / "users.toml",
        {"root": entry(password=SECRET, tokens=(SECRET,), **everything()), "eve": entry(password=SECRET)},
    )

    def work() -> list[int]:
        talk(served.memcache, put("root", SECRET) + b"flush q\r\nquit\r\n", b"END")
        talk(served.memcache, put("root", wrong) + b"quit\r\n", b"failure")
        talk(served.memcache, put(SECRET, "root") + b"quit\r\n", b"failure")
        talk(served.memcache, put("eve", SECRET) + b"delete secret\r\nquit\r\n", b"right")
        talk(served.stomp, connect("root", SECRET) + b"DISCONNECT\nreceipt:1\n\n\0", b"receipt-id:1")
        talk(served.stomp, connect(SECRET, wrong), b"Access refused")
        talk(served.stomp, connect("eve", SECRET) + b"SEND\ndestination:/queue/q\n\nx\0", b"error-code")
        return [
            ask(served.http, "DELETE", "/channels/q", basic("root", SECRET)),
            ask(served.http, "DELETE", "/channels/q", f"Bearer {SECRET}"),
            ask(served.http, "DELETE", "/channels/q", f"Bearer {wrong}"),
            ask(served.http, "GET", f"/channels/{wrong}", basic("nobody", SECRET)),
            ask(served.http, "POST", "/channels/q", basic("eve", SECRET), b"x"),
            ask(served.http, "POST", "/reload", basic("root", SECRET)),
        ]

    with Log() as log:
        async with serving(users=str(users), audit=str(path)) as served:
            statuses = await deferToThread(work)
            users.write_text("[user.root]\nrights = 1\n")
            with pytest.raises(ConfigError):
                await served.service.reloading.reload("SIGHUP")
    assert statuses == [204, 204, 401, 401, 403, 200]
    found = lines(path)
    assert all(one["address"] == "127.0.0.1" for one in found if one["what"] != "reload")

    def of(front: str) -> list[tuple[str, ...]]:
        return [
            (one["what"], one["outcome"], one.get("user", ""), one.get("on", ""))
            for one in found
            if one.get("front", "") == front
        ]

    good, bad, unknown = (
        ("login", "allowed", "root", ""),
        ("login", "refused", "root", ""),
        ("login", "refused", "", ""),
    )
    eve = ("login", "allowed", "eve", "")
    assert of("memcache") == [
        good,
        ("flush", "allowed", "root", "queue q"),
        bad,
        unknown,
        eve,
        ("delete", "refused", "eve", "queue secret"),
    ]
    assert of("STOMP") == [good, unknown, eve, ("publish", "refused", "eve", "queue q")]
    assert of("HTTP") == [
        good,
        ("purge", "allowed", "root", "queue q"),
        good,
        ("purge", "allowed", "root", "queue q"),
        unknown,
        unknown,
        eve,
        ("publish", "refused", "eve", "queue q"),
        good,
        ("reload", "allowed", "root", "the whole broker"),
    ]
    assert [(one["outcome"], one["user"]) for one in found if one["what"] == "reload" and "front" not in one] == [
        ("done", "root over HTTP"),
        ("failed", "SIGHUP"),
    ]
    assert len(log.events) > 20  # it does see what is logged, at level debug
    everywhere = log.text + path.read_text()
    for secret in (SECRET, base64.b64encode(f"root:{SECRET}".encode()).decode()):
        assert secret not in everywhere


@pytest.mark.parametrize("user", ["", "a", "al", "ali", "alice"])
def test_every_test_fails_that_logs_a_password(user: str) -> None:
    said = f"{user}:{PASSWORD}"
    assert leaks({"what": f"a line with {PASSWORD} in it"})
    assert leaks({"log_level": None, "request": f"Authorization: {test_http.basic(user)}".encode()})
    assert leaks({"what": base64.b64encode(said.encode()).decode()})
    assert not leaks({"what": "open", "number": 5, "bytes": b"sesame"})
