"""What a configuration says of memcache listeners, against the process."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import get_args, get_type_hints

from broker.config import MemcacheListener
from broker.memcache.dialect import DIALECTS
from tests.support import Twistd


def talk(port: int, data: bytes) -> bytes:
    """Send, and return all that comes until the broker closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_listener_may_have_any_dialect_there_is() -> None:
    assert list(DIALECTS) == list(get_args(get_type_hints(MemcacheListener)["dialect"]))
    assert all(name == dialect.name for name, dialect in DIALECTS.items())


def test_listeners_have_their_dialects_and_one_status_and_shutdown_where_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text(
        'memcache = [0, { listen = 0, dialect = "kestrel", shutdown = "on", idle_timeout = 60_000 }]\n'
        'stomp = []\nhttp = []\ndata = ":memory:"\n'
    )
    with Twistd(tmp_path, "--config=broker.toml", free_ports=False) as twistd:
        twistd.until(r"#info\] ready")
        default, kestrel = (
            int(line.rpartition(":")[2]) for line in twistd.said.splitlines() if line.startswith("broker: memcache on")
        )
        assert talk(default, b"shutdown\r\nstatus readonly\r\nquit\r\n") == b"ERROR: shutdown not enabled\r\nEND\r\n"
        assert talk(kestrel, b"status\r\nflush_all\r\n") == b"READONLY\r\nSERVER_ERROR\r\n"
        assert talk(kestrel, b"status up\r\nflush_all\r\nshutdown\r\n") == b"END\r\nFlushed all queues.\r\n"
        assert twistd.wait() == 0
        assert "anonymous over memcache: shutdown" in twistd.said


def test_the_status_is_kept_over_a_restart(tmp_path: Path) -> None:
    for answer, level in (b"UP", b"readonly"), (b"READONLY", b"up"):
        with Twistd(tmp_path) as twistd:
            port = twistd.ports()["memcache"]
            assert talk(port, b"status\r\nstatus %b\r\nquit\r\n" % level) == answer + b"\r\nEND\r\n"
    (tmp_path / "broker.sqlite.status").write_text("sideways\n")
    with Twistd(tmp_path) as twistd:
        assert twistd.wait() == 1
        assert "broker.sqlite.status holds no status" in twistd.said
