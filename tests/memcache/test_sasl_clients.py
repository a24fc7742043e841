"""Clients that others wrote, and their logins, against one broker that has users.

pylibmc is not asked: its wheel brings a SASL library without the mechanism PLAIN.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import bmemcached
import pytest
from bmemcached.exceptions import MemcachedException

from tests.auth.support import PASSWORD, entry, everything, write
from tests.support import Twistd


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("broker")
    users = {"alice": entry(**everything()), "bob": entry(password="other", subscribe="queue:q")}
    write(folder / "users.toml", users)
    with Twistd(folder, "--data=:memory:", "--users=users.toml") as twistd:
        yield twistd.ports()["memcache"]


def test_bmemcached_logs_in(port: int) -> None:
    with closing(_Bmemcached(port, "alice", PASSWORD)) as client:
        assert client.set("q", {"a": 1}) is True
        assert client.get("q/open") == {"a": 1}
        assert client.get("q/close") is None


def test_bmemcached_with_a_wrong_password_is_told_so(port: int) -> None:
    with (
        closing(_Bmemcached(port, "alice", "wrong")) as client,
        pytest.raises(MemcachedException, match="Auth failure"),
    ):
        client.set("q", 1)


def test_bmemcached_without_a_right_is_refused(port: int) -> None:
    with closing(_Bmemcached(port, "bob", "other")) as client:
        with pytest.raises(MemcachedException, match="not allowed"):
            client.set("q", 1)
        assert client.get("q") is None


def test_a_text_client_logs_in_with_a_set(port: int) -> None:
    token = f"alice {PASSWORD}".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=Twistd.PATIENCE) as client:
        client.sendall(b"get q\r\nset login 0 0 %d\r\n%b\r\nget q\r\nquit\r\n" % (len(token), token))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer == b"CLIENT_ERROR unauthenticated\r\nSTORED\r\nEND\r\n"


class _Bmemcached(bmemcached.Client):  # type: ignore[misc]
    """One that is closed like the others."""

    def __init__(self, port: int, name: str, password: str) -> None:
        super().__init__((f"127.0.0.1:{port}",), name, password, socket_timeout=Twistd.PATIENCE)

    def close(self) -> None:
        self.disconnect_all()
