"""What arrives that is not as it should be, and what twisted.web would make of it; the end of the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http.call import SLACK
from broker.http.channel import LINGERING, SLOWEST
from broker.http.request import PATIENCE
from broker.http.server import IDLE
from tests.http.support import Connection, World, done
from tests.support import flush_logged_errors

# -- methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD"),
        ("/channels/work", "DELETE, GET, HEAD, POST"),
        ("/channels/work/topics/news", "DELETE, PUT"),
        ("/messages/1", "DELETE, GET, HEAD"),
        ("/messages/1/touch", "POST"),
        ("/topics/news", "POST"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "BREW"])
def test_other_methods_are_405_with_allow(method: str, path: str, allowed: str) -> None:
    answer = World().ask(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.body == b"HTTP 405 Method Not Allowed\n"


@pytest.mark.parametrize("path", ["/nothing", "/channels/", "//", "/messages", "/channels/work/", "/channels//work"])
def test_unknown_paths_are_404_in_plain_text(path: str) -> None:
    answer = World().ask("GET", path)
    assert (answer.status, answer.body) == (404, b"HTTP 404 Not Found\n")
    assert (answer.headers["content-type"], answer.headers["server"]) == ("text/plain", "twisted-broker")


def test_the_whole_server_has_no_options() -> None:
    connection = World().connect()
    connection.ask("OPTIONS", "*")
    assert connection.answer().status in (200, 404, 405)


def test_a_request_line_with_scheme_and_host() -> None:
    world = World()
    assert world.ask("GET", "http://127.0.0.1:8989/channels?x=/y").json == {"channels": []}
    assert world.ask("GET", "http://127.0.0.1:8989").json["Linger"] == "Welcome"
    assert world.ask("GET", "http://127.0.0.1:8989/").json["Linger"] == "Welcome"


def test_http_1_0_closes() -> None:
    world = World()
    world.post("work", b"x")
    connection = world.connect()
    connection.send(b"GET /channels/work HTTP/1.0\r\n\r\n")
    assert connection.answer().body == b"x"
    assert connection.closing


# -- browsers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8989"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example:8989", "Origin": "http://evil.example:8989"},
    ],
)
def test_foreign_pages_are_refused(headers: dict[str, str]) -> None:
    world = World()
    for method, path in (("POST", "/channels/work"), ("GET", "/channels"), ("GET", "/healthz"), ("GET", "/nothing")):
        assert world.ask(method, path, b"x", **headers).status == 403
    assert world.ask("GET", "/channels").json == {"channels": []}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "[::1]:8989"},
        {"Host": "192.0.2.7:8989"},
        {"Host": "queue.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://queue.example"},
    ],
)
def test_our_own_pages_are_not(headers: dict[str, str]) -> None:
    assert World(hosts=["Queue.Example"]).ask("POST", "/channels/work", b"x", **headers).status == 202


# -- bodies


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"Host: \xf2\xff", 403),
        (b"Origin: http://\xff", 403),
        (b"Accept: \xff/json", 200),
        (b"Authorization: Bearer \xff", 200),  # there are no users: nobody is asked
        (b"Upgrade: \xff", 200),
        (b"Content-Type: \xff", 200),
        (b"X-Forwarded-For: \xff", 200),
    ],
)
def test_a_header_that_is_no_utf8_is_no_failure_of_ours(field: bytes, status: int) -> None:
    connection = World().connect()
    connection.send(b"GET /channels HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % field)
    assert connection.transport.value().startswith(b"HTTP/1.1 %d " % status)


def chunked(*chunks: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


HEAD = b"POST /channels/work HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"


def test_a_body_in_chunks() -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"one ", b"two"))
    assert connection.answer().status == 202
    assert world.get("work").body == b"one two"


def held(connection: Connection) -> int:
    """Bytes of the body that are in memory."""
    (request,) = connection.protocol.requests
    return len(request.content.getvalue())


def test_a_body_without_end_is_cut_off() -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    sent = most = 0
    while not (answers := connection.answers()):
        connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        sent += 65536
        most = max(most, held(connection))
        assert sent < 4_000_000
    (answer,) = answers
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert most <= 256_000
    assert sent <= 256_000 + PATIENCE + 2 * 65536
    for _ in range(10):
        connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    assert held(connection) == 0
    assert not connection.transport.disconnected
    world.clock.advance(LINGERING)
    assert connection.transport.disconnected


def test_a_body_announced_far_too_large_is_refused_at_once() -> None:
    world = World()
    before = len(world.clock.getDelayedCalls())
    connection = world.connect()
    connection.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n")
    answer = connection.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert b"256000" in answer.body
    assert not connection.closing  # who is still sending could not read it
    for _ in range(100):
        connection.send(b"x" * 100_000)
    assert connection.closing
    assert connection.answers() == []
    connection.leave()
    assert len(world.clock.getDelayedCalls()) == before


@pytest.mark.parametrize("sent", [b"X-A: b\r\n", b"X"])
def test_who_sends_drop_by_drop_is_cut_off_in_the_end(sent: bytes) -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD if sent != b"X" else HEAD + b"Content-Length: 100000\r\n\r\n")
    for _ in range(SLOWEST // 50):
        world.clock.advance(50)
        connection.send(sent)
    assert connection.transport.value() == b""
    world.clock.advance(1)
    connection.send(sent)
    assert connection.transport.value().startswith(b"HTTP/1.1 408 ")
    world.clock.advance(LINGERING)
    assert connection.transport.disconnected


def test_a_refused_client_is_not_waited_for_at_the_end() -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD + b"Content-Length: 10000000\r\n\r\n")
    world.site.drain()
    assert connection.closing
    connection.leave()


def test_a_refusal_in_json() -> None:
    connection = World().connect()
    connection.send(HEAD + b"Accept: application/json\r\nContent-Length: 10000000\r\n\r\n")
    assert connection.answer().json["type"] == "/problems/too-large"


def test_a_body_a_little_too_large_is_not_kept() -> None:
    connection = World().connect()
    connection.send(HEAD + b"Content-Length: 300000\r\n\r\n")
    for _ in range(29):
        connection.send(b"x" * 10_000)
        assert held(connection) <= 256_000
    assert held(connection) == 0
    connection.send(b"x" * 10_000)
    assert connection.answer().status == 400


def test_how_much_of_a_form_is_kept() -> None:
    connection = World().connect()
    head = HEAD.replace(b"text/plain", b"application/x-www-form-urlencoded")
    connection.send(head + b"Content-Length: %d\r\n\r\n" % (12 * 256_000 + SLACK + PATIENCE + 1))
    assert connection.answer().status == 413


def test_a_body_goes_with_any_method() -> None:
    world = World()
    assert world.ask("GET", "/channels/work?nowait", b"x" * 300_000).status == 204
    assert world.ask("DELETE", "/channels/work", b"x").status == 204


def test_100_continue() -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    assert connection.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.transport.clear()
    connection.send(b"x")
    assert connection.answer().status == 202


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /channels HTTP/9.9\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad name: x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\nx",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz",
        b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 600 + b"\r\n",
        b"x" * 40_000,
    ],
)
def test_garbage_is_400_or_a_close_and_nobody_else_notices(garbage: bytes) -> None:
    world = World()
    other = world.waiting("GET", "/channels/work")
    connection = world.connect()
    connection.send(garbage)
    value = connection.transport.value()
    assert value == b"" or value.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 414 ", b"HTTP/1.1 431 "))
    assert b"Traceback" not in value
    world.clock.advance(LINGERING)
    assert connection.closing or connection.transport.disconnected
    connection.leave()
    world.post("work")
    assert other.answer().status == 200


@given(st.lists(st.integers(1, 200), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_answers(cuts: list[int]) -> None:
    data = (
        b"POST /channels/work?priority=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
        b"GET /channels/work?nowait HTTP/1.1\r\nHost: localhost\r\n\r\n"
        + HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + chunked(b"one", b"two")
        + b"DELETE /channels/work HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    world = World()
    connection = world.connect()
    for size in cuts:
        connection.send(data[:size])
        data = data[size:]
    if data:
        connection.send(data)
    assert [answer.status for answer in connection.answers()] == [202, 200, 202, 204]


def test_an_error_of_ours_is_500_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(world.broker, "queues", lambda: 1 // 0)
    answer = world.ask("GET", "/channels")
    assert (answer.status, answer.body) == (500, b"HTTP 500 Internal Server Error\n")
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


# -- time


def test_an_idle_connection_is_closed() -> None:
    world = World()
    connection = world.connect()
    world.clock.advance(IDLE - 1)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.closing
    connection.leave()


def test_half_a_request_is_not_waited_for_any_longer() -> None:
    world = World()
    connection = world.connect()
    connection.send(HEAD + b"Content-Length: 10\r\n\r\nhalf")
    world.clock.advance(IDLE)
    assert connection.closing
    connection.leave()
    assert world.ready("work") == (0, 0)


def test_a_long_poll_outlives_the_idle_time_which_then_begins_anew() -> None:
    world = World()
    connection = world.waiting("GET", "/channels/work")
    world.clock.advance(IDLE + 1)
    assert not connection.closing
    world.post("work")
    assert connection.answer().status == 200
    world.clock.advance(IDLE - 1)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.closing
    connection.leave()


def test_a_connection_that_ends_leaves_no_timer() -> None:
    world = World()
    connection = world.waiting("GET", "/channels/work")
    connection.leave()
    assert [call for call in world.clock.getDelayedCalls() if call.getTime() > 100] == []


# -- the end


def test_who_waits_gets_503_at_the_end_never_204() -> None:
    world = World()
    waiter, idle = world.waiting("GET", "/channels/work"), world.connect()
    world.site.doStart()
    world.site.doStop()
    answer = waiter.answer()
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert int(answer.headers["retry-after"]) > 0
    assert waiter.closing
    assert idle.closing
    assert idle.answers() == []


def test_nothing_new_is_begun_at_the_end() -> None:
    world = World(unready=lambda: "the broker is stopping")
    connection = world.connect()
    connection.send(b"GET /channels/work HTTP/1.1\r\nHo")
    world.site.drain()
    assert not connection.closing
    connection.send(b"st: localhost\r\n\r\n")
    assert connection.answer().status == 503
    assert connection.closing
    late = world.waiting("POST", "/channels/work", b"x", Accept="application/json")
    assert late.answer().json["type"] == "/problems/draining"
    assert late.closing
    assert world.ask("GET", "/healthz").status == 200
    assert world.ask("GET", "/readyz").status == 503


def test_what_was_begun_is_finished_at_the_end() -> None:
    world = World()
    world.store.hold = True
    producer = world.waiting("POST", "/channels/work", b"x")
    world.site.drain()
    assert not producer.closing
    world.store.release_commit()
    answer = producer.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert producer.closing


def test_a_message_that_comes_at_the_end_stays() -> None:
    world = World()
    waiter = world.waiting("GET", "/channels/work")
    world.site.drain()
    assert waiter.answer().status == 503
    world.site.startFactory()
    world.post("work")
    assert world.get("work").headers["x-linger-delivered"] == "1"


def test_a_broker_that_stops_takes_nothing() -> None:
    world = World()
    done(world.broker.stop())
    assert world.post("work").status == 503
    assert world.ask("PUT", "/channels/work/topics/news").status == 503
