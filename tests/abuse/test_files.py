"""More connections than the broker may open files."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

import pytest

from tests.support import Twistd

#: Files the broker may open, more than it needs for itself; and connections that want one.
FILES, FLOOD = 100, 200


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux has it (second layer)")
def test_who_is_there_is_served_and_who_comes_later_comes_in_when_others_have_gone(tmp_path: Path) -> None:
    def asked(connection: socket.socket) -> bytes:
        connection.sendall(b"version\r\n")
        return connection.recv(100)

    with Twistd(tmp_path, "--data=:memory:") as twistd, contextlib.ExitStack() as stack:
        ports = twistd.ports()
        resource.prlimit(twistd.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))

        def connect(front: str) -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", ports[front]), Twistd.PATIENCE))

        first = connect("memcache")
        assert asked(first).startswith(b"VERSION")
        flood = [connect(("memcache", "STOMP", "HTTP")[number % 3]) for number in range(FLOOD)]
        assert asked(first).startswith(b"VERSION")
        assert flood[-2].recv(1) == b""  # closed, and not left waiting
        for one in flood:
            one.close()
        for _ in range(FLOOD):  # until it has seen that they went
            late = connect("memcache")
            with contextlib.suppress(OSError):
                if asked(late):
                    return
        raise AssertionError("nobody comes in any more")
