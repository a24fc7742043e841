"""What a configuration says of memcache listeners, against the process."""

from __future__ import annotations

import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import get_args, get_type_hints

from broker.config import MemcacheListener
from broker.memcache.dialect import DIALECTS
from tests.support import Twistd


def talk(port: int, data: bytes) -> bytes:
    """Send, and return all that comes until the broker closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=Twistd.PATIENCE) as connection:
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


def test_more_clients_than_select_could_watch_and_those_who_come_again(tmp_path: Path) -> None:
    """4.4/11"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = 1_100
    with ExitStack() as open_now:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * clients), hard))
        open_now.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        twistd = open_now.enter_context(Twistd(tmp_path, "--data=:memory:"))
        address = "127.0.0.1", twistd.ports()["memcache"]
        assert twistd.process.stdout is not None
        reader = threading.Thread(target=twistd.process.stdout.read)  # a line for each client: more than a pipe holds
        reader.start()
        open_now.callback(reader.join)
        open_now.callback(twistd.process.kill)
        all_of_them = [
            open_now.enter_context(socket.create_connection(address, timeout=Twistd.PATIENCE)) for _ in range(clients)
        ]
        for number, one in enumerate(all_of_them):
            one.sendall(b"set work 0 0 4\r\n%04d\r\n" % number)
        assert {one.recv(100) for one in all_of_them} == {b"STORED\r\n"}
        for one in all_of_them[::100]:
            one.close()
        with socket.create_connection(address, timeout=Twistd.PATIENCE) as again:
            again.sendall(b"get work\r\n")
            assert again.recv(100).startswith(b"VALUE work 0 4\r\n")
        assert b"curr_items 1099\r\n" in talk(address[1], b"stats\r\nquit\r\n")
