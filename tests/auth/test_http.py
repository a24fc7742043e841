"""HTTP's Basic and Bearer, and what each route takes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from twisted.internet.defer import fail

from broker.auth.door import Door
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.http.routes import ROUTES, Endpoint
from broker.http.server import make_site
from tests.auth.support import PASSWORD, TOKEN, Known, Log, everything
from tests.http.support import Response, World, done
from tests.support import flush_logged_errors


def basic(name: str = "alice", password: str = PASSWORD, coding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode(coding)).decode()


class Guarded(World):
    """A front with users."""

    def __init__(self, authenticator: Known, **options: Any) -> None:
        super().__init__()
        self.authenticator = authenticator
        self.site = make_site(self.broker, identity="d0c5", door=Door(self.broker, authenticator), **options)

    def by(self, user: str, method: str, path: str, body: bytes | None = None) -> Response:
        """Ask as this user."""
        return self.ask(method, path, body, Authorization=basic(user))

    def ready_of(self, name: str) -> int:
        """Messages that wait."""
        return self.broker.queue_stats(name).ready

    def put(self, *names: str) -> None:
        """Put a message into each of these queues."""
        for name in names:
            _ = self.broker.publish(queue(name), Message(body=b"x"))
        self.clock.advance(0)


@pytest.fixture
def world() -> Guarded:
    return Guarded(Known({"alice": everything(), "bob": {}}))


# -- who somebody is


@pytest.mark.parametrize("said", [basic(), f"Bearer {TOKEN}", f"bearer   {TOKEN}", basic().replace("Basic", "BASIC")])
def test_who_is_known_is_served(said: str, world: Guarded) -> None:
    answer = world.ask("GET", "/channels", Authorization=said)
    assert (answer.status, answer.json) == (200, {"channels": []})


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YWxpY2U=",  # alice, and no colon
        basic(password="wrong"),
        basic(password=""),
        basic("eve"),
        basic("älice", coding="latin-1"),
        "Bearer",
        "Bearer wrong",
        f"Token {TOKEN}",
        TOKEN,
        'Digest username="alice"',
    ],
)
def test_who_is_nobody_is_asked_who_he_is(said: str, world: Guarded) -> None:
    connection = world.connect()
    connection.ask("POST", "/channels/q", b"x", {"Authorization": said} if said else {})
    raw = connection.transport.value()
    assert raw.startswith(b"HTTP/1.1 401 Credentials are needed, and those of a user.\r\n")
    assert b'WWW-Authenticate: Basic realm="broker", charset="UTF-8"\r\n' in raw
    assert b'WWW-Authenticate: Bearer realm="broker"\r\n' in raw
    assert raw.endswith(b"\r\n\r\nHTTP 401 Credentials are needed, and those of a user.\n")
    connection.leave()
    assert world.broker.queues() == []


def test_two_credentials_are_none(world: Guarded) -> None:
    connection = world.connect()
    field = f"Authorization: {basic()}\r\n"
    connection.send(f"GET /channels HTTP/1.1\r\nHost: localhost\r\n{field}{field}\r\n".encode())
    assert connection.transport.value().startswith(b"HTTP/1.1 401 ")
    connection.leave()


def test_a_password_may_hold_colons_and_is_utf_8_and_the_address_is_told(world: Guarded) -> None:
    world.ask("GET", "/channels", Authorization=basic("bob", "a:b:ü"))
    assert world.authenticator.asked == [("bob", "a:b:ü", "192.0.2.1")]


def test_every_route_but_the_probes_asks(world: Guarded) -> None:
    for path, methods in ROUTES.items():
        for method, endpoint in methods.items():
            names = {
                "channel": "c",
                "topic": "t",
                "message": "1",
                "source": "topic:t",
                "problem": "forbidden",
                "replay": 1,
                "event": "e",
            }
            answer = world.waiting(method, path.format(**names), b"")
            raw = answer.transport.value()
            assert raw.startswith(
                b"HTTP/1.1 200 " if endpoint in (Endpoint.HEALTH, Endpoint.READY) else b"HTTP/1.1 401 "
            )
            answer.leave()
    assert world.authenticator.asked == []


def test_a_probe_with_a_wrong_password_is_answered_too(world: Guarded) -> None:
    assert world.ask("GET", "/healthz", Authorization=basic("eve")).status == 200
    assert world.authenticator.asked == []


def test_a_foreign_page_is_refused_before_anybody_is_asked(world: Guarded) -> None:
    answer = world.ask("GET", "/channels", Origin="http://evil.example", Authorization=basic())
    assert answer.status == 403
    assert world.authenticator.asked == []


def test_json_problems(world: Guarded) -> None:
    connection = world.connect()
    connection.ask("GET", "/channels", None, {"Accept": "application/json"})
    assert b'"type":"/problems/unauthorized"' in connection.transport.value()
    connection.leave()
    answer = world.ask("GET", "/stats", Authorization=basic("bob"), Accept="application/problem+json")
    assert (answer.status, answer.json["type"]) == (403, "/problems/forbidden")


def test_an_answer_waits_for_the_password(world: Guarded) -> None:
    world.put("q")
    world.authenticator.late = True
    connection = world.waiting("GET", "/channels/q", Authorization=basic())
    assert connection.transport.value() == b""
    world.authenticator.waiting.pop()()
    assert connection.answer().body == b"x"
    connection.leave()


def test_who_leaves_while_his_password_is_verified_takes_nothing(world: Guarded) -> None:
    world.put("q")
    world.authenticator.late = True
    connection = world.waiting("GET", "/channels/q", Authorization=basic())
    connection.leave()
    world.authenticator.waiting.pop()()
    world.clock.advance(0)
    stats = world.broker.queue_stats("q")
    assert (stats.ready, stats.on_loan) == (1, 0)


def test_who_comes_before_the_stop_and_is_verified_after_it(world: Guarded) -> None:
    world.authenticator.late = True
    connection = world.waiting("POST", "/channels/q", b"x", Authorization=basic())
    world.site.drain()
    world.authenticator.waiting.pop()()
    assert connection.answer().status == 503
    assert world.broker.queues() == []
    connection.leave()


def test_an_authenticator_that_fails_is_500_and_not_told_of(world: Guarded) -> None:
    world.authenticator.password = lambda *said: fail(RuntimeError("the directory is down"))  # type: ignore[method-assign]
    answer = world.by("alice", "GET", "/channels")
    assert answer.status == 500
    assert b"directory" not in answer.body
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_where_anonymous_is_allowed_it_is_who_says_nothing() -> None:
    world = Guarded(Known({"alice": everything()}, anonymous={"browse": "*"}))
    assert world.ask("GET", "/channels").status == 200
    assert world.ask("POST", "/channels/q", b"x").status == 403
    assert world.by("alice", "POST", "/channels/q", b"x").status == 202


def test_without_users_it_does_not_matter_what_one_says() -> None:
    world = World()
    assert world.ask("GET", "/channels", Authorization="nonsense").status == 200


def test_no_secret_is_logged(world: Guarded) -> None:
    with Log() as log:
        world.by("alice", "GET", "/channels")
        world.ask("GET", "/channels", Authorization=basic(password="guessed"))
        world.ask("GET", "/channels", Authorization=f"Bearer {TOKEN}")
        world.ask("GET", "/channels", Authorization="Bearer guessed")
    assert len(log.events) >= 4  # it does see what is logged at level debug
    for secret in (PASSWORD, TOKEN, "guessed", basic().split()[1]):
        assert secret not in log.text


# -- what he may do


@pytest.mark.parametrize(
    ("request_line", "allowed", "status", "missing"),
    [
        ("GET /channels", {"browse": "queue:q"}, 200, "look into anything"),
        ("GET /channels/q", {"subscribe": "queue:q"}, 200, "take from queue q"),
        ("GET /channels/q?nowait", {"subscribe": "queue:q"}, 200, "take from queue q"),
        ("GET /channels/new?nowait", {"subscribe": "queue:new"}, 204, "take from queue new"),
        ("GET /channels/new?wait=0", {"subscribe": "queue:new"}, 204, "take from queue new"),
        ("HEAD /channels/q", {"browse": "queue:q"}, 200, "look into queue q"),
        ("POST /channels/q", {"publish": "queue:q"}, 202, "publish to queue q"),
        ("POST /channels/new", {"publish": "queue:new", "create": "queue:new"}, 202, "publish to queue new"),
        ("DELETE /channels/q", {"admin": "queue:q"}, 204, "administer queue q"),
        ("GET /channels/q/stats", {"browse": "queue:q"}, 200, "look into queue q"),
        ("GET /channels/q/topics", {"browse": "queue:q"}, 200, "look into queue q"),
        ("PUT /channels/q/topics/t", {"admin": "queue:q", "subscribe": "topic:t"}, 204, "administer queue q"),
        ("DELETE /channels/q/topics/t", {"admin": "queue:q"}, 204, "administer queue q"),
        ("GET /topics", {"browse": "topic:t"}, 200, "look into anything"),
        ("POST /topics/t", {"publish": "topic:t"}, 202, "publish to topic t"),
        ("GET /topics/t/channels", {"browse": "topic:t"}, 200, "look into topic t"),
        ("DELETE /messages/{id}", {"subscribe": "queue:q"}, 204, ""),
        ("POST /messages/{id}/touch", {"subscribe": "queue:q"}, 204, ""),
        ("GET /messages/{id}", {"browse": "queue:q"}, 200, ""),
        ("GET /stats", {"browse": "*"}, 200, "look into the whole broker"),
        ("GET /metrics", {"browse": "*"}, 200, "look into the whole broker"),
        ("GET /channels?detail=1", {"browse": "queue:q"}, 200, "look into anything"),
        ("GET /channels/q/stats?full=1", {"browse": "queue:q"}, 200, "look into queue q"),
    ],
)
def test_each_route_takes_its_right(
    request_line: str, allowed: dict[str, str], status: int, missing: str, world: Guarded
) -> None:
    world.put("q")
    method, path = request_line.format(id=world.broker.queue_stats("q").last_id).split()
    body = b"y" if method in ("POST", "PUT") and "messages" not in path else None
    first = next(iter(allowed))
    world.authenticator.allow("bob", **{action: p for action, p in everything().items() if action != first})
    before = world.broker.queues(), world.ready_of("q"), world.broker.topics()
    answer = world.by("bob", method, path, body)
    # A message's number names no queue: who may not is told what he is told of one that is not there.
    refused = (
        (403, f"not allowed: user bob has no right to {missing}") if missing else (404, "there is no such message")
    )
    assert (answer.status, answer.reason) == refused
    assert (world.broker.queues(), world.ready_of("q"), world.broker.topics()) == before
    world.authenticator.allow("bob", **allowed)
    assert world.by("bob", method, path, body).status == status


@pytest.mark.parametrize(
    ("request_line", "missing"),
    [
        ("POST /channels/new", "create queue new"),
        ("GET /channels/new?wait=1", "create queue new"),
        ("GET /channels/new", "create queue new"),
        ("PUT /channels/new/topics/t", "create queue new"),
    ],
)
def test_a_queue_does_not_come_to_be_without_the_right(request_line: str, missing: str, world: Guarded) -> None:
    method, path = request_line.split()
    world.authenticator.allow("bob", **{action: p for action, p in everything().items() if action != "create"})
    answer = world.by("bob", method, path, b"y" if method != "GET" else None)
    assert (answer.status, answer.reason) == (403, f"not allowed: user bob has no right to {missing}")
    assert world.broker.queues() == []


def test_nobody_binds_his_queue_to_a_topic_he_may_not_read(world: Guarded) -> None:
    world.authenticator.allow("bob", **everything("queue:*"))
    answer = world.by("bob", "PUT", "/channels/q/topics/secret")
    assert (answer.status, answer.reason) == (403, "not allowed: user bob has no right to take from topic secret")
    assert world.broker.topics() == []


def test_lists_show_what_may_be_seen(world: Guarded) -> None:
    world.put("mine", "others")
    for name in ("mine", "others"):
        for source in ("news", "secrets"):
            done(world.broker.bind(name, topic(source)))
    world.clock.advance(0)
    world.authenticator.allow("bob", browse="queue:mine topic:news")
    assert world.by("bob", "GET", "/channels").json == {"channels": ["mine"]}
    assert world.by("bob", "GET", "/topics").json == {"topics": ["news"]}
    assert world.by("bob", "GET", "/channels/mine/topics").json == {"topics": ["news"]}
    assert world.by("bob", "GET", "/topics/news/channels").json == {"channels": ["mine"]}


def test_a_message_on_loan_is_settled_by_who_may_take_from_its_queue(world: Guarded) -> None:
    world.put("q")
    number = world.by("alice", "GET", "/channels/q?nowait").id
    world.authenticator.allow("bob", subscribe="queue:other")
    other = number + 5
    for path in ("/messages/{}", "/messages/{}/nack", "/messages/{}/touch"):
        method = "DELETE" if path.endswith("}") else "POST"
        answers = [world.by("bob", method, path.format(one)) for one in (number, other, 123456789012)]
        assert {(answer.status, answer.reason, answer.body) for answer in answers} == {
            (404, "there is no such message", b"")
        }
    world.authenticator.allow("bob", subscribe="queue:q")
    assert world.by("bob", "DELETE", f"/messages/{number}").status == 204
    assert world.by("bob", "DELETE", f"/messages/{number}").status == 404
    assert world.by("bob", "DELETE", "/messages/123456789012").body == b""


def test_an_encoded_name_is_the_name_that_counts(world: Guarded) -> None:
    world.put("a/b")
    world.authenticator.allow("bob", subscribe="queue:a")
    assert world.by("bob", "GET", "/channels/a%2Fb?nowait").status == 403
    world.authenticator.allow("bob", subscribe="queue:a/*")
    assert world.by("bob", "GET", "/channels/a%2Fb?nowait").status == 200


def test_anybody_who_is_somebody_is_welcome(world: Guarded) -> None:
    assert world.by("bob", "GET", "/").status == 200


def test_an_unknown_path_is_unknown_to_all(world: Guarded) -> None:
    assert world.ask("GET", "/nothing").status == 404
