"""Users of a broker as it is started: real sockets, real hashes, clients that others wrote."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import stomp
from twisted.internet.threads import deferToThread

from broker.options import Options
from broker.service import makeService
from tests.auth.support import PASSWORD, TOKEN, Log, entry, everything, write
from tests.support import Served, Twistd, serving, tx


def users(folder: Path) -> Path:
    return write(
        folder / "users.toml",
        {
            "alice": entry(tokens=(TOKEN,), **everything()),
            "bob": entry(password="other", subscribe="queue:q"),
            "anonymous": entry(password="", browse="queue:q"),
        },
    )


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def talk(port: int, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=Twistd.PATIENCE) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.errors: list[Any] = []
        self.gone = threading.Event()

    def on_error(self, frame: Any) -> None:
        self.errors.append(frame.headers["message"])

    def on_disconnected(self) -> None:
        self.gone.set()


def by_stomp(port: int, name: str, password: str) -> list[Any]:
    """Connect, put a message into q, disconnect; the errors."""
    connection = stomp.Connection12([("127.0.0.1", port)], reconnect_attempts_max=1)
    listener = Listener()
    connection.set_listener("", listener)
    try:
        connection.connect(name, password, wait=True)
        connection.send("/queue/q", "by stomp", receipt="1")
        connection.disconnect(receipt="2")
    except (stomp.exception.ConnectFailedException, stomp.exception.NotConnectedException):
        pass
    # Who connects hears that it failed before the listener does, from another thread.
    assert listener.gone.wait(Twistd.PATIENCE)
    return listener.errors


@tx(120)
async def test_all_three_fronts_know_the_users_and_no_log_their_passwords(tmp_path: Path) -> None:
    def work(served: Served) -> None:
        assert by_stomp(served.stomp, "alice", PASSWORD) == []
        assert by_stomp(served.stomp, "alice", "guessed-1") == ["Access refused"]
        assert by_stomp(served.stomp, "bob", "other") == ["Access refused"]
        words = b"get q\r\nset l 0 0 9\r\nbob other\r\nget q\r\nset q 0 0 1\r\nx\r\n"
        assert talk(served.memcache, words) == (
            b"CLIENT_ERROR unauthenticated\r\nSTORED\r\nVALUE q 0 8\r\nby stomp\r\nEND\r\n"
            b"CLIENT_ERROR not allowed: user bob has no right to publish to queue q\r\n"
        )
        assert talk(served.memcache, b"set l 0 0 13\r\nbob guessed-2\r\n").startswith(b"CLIENT_ERROR authentication")
        assert ask(served.http, "GET", "/readyz")[0] == 200
        assert ask(served.http, "GET", "/channels")[0] == 401
        assert ask(served.http, "GET", "/channels", Authorization=basic("alice", "guessed-3"))[0] == 401
        assert ask(served.http, "POST", "/channels/q", b"x", Authorization=basic("bob", "other"))[0] == 403
        assert ask(served.http, "POST", "/channels/q", b"x", Authorization=f"Bearer {TOKEN}")[0] == 202
        assert ask(served.http, "GET", "/channels/q?nowait", Authorization=basic("bob", "other")) == (200, b"x")

    with Log() as log:
        async with serving(users=str(users(tmp_path))) as served:
            await deferToThread(work, served)
    assert "login of bob from 127.0.0.1 failed" in log.text
    for secret in (PASSWORD, "guessed", "other", TOKEN, basic("bob", "other").split()[1]):
        assert secret not in log.text


@tx(120)
async def test_a_reload_counts_for_who_comes_and_a_bad_file_does_not(tmp_path: Path) -> None:
    path = users(tmp_path)

    def status(served: Served, name: str, password: str) -> int:
        return ask(served.http, "GET", "/", Authorization=basic(name, password))[0]

    async with serving(users=str(path)) as served:
        assert await deferToThread(status, served, "bob", "other") == 200
        write(path, {"carol": entry(password="third")})
        await served.service.reloading.reload("test")
        assert await deferToThread(status, served, "bob", "other") == 401
        assert await deferToThread(status, served, "carol", "third") == 200
        path.write_text("[user.eve]\nrights = 5\n")
        with Log() as log:
            await served.service.reloading.hang_up()
        assert f"SIGHUP: everything stays as it was: {path}: user.eve.rights: expected `object`" in log.text
        assert await deferToThread(status, served, "carol", "third") == 200


@tx(120)
async def test_anonymous_has_the_rights_of_its_entry(tmp_path: Path) -> None:
    async with serving(users=str(users(tmp_path)), allow_anonymous=True) as served:
        assert (await deferToThread(ask, served.http, "GET", "/channels/q/stats"))[0] == 200
        assert (await deferToThread(ask, served.http, "POST", "/channels/q", b"x"))[0] == 403
        assert await deferToThread(talk, served.memcache, b"get q\r\n") == (
            b"CLIENT_ERROR not allowed: user anonymous has no right to take from queue q\r\n"
        )


def refusal(*options: str) -> str:
    parsed = Options()
    parsed.parseOptions(["--memcache=0", "--stomp=off", "--http=off", "--data=:memory:", *options])
    with pytest.raises(SystemExit) as ended:
        makeService(parsed)
    return str(ended.value.code)


def test_a_users_file_with_a_mistake_ends_the_start_with_one_line(tmp_path: Path) -> None:
    path = users(tmp_path)
    path.write_text("[user.alice]\npasword = 'x'\n")
    assert refusal("--users", str(path)) == f"broker: {path}: user.alice.pasword: unknown key"
    path.chmod(0o644)
    assert "others may read or write it (mode 0644)" in refusal("--users", str(path))
    assert refusal("--users", "/none") == "broker: cannot read /none: No such file or directory"


def test_anonymous_that_is_allowed_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    assert "user.anonymous: missing" in refusal("--users", str(path), "--allow-anonymous")


def test_beyond_loopback_it_starts_with_users(tmp_path: Path) -> None:
    assert "is open to anybody on the network; name --users" in refusal("--memcache=0.0.0.0:0")
    path = users(tmp_path)
    parsed = Options()
    parsed.parseOptions(["--memcache=0.0.0.0:0", "--stomp=off", "--http=off", "--data=:memory:", f"--users={path}"])
    before = signal.getsignal(signal.SIGHUP)
    made = makeService(parsed).current
    assert made is not None
    made.let_go()
    signal.signal(signal.SIGHUP, before)


def test_the_files_key_is_users_and_its_path_is_the_current_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broker.toml").write_text('users = "users.toml"\n')
    monkeypatch.chdir(tmp_path)
    options = Options()
    options.parseOptions(["--config=broker.toml"])
    assert options.config().users == str(tmp_path / "users.toml")
    options = Options()
    options.parseOptions(["--config=broker.toml", "--users=other.toml"])
    assert options.config().users == str(tmp_path / "other.toml")


def test_twistd_with_users_reads_them_again_at_sighup_and_stops_cleanly(tmp_path: Path) -> None:
    path = users(tmp_path)
    with Twistd(tmp_path, "--users", str(path), "--log-level=debug") as twistd:
        port = twistd.ports()["HTTP"]
        assert f"broker: users in {path}\n" in twistd.said
        assert ask(port, "GET", "/channels", Authorization=basic("alice", PASSWORD))[0] == 200
        write(path, {"carol": entry(password="third", **everything())})
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: 1 users in ")
        assert ask(port, "GET", "/channels", Authorization=basic("alice", PASSWORD))[0] == 401
        status, body = ask(port, "GET", "/channels", Authorization=basic("carol", "third"))
        assert (status, json.loads(body)) == (200, {"channels": []})
        twistd.process.send_signal(signal.SIGTERM)
        assert twistd.wait() == -signal.SIGTERM
        for secret in (PASSWORD, "third", "scrypt"):
            assert secret not in twistd.said
        assert "Traceback" not in twistd.said
