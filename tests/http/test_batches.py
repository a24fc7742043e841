"""Several messages in one body, in and out: what is read of it, how far, and what is said of what is wrong."""

from __future__ import annotations

import email
import email.message
import email.policy
import socket
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from broker.core.destination import queue
from broker.core.message import Message
from broker.http.batch import MAX_BATCH, messages_of
from broker.http.call import AT_ONCE, BULK
from broker.http.commit import MAX_OPS
from broker.http.elements import OPS, elements
from broker.http.problem import Problem
from tests.http.support import Response, World, done, parse
from tests.http.test_sockets import listening
from tests.support import Twistd, tx

JSON, NDJSON = "application/json", "application/x-ndjson"
EVENTS = "application/cloudevents-batch+json"
LONG = 1_000

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(values, max_size=5), st.sampled_from([-1, 0, 3]))
def test_the_elements_of_an_array_are_those_of_a_decoder(said: list[Any], indent: int) -> None:
    body = msgspec.json.format(msgspec.json.encode(said), indent=indent)
    assert [msgspec.json.decode(one) for one in elements(body, LONG)] == said
    body = b' { "ops" : %b } ' % body
    assert [msgspec.json.decode(one) for one in elements(body, LONG, OPS)] == said


def test_elements_behind_those_that_are_wanted_are_not_read() -> None:
    assert list(islice(elements(b"[1,2,nonsense", LONG), 2)) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"", 400, None),
        (b"{}", 400, None),
        (b"\xff[1]", 400, None),
        (b'["\xc3"]', 400, None),
        (b"\xef\xbb\xbf[1]", 400, None),
        (b"[", 400, "/0"),
        (b"[1", 400, "/0"),
        (b"[1,", 400, "/1"),
        (b"[1,]", 400, "/1"),
        (b"[1 2]", 400, "/0"),
        (b"[1]]", 400, "/0"),
        (b"[1] 2", 400, "/0"),
        (b"[" + b"9" * 600 + b",x]", 400, "/1"),
        (b"[1," + b"[" * 900 + b"]", 400, "/1"),
        (b"[1," + b"[" * 5_000, 413, "/1"),
        (b'[1,"' + b"x" * LONG + b'"]', 413, "/1"),
        (b" " * 500_000 + b"]", 400, None),
        (b"[1" + b" " * 500_000 + b"x", 400, "/0"),
    ],
)
def test_what_is_no_array_is_named_with_its_place(body: bytes, status: int, pointer: str | None) -> None:
    with pytest.raises(Problem) as raised:
        list(elements(body, LONG))
    problem = raised.value
    assert (problem.status, problem.kind) == (status, "bad-parameter" if status == 400 else "too-large")
    assert [one["pointer"] for one in problem.said.get("errors", [])] == ([pointer] if pointer else [])


@pytest.mark.parametrize(
    ("kind", "body", "status", "pointer"),
    [
        (JSON, b"[1,NaN]", 400, "/1"),
        (JSON, b'[1,"%b"]' % (b"x" * 99), 413, "/1"),
        (JSON, b'["\xff"]', 400, None),
        (NDJSON, b"1\n\n2 3\n", 400, "/1"),
        (NDJSON, b'1\n"\xff"', 400, "/1"),
        (NDJSON, b"1\r\n" + b"9" * 101, 413, "/1"),
        (NDJSON, b"\n \n\r\n", 400, None),
        (NDJSON, b"[" * 100, 400, "/0"),
        (EVENTS, b'[{"id":"1","source":"s","type":"t","data":1},7]', 400, "/1"),
        (EVENTS, b'[{"id":"1","source":"s","type":"t"}]', 400, "/0"),
        (EVENTS, b'[{"id":"1","source":"s","type":"t","data":"%b"}]' % (b"x" * 101), 413, "/0"),
        (EVENTS, b'[{"id":"1","source":"s","type":"t","data_base64":"?"}]', 400, "/0"),
        (JSON, b"[" + b"1," * MAX_BATCH + b"1]", 413, None),
        (NDJSON, b"1\n" * (MAX_BATCH + 1), 413, None),
        ("image/png", b"1", 415, None),
        ("", b"1", 415, None),
    ],
)
def test_what_is_wrong_in_a_batch_is_named_with_its_place(
    kind: str, body: bytes, status: int, pointer: str | None
) -> None:
    with pytest.raises(Problem) as raised:
        messages_of(kind, body, 100)
    assert raised.value.status == status
    assert [one["pointer"] for one in raised.value.said.get("errors", [])] == ([pointer] if pointer else [])


def test_a_batch_may_have_a_thousand_messages_of_the_largest_size() -> None:
    body = b"[" + b",".join([b'"' + b"x" * 98 + b'"'] * MAX_BATCH) + b"]"
    assert [len(one.body) for one in messages_of(JSON, body, 100)] == [100] * MAX_BATCH


def test_more_operations_than_allowed_are_refused() -> None:
    op = b'{"publish":{"channel":"work","body":"x"}}'
    answer = World().ask("POST", "/commit", b'{"ops":[' + b",".join([op] * (MAX_OPS + 1)) + b"]}", Content_Type=JSON)
    assert (answer.status, str(MAX_OPS) in answer.reason) == (400, True)


# -- on the wire


def request(method: str, path: str, body: bytes = b"", end: str = "") -> bytes:
    """A request with a body of JSON."""
    fields = f"Host: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n{end}"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode() + body


@tx()
async def test_a_long_body_is_read_beside_the_reactor_and_in_its_turn() -> None:
    batch = b"[" + b",".join([b'"' + b"x" * 8_000 + b'"'] * 1_000) + b"]"
    assert BULK // 2 < len(batch) < BULK
    publish = msgspec.json.encode({"publish": {"channel": "work", "body": "y"}})
    ops = b'{"ops":[' + b",".join([publish] * 1_000) + b"]" + b" " * 100_000 + b"}"
    asked = [
        request("POST", "/channels/work/messages", batch),
        request("GET", "/channels/work/stats"),
        request("POST", "/commit", ops),
        request("GET", "/channels/work/stats"),
        request("POST", "/commit", ops[:-1]),
        request("POST", "/channels/work/messages", b"[" * 100_000),
        request("GET", "/channels/work/stats", end="Connection: close\r\n"),
    ]

    def client(port: int) -> list[Response]:
        with socket.create_connection(("127.0.0.1", port), timeout=Twistd.PATIENCE) as connection:
            connection.sendall(b"".join(asked))
            data, answers = connection.makefile("rb").read(), []
        while data:
            answer, data = parse(data, "GET")
            answers.append(answer)
        return answers

    async with listening() as server:
        answers = await deferToThread(client, server.port)
    assert [answer.status for answer in answers] == [202, 200, 200, 200, 400, 400, 200]
    assert [answer.json["ready"] for answer in answers if b'"ready"' in answer.body] == [1_000, 2_000, 2_000]


def test_long_bodies_are_read_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], Any]] = []

    def thread(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        later.append(lambda: waiting.callback(call(*arguments)))
        return waiting

    for module in ("publishing", "commit", "call"):
        monkeypatch.setattr(f"broker.http.{module}.deferToThread", thread)
    world = World()
    publish = b'{"ops":[{"publish":{"channel":"work","body":"y"}}%b]}' % (b" " * AT_ONCE)
    event = b'{"id":"1","source":"s","type":"t","data":"x"%b}' % (b" " * AT_ONCE)
    for path, kind, body in (
        ("/channels/work/messages", JSON, b"[1%b]" % (b" " * AT_ONCE)),
        ("/commit", JSON, publish),
        ("/channels/work", "application/cloudevents+json", event),
    ):
        connection = world.waiting("POST", path, body, Content_Type=kind)
        assert connection.answers() == []
        later.pop()()
        assert connection.answer().status in (200, 202)
    assert (world.ready("work"), later) == ((3, 0), [])


# -- out


def parts(kind: str, body: bytes) -> list[email.message.Message]:
    """What a foreign parser makes of ``multipart/mixed``."""
    whole = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP)
    assert whole.get_content_type() == "multipart/mixed"
    assert not whole.defects
    found = whole.get_payload()
    assert isinstance(found, list)
    return found  # type: ignore[return-value]


def test_a_batch_may_come_in_parts_with_headers_and_bodies_of_their_own() -> None:
    world = World()
    world.post("work", bytes(range(256)) + b"\r\n--", Content_Type="application/octet-stream", X_Message_Color="red")
    done(world.broker.publish(queue("work"), Message(body=b"")))
    world.post("work", b'{"n":1}', Content_Type=JSON)
    answer = world.ask("POST", "/channels/work/lease?limit=5&nowait", b"", Accept="multipart/mixed")
    found = parts(answer.headers["content-type"], answer.body)
    assert [one.get_payload(decode=True) for one in found] == [bytes(range(256)) + b"\r\n--", b"", b'{"n":1}']
    assert [one["Content-Type"] for one in found] == ["application/octet-stream", "text/plain", JSON]
    assert (found[0]["X-Message-color"], found[0]["ce-specversion"]) == ("red", "1.0")
    for one in found:
        assert world.ask("DELETE", f"/messages/{one['X-Linger-Msg-Id']}?lease={one['X-Linger-Lease']}").status == 204
    assert world.ready("work") == (0, 0)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("multipart/mixed, application/json", "multipart/mixed"),
        ("application/json, multipart/mixed", "application/json"),
        ("application/x-ndjson, multipart/mixed", NDJSON),
        ("multipart/mixed;q=0", "application/json"),
        ("*/*", "application/json"),
        ("application/unheard-of", "application/json"),
    ],
)
def test_the_first_form_that_is_accepted_is_sent(accept: str, kind: str) -> None:
    world = World()
    world.post("work")
    answer = world.ask("POST", "/channels/work/lease?nowait", b"", Accept=accept)
    assert answer.headers["content-type"].partition(";")[0] == kind


def test_parts_of_nothing_are_204() -> None:
    assert World().ask("POST", "/channels/work/lease?nowait", b"", Accept="multipart/mixed").status == 204


@pytest.mark.parametrize("accept", ["application/json", NDJSON, "multipart/mixed"])
def test_a_long_answer_is_written_in_several_turns(accept: str) -> None:
    world = World()
    for number in range(8):
        world.post("work", b"%d" % number * 100_000, Content_Type="text/plain")
    connection = world.connect()
    connection.ask("POST", "/channels/work/lease?limit=8&nowait", b"", {"Accept": accept})
    assert connection.answers() == []
    world.clock.advance(0)
    body = connection.answer().body
    assert [body.count(b"%d" % number * 100_000) for number in range(8)] == [1] * 8


def test_who_goes_while_his_answer_is_written_gives_all_of_it_back() -> None:
    world = World()
    for _ in range(8):
        world.post("work", b"x" * 100_000, Content_Type="text/plain")
    connection = world.connect()
    connection.ask("POST", "/channels/work/lease?limit=8&nowait", b"")
    assert world.broker.queue_stats("work").on_loan == 8
    connection.leave()
    world.clock.advance(0)
    assert world.ready("work") == (8, 0)
