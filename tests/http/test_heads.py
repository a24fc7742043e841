"""The short way of a request that comes whole: it is read as twisted.web reads it line by line."""

from __future__ import annotations

import pytest

from broker.http import heads
from tests.http.support import Connection, World

FIRST = b"POST /channels/work?priority=3 HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"


def answered(data: bytes, *, piece: int) -> tuple[bytes, bool]:
    """What a new broker answers to `data` that comes in pieces of this length, and whether it closes then."""
    world = World()
    connection = world.connect()
    for start in range(0, len(data), piece):
        connection.send(data[start : start + piece])
    world.clock.advance(0)
    said = connection.transport.value()
    lines = [line for line in said.split(b"\r\n") if not line.lower().startswith((b"date: ", b"x-linger-lease: "))]
    return b"\r\n".join(lines), connection.closing


@pytest.mark.parametrize(
    "data",
    [
        FIRST + HOST + b"Content-Length: 2\r\n\r\nhi",
        FIRST + HOST + b"content-length:\t2 \r\nX-Message-A: 1\r\nx-message-a: 2\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\n\r\nhi" + b"GET /channels/work HTTP/1.1\r\n" + HOST + b"\r\n",
        FIRST + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: +2\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
        FIRST + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        FIRST + HOST + b"Content-Length: 2\r\nX-Message-Long: one\r\n two\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nX-Message-A: b\nc\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nno colon\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\nbad name: 1\r\n\r\nhi",
        FIRST + HOST + b"Content-Length: 2\r\n: 1\r\n\r\nhi",
        FIRST + b"Host: evil.example\r\nContent-Length: 2\r\n\r\nhi",
        FIRST + b"Content-Length: 2\r\n\r\nhi",
        b"GET /channels HTTP/1.1\r\n\r\n",
        b"GET /channels HTTP/1.0\r\n" + HOST + b"\r\n",
        b"GET /channels HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET  /channels HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /channels HTTP/1.1\r\n" + HOST + b"\r\n",
        b"HEAD /channels HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://localhost/channels HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /nothing HTTP/1.1\r\n" + HOST + b"Accept: application/json\r\n\r\n",
        b"GET /channels HTTP/1.1\r\n" + HOST + b"X: " + b"x" * heads.LONGEST + b"\r\n\r\n",
    ],
)
def test_it_is_answered_as_one_that_comes_byte_by_byte(data: bytes) -> None:
    assert answered(data, piece=len(data)) == answered(data, piece=1)


def test_what_follows_in_the_same_piece_is_answered_in_order() -> None:
    connection = World().connect()
    connection.send((FIRST + HOST + b"Content-Length: 2\r\n\r\nhi") * 3000)
    assert connection.transport.value().count(b"HTTP/1.1 202 Accepted") == 3000


def test_credentials_are_not_kept() -> None:
    before = heads._known.cache_info().currsize
    for name in (b"Authorization", b"authorization", b"AUTHORIZATION"):
        assert heads.read(b"%b: Bearer secret\r\nX-Once: %b" % (name, name)) is not None
    assert heads._known.cache_info().currsize == before


def test_a_line_end_in_a_value_is_a_blank() -> None:
    head = heads.written(b"HTTP/1.1", 200, b"OK", [(b"x-a", b"1\r\nX-B: 2"), (b"ce-id", b"3\n4")])
    assert head == b"HTTP/1.1 200 OK\r\nX-A: 1 X-B: 2\r\nCe-Id: 3 4\r\n\r\n"


def test_a_connection_is_closed_when_nothing_came_for_a_minute_and_not_before() -> None:
    world = World()

    def idle(seconds: float, connection: Connection) -> bool:
        world.clock.advance(seconds)
        return connection.closing

    connection = world.connect()
    for _ in range(3):
        assert not idle(59, connection)
        connection.ask("GET", "/channels")
        assert connection.answer().status == 200
    assert not idle(59.5, connection)
    assert idle(0.5, connection)


def test_who_waits_for_us_is_not_idle() -> None:
    world = World()
    connection = world.waiting("GET", "/channels/work")
    for _ in range(4):
        world.clock.advance(29)
    assert not connection.closing
    world.clock.advance(4)
    assert connection.answer().status == 204
    world.clock.advance(59)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.closing


def test_each_head_on_a_connection_is_looked_at() -> None:
    connection = World().connect()
    for host, status in [("localhost", 200), ("localhost", 200), ("evil.example", 403), ("evil.example", 403)]:
        connection.ask("GET", "/channels", headers={"Host": host})
        assert connection.answer().status == status
