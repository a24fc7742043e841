"""Requests that are wrong, on every route: a 4xx that says what and where, and nothing put in, taken or changed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from broker.http.call import BULK
from broker.http.channel import LINGERING
from broker.http.problems import PROBLEMS
from broker.http.request import PATIENCE
from tests.http.support import Connection, Response, World
from tests.http.test_parameters import multipart
from tests.support import flush_logged_errors

JSON = {"Content_Type": "application/json"}
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
TEXT = {"Content_Type": "text/plain"}
BROKEN = {"Content_Type": "multipart/form-data; boundary=x"}
EVENT = {"Content_Type": "application/cloudevents+json"}
LONG = str(2**63)
DIGITS = "9" * 5_000

Wrong = tuple[str, str, bytes, Mapping[str, str], int, str]


def wrong(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] = FORM,
    status: int = 400,
    kind: str = "bad-parameter",
) -> Wrong:
    return method, path, body, headers, status, kind


NUMBERS = [
    *(wrong("POST", f"/channels/work?{name}={LONG}", b"x") for name in ("priority", "timeout", "deliver", "linger")),
    *(wrong("POST", f"/channels/work?{name}={DIGITS}", b"x") for name in ("priority", "timeout", "delay", "at")),
    *(wrong("PUT", "/channels/work/topics/t", f"{name}={LONG}".encode()) for name in ("priority", "timeout", "linger")),
    *(wrong("PUT", "/channels/work/sources/queue:q", f"{name}={DIGITS}".encode()) for name in ("deliver", "from")),
    *(wrong("GET", f"/channels/work?{name}={LONG}") for name in ("timeout", "wait")),
    *(wrong("POST", f"/channels/work/lease?{name}={LONG}") for name in ("limit", "timeout", "wait")),
    *(wrong("POST", "/channels/work/lease", b'{"%b":%b}' % (name, LONG.encode()), JSON) for name in (b"max", b"wait")),
    *(wrong("GET", f"/channels/work/messages?{name}={LONG}") for name in ("limit", "after", "since", "until")),
    *(wrong("GET", f"/topics/news/messages?{name}={DIGITS}") for name in ("limit", "after", "since", "until")),
    wrong("GET", f"/channels/work/stream?credit={LONG}"),
    wrong("GET", f"/channels?detail=1&limit={LONG}"),
    *(
        wrong(method, f"/messages/{id}{more}")
        for id in (LONG, DIGITS)
        for method, more in (("GET", ""), ("DELETE", ""), ("POST", "/touch"), ("POST", "/nack"))
    ),
    wrong("POST", "/commit", b'{"ops":[{"ack":{"id":%b}}]}' % LONG.encode(), JSON),
    wrong("POST", "/commit", b'{"ops":[{"touch":{"id":1,"timeout":1e999}}]}', JSON),
    wrong("POST", "/commit", b'{"ops":[{"publish":{"channel":"a","body":"x","deliver":%b}}]}' % LONG.encode(), JSON),
    wrong("POST", "/commit", b'{"ops":[{"publish":{"channel":"a","body":"x","delay":-1}}]}', JSON),
]

NO_UTF8 = multipart(('name="msg"', b"\xff"))
NO_TEXT = [
    wrong("POST", "/channels/work", b"msg=%FF"),
    wrong("POST", "/channels/work", b"msg=x&group=%C3"),
    wrong("POST", "/channels/work?to=%FF", b"msg=x"),
    wrong("POST", "/topics/news", b"msg=%FF"),
    wrong("POST", "/channels/work", b"\xff", EVENT),
    wrong("POST", "/channels/work", NO_UTF8[1], {"Content_Type": NO_UTF8[0]}),
    wrong("POST", "/channels/work?timeout=%FF", b"x"),
    wrong("PUT", "/channels/work/topics/t", b"match=%FF"),
    *(wrong("GET", f"/channels/work?nowait&{name}=%FF") for name in ("worker", "code", "ack", "timeout")),
    *(wrong("POST", f"/channels/work/lease?nowait&{name}=%FF") for name in ("worker", "code", "attempt", "limit")),
    wrong("POST", "/channels/work/lease", b'{"worker":"\xff"}', JSON),
    wrong("GET", "/channels/work/messages?match=%FF"),
    wrong("GET", "/topics/news/messages?match=%FF"),
    *(wrong(method, f"/channels/%C3%28{rest}") for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/stats"))),
    wrong("POST", "/topics/%FF", b"x"),
    wrong("PUT", "/channels/work/topics/%FF"),
    wrong("PUT", "/channels/work/sources/queue:%FF"),
    wrong("POST", "/commit", b'{"ops":[{"publish":{"channel":"a","body":"\xff"}}]}', JSON),
    wrong("PUT", "/channels/work/config", b'{"paused":"\xff"}', JSON),
    wrong("PUT", "/definitions", b"\xff", JSON),
]

NO_MULTIPART = [
    wrong(method, path, body, BROKEN)
    for method, path in (
        ("POST", "/channels/work"),
        ("POST", "/topics/news"),
        ("PUT", "/channels/work/topics/t"),
        ("POST", "/channels/work/lease"),
        ("POST", "/messages/8589934593/nack"),
    )
    for body in (b"nonsense", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="msg"\r\n\r\nno end')
]

PATHS = [
    *(
        wrong("GET", path, status=404, kind="not-found")
        for path in (
            *(
                "/channels/work/../stats",
                "/./stats",
                "/../stats",
                "//stats",
                "/stats/",
                "/stats//",
                "/%2Fstats",
                "/st%61ts",
            ),
            *(
                "/channels//messages",
                "/channels/work//messages",
                "/channels/work/messages/",
                "/channels/work/%6Dessages",
            ),
            *(
                "/topics//messages",
                "/messages/",
                "/messages/+1",
                "/messages/1%2Ftouch",
                "/messages/%31",
                "/channels%2Fwork",
            ),
            *("/problems/", "/problems/..", "/problems/..%2F..%2Fetc", "/channels/a\\b", "/channels/work\\..\\stats"),
        )
    ),
    *(wrong("GET", f"/channels/{name}") for name in ("%00", "%0A", "a%7Fb", "%", "%2", "n" * 251)),
    wrong("PUT", "/channels/work/sources/nothing:x"),
    wrong("PUT", "/channels/work/sources/queue:"),
]

TYPES = [
    *(
        wrong(method, path, b"{}", headers, 415, "unsupported-type")
        for headers in (TEXT, {"Content_Type": "image/png"}, {"Content_Type": "odd"}, {"Content_Type": "a/b/c; d;;=e"})
        for method, path in (
            ("POST", "/channels/work/messages"),
            ("POST", "/channels/work/lease"),
            ("POST", "/commit"),
            ("PUT", "/channels/work/config"),
            ("PATCH", "/topics/news/config"),
            ("PUT", "/definitions"),
        )
    ),
    *(
        wrong("POST", path, body, JSON)
        for path in ("/channels/work/messages", "/commit", "/channels/work/lease")
        for body in (b"nonsense", b"[" * 10_000, b'{"a":', b"\x00", "{}".encode("utf-16"), b'"x"')
    ),
    wrong("POST", "/channels/work", b"[]", EVENT),
    wrong("POST", "/channels/work", b"[" * 10_000, EVENT),
    wrong("POST", "/topics/news", b'{"id":7}', EVENT),
]

SIZES = [
    wrong("POST", "/channels/work", b"", status=400, kind="empty-message"),
    wrong("POST", "/channels/work", b"x" * 256_001, TEXT, 400, "too-large"),
    wrong("POST", "/channels/work", b"x" * 700_000, EVENT, 400, "too-large"),
    wrong("POST", "/channels/work/lease", b" " * 300_000, JSON, 413, "too-large"),
    wrong("PUT", "/channels/work/config", b" " * 300_000, JSON, 413, "too-large"),
    wrong("POST", "/commit", b'{"ops":[{"publish":{"channel":"a","body":""}}]}', JSON),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "kind"),
    [
        pytest.param(*one, id=f"{one[0]} {one[1][:40]} {one[2][:40]!r}")
        for one in (*NUMBERS, *NO_TEXT, *NO_MULTIPART, *PATHS, *TYPES, *SIZES)
    ],
)
def test_what_is_wrong_is_a_problem_and_changes_nothing(
    method: str, path: str, body: bytes, headers: Mapping[str, str], status: int, kind: str
) -> None:
    world = World()
    world.ask("PUT", "/channels/work/topics/news")
    kept = world.post("work", b"kept")
    before = world.store.commits, world.ask("GET", "/definitions").json
    answer = world.ask(method, path, body, **headers, Accept="application/problem+json")
    said = answer.json
    assert (answer.status, said["status"], said["type"]) == (status, status, f"/problems/{kind}")
    assert kind in PROBLEMS
    assert said["detail"]
    assert said["instance"] == path.partition("?")[0]
    assert (world.store.commits, world.ask("GET", "/definitions").json) == before
    got = world.get("work")
    assert (got.id, got.body, got.headers["x-linger-delivered"]) == (kept.id, b"kept", "1")
    assert world.get("work").status == 204


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"ops":[{"ack":{"id":1}},{"ack":{"id":"x"}}]}', "/ops/1/ack/id"),
        (b'{"ops":[{"publish":{"channel":"a","headers":{"a":1}}}]}', "/ops/0/publish/headers"),
        (b'{"ops":[{"ack":{"id":1}},', "/ops/1"),
        (b'{"ops":[7]}', "/ops/0"),
        (b'{"ops":[{}] x', "/ops/0"),
    ],
)
def test_the_place_in_a_body_is_named(body: bytes, pointer: str) -> None:
    answer = World().ask("POST", "/commit", body, **JSON, Accept="application/json")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)


def test_the_place_in_a_filter_is_named() -> None:
    answer = World().ask("GET", "/channels/work/messages?match=size%20%3E%20%3E%201", Accept="application/json")
    assert (answer.status, answer.json["errors"][0]["position"]) == (400, 8)


def test_unknown_parameters_and_headers_are_ignored() -> None:
    world = World()
    assert world.post("work", b"x", "?colour=%FF&Priority=x&=&&", X_Odd="\x7e").status == 202
    assert world.ask("GET", "/channels/work?nowait&colour=%FF").body == b"x"


def test_a_limit_beyond_a_thousand_is_a_thousand() -> None:
    world = World()
    for _ in range(3):
        world.post("work")
    assert len(world.ask("GET", "/channels/work/messages?limit=9999999").json["messages"]) == 3
    assert len(world.ask("POST", "/channels/work/lease?limit=9999999&nowait", b"").json["messages"]) == 3


@pytest.mark.parametrize("name", ["a%2Fb", "..", ".", "%2e%2e", "..%2F..%2Fetc", "a%5Cb", "%25", "a;b", "a%3Fb"])
def test_a_name_that_looks_like_a_path_is_a_name(name: str) -> None:
    world = World()
    world.post(name, b"here")
    assert world.ready(name) == (1, 0)
    assert world.get(name).body == b"here"
    assert len(world.ask("GET", "/channels").json["channels"]) == 1


@pytest.mark.parametrize("kind", ["", "odd", "a/b/c; d;;=e", "text/html; charset=none", "multipart/mixed", "\xe9/\xe9"])
def test_a_message_of_an_unknown_type_goes_in_and_out(kind: str) -> None:
    world = World()
    assert world.post("work", b"\xff\x00", Content_Type=kind).status == 202
    for accept in ("application/cloudevents+json", "application/json", "odd;;;=,", "q=0", ",,;", "*/*;q=none"):
        answer = world.ask("POST", "/channels/work/lease?nowait&timeout=1", b"", Accept=accept)
        assert (answer.status, len(answer.json["messages"])) == (200, 1)
        world.clock.advance(1)
    assert world.get("work").body == b"\xff\x00"


def test_an_answer_that_cannot_be_made_gives_the_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, method, maker in (("", "GET", "delivered"), ("/lease", "POST", "form_of")):
        world = World()
        world.post("work", b"kept")
        with monkeypatch.context() as patch:
            patch.setattr(f"broker.http.consuming.{maker}", lambda *_: 1 // 0)
            assert world.ask(method, f"/channels/work{path}?nowait", b"").status == 500
        assert len(flush_logged_errors(ZeroDivisionError)) == 1
        got = world.get("work")
        assert (got.body, got.headers["x-linger-delivered"]) == (b"kept", "1")


# -- bytes without end

POST = b"POST /channels/work%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def refused(connection: Connection, piece: bytes, most: int) -> tuple[int, Response | None]:
    """Send `piece` until we are told to stop: after how many bytes, and what was said."""
    sent = 0
    while not (answers := connection.answers()) and not connection.closing:
        connection.send(piece)
        sent += len(piece)
        assert sent <= most
    return sent, answers[0] if answers else None


@pytest.mark.parametrize(
    ("start", "piece", "most", "statuses"),
    [
        (POST % b"/messages" + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b"[" * 0x8000 + b"\r\n", 0, {413}),
        (POST % b"" + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1_000, 20_000, {400}),
        (POST % b"" + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-A: b\r\n" * 100, 200_000, {400}),
        (POST % b"", b"X-A: " + b"b" * 1_000 + b"\r\n", 40_000, {400, 431}),
        (POST % b"", b"X-A: b\r\n" * 50, 40_000, {400, 431}),
        (POST % b"" + b"X-A: ", b"b" * 1_000, 40_000, {431}),
        (b"POST /channels/", b"w" * 1_000, 40_000, {414}),
        (b"", b"\r\n" * 1_000, 40_000, {400}),
    ],
)
def test_what_never_ends_is_cut_off(start: bytes, piece: bytes, most: int, statuses: set[int]) -> None:
    world = World()
    connection = world.connect()
    connection.send(start)
    _, answer = refused(connection, piece, most or BULK + PATIENCE + 100_000)
    assert answer is not None
    assert answer.status in statuses
    world.clock.advance(LINGERING)
    assert connection.closing or connection.transport.disconnected
    connection.leave()
    assert world.ask("GET", "/channels").json == {"channels": []}
