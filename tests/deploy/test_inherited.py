"""Sockets that systemd has made: every front takes them, and leaves them as they are."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.interfaces import IReactorSocket

from broker.errors import ConfigError
from broker.listen import Inherited, parse
from tests.deploy.support import Activated
from tests.support import Twistd


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def talk(port: int, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as connection:
        connection.sendall(words)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_all_fronts_take_them_and_clients_wait_while_the_broker_is_started_again(tmp_path: Path) -> None:
    options = [f"--{front}=systemd:domain=INET:name={front}" for front in ("memcache", "stomp", "http")]
    with listening() as memcache, listening() as stomp, listening() as http_:
        sockets = {"stomp": stomp, "http": http_, "memcache": memcache}
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
        with Activated(tmp_path, *options, sockets=sockets) as twistd:
            said = twistd.ports()
            assert said == {"memcache": ports["memcache"], "STOMP": ports["stomp"], "HTTP": ports["http"]}
            assert talk(ports["memcache"], b"set q 0 0 3\r\none\r\nquit\r\n") == b"STORED\r\n"
            hello = talk(ports["stomp"], b"CONNECT\naccept-version:1.2\nhost:x\n\n\0DISCONNECT\n\n\0")
            assert hello.startswith(b"CONNECTED\n")
            asked = http.client.HTTPConnection("127.0.0.1", ports["http"], timeout=Twistd.PATIENCE)
            asked.request("GET", "/readyz")
            assert asked.getresponse().status == 200
            asked.close()
            twistd.process.send_signal(signal.SIGTERM)
            assert twistd.wait() == -signal.SIGTERM
        came: list[bytes] = []
        waiting = threading.Thread(target=lambda: came.append(talk(ports["memcache"], b"get q\r\nquit\r\n")))
        waiting.start()  # nobody is there; it is not refused
        with Activated(tmp_path, *options, sockets=sockets):
            waiting.join(Twistd.PATIENCE)
            assert came == [b"VALUE q 0 3\r\none\r\nEND\r\n"]


def test_a_unix_sockets_file_keeps_its_mode_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "memcache"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))
        path.chmod(0o660)
        made.listen()
        wish = "--memcache=systemd:domain=UNIX:index=0"
        with Activated(tmp_path, wish, "--stomp=off", "--http=off", sockets={"memcache": made}) as twistd:
            twistd.until(r"#info\] ready")
            assert f"broker: memcache on unix:{path}\n" in twistd.said
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(Twistd.PATIENCE)
                client.connect(os.fspath(path))
                client.sendall(b"version\r\n")
                assert client.recv(100).startswith(b"VERSION")
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            twistd.process.send_signal(signal.SIGTERM)
            assert twistd.wait() == -signal.SIGTERM
        assert path.exists()
        assert "Traceback" not in twistd.said
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))  # who comes now waits for the next one


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("systemd:domain=INET:name=nosuch", "nobody has left such a socket to this process"),
        ("systemd:domain=INET:index=7", "nobody has left such a socket to this process"),
        ("systemd:name=stomp", "it is systemd:domain=INET:name=NAME, or ...:index=N"),
        ("systemd:domain=INET:index=x", "it is systemd:domain=INET:name=NAME, or ...:index=N"),
        ("systemd:domain=INET", "it is systemd:domain=INET:name=NAME, or ...:index=N"),
        ("systemd:domain=INET:name=stomp:index=1", "it is systemd:domain=INET:name=NAME, or ...:index=N"),
    ],
)
def test_one_that_is_not_there_is_named(where: str, why: str) -> None:
    from twisted.internet import reactor

    with pytest.raises(ConfigError) as raised:
        parse(where, cast(IReactorSocket, reactor))
    assert where in raised.value.reason
    assert why in raised.value.reason


def test_one_that_takes_no_connections_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as connects:
        for useless in (datagrams, connects):
            with pytest.raises(ConfigError, match="the socket does not wait for connections"):
                Inherited("systemd:domain=INET:index=0", useless.fileno()).bind()
    with pytest.raises(ConfigError, match="Bad file descriptor"):
        Inherited("systemd:domain=INET:index=0", 9999).bind()


def test_one_beyond_loopback_takes_users_as_any_port_does(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as made:
        options = ("--memcache=systemd:domain=INET:name=memcache", "--stomp=off", "--http=off")
        with Activated(tmp_path, *options, sockets={"memcache": made}) as twistd:
            assert twistd.wait() == 1
    assert "is open to anybody on the network" in twistd.said
