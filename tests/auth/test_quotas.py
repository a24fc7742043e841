"""A user's limits on each front: what he is told, and that what was confirmed stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from broker.auth import file
from broker.auth.limits import Bounds, Limits, Quota
from broker.auth.users import Users
from broker.errors import ConfigError
from tests.auth import test_http, test_memcache, test_stomp
from tests.auth.support import PASSWORD, Hashing, Known, entry, everything, users_of, write
from tests.stomp.support import Client as Stomp

ALICE = {"alice": everything()}


def limit(world: Any, clock: Clock, **limits: int) -> None:
    """Alice has these limits."""
    world.authenticator.users["alice"].quota = Quota(Limits(**limits), clock.seconds)


# -- memcache


@pytest.fixture
def memcache() -> test_memcache.World:
    return test_memcache.World(Known(ALICE))


def test_memcache_says_that_there_are_too_many_messages_and_goes_on(memcache: test_memcache.World) -> None:
    limit(memcache, memcache.clock, messages=2)
    client = memcache.client()
    put = b"set q 0 0 1\r\nx\r\n"
    over = b"SERVER_ERROR too many messages: a user may put in 2 a second\r\n"
    assert client.send(put * 3) == b"STORED\r\n" * 2 + over
    assert memcache.broker.queue_stats("q").ready == 2
    memcache.clock.advance(0.5)
    assert client.send(put) == b"STORED\r\n"


def test_memcache_lends_no_more_than_a_user_may_have(memcache: test_memcache.World) -> None:
    limit(memcache, memcache.clock, unsettled=1)
    memcache.put("q", "r")
    client, other = memcache.client(), memcache.client()
    assert client.send(b"get q/open\r\n") == b"VALUE q/open 0 1\r\nx\r\nEND\r\n"
    over = b"SERVER_ERROR too many unsettled messages: a user may have 1\r\n"
    assert other.send(b"get r/open\r\n") == over
    assert other.send(b"get r/peek\r\n").endswith(b"x\r\nEND\r\n")
    assert client.send(b"get q/close\r\n") == b"END\r\n"
    assert other.send(b"get r/open\r\n") == b"VALUE r/open 0 1\r\nx\r\nEND\r\n"


def test_a_close_makes_room_for_what_it_opens(memcache: test_memcache.World) -> None:
    limit(memcache, memcache.clock, unsettled=1)
    memcache.put("q", "q")
    client = memcache.client()
    value = b"VALUE q/close/open 0 1\r\nx\r\nEND\r\n"
    assert client.send(b"get q/close/open\r\n" * 3) == value * 2 + b"END\r\n"


def test_reads_that_wait_together_open_no_more_than_their_user_may_have(memcache: test_memcache.World) -> None:
    limit(memcache, memcache.clock, unsettled=2)
    waiting = [memcache.client() for _ in range(4)]
    for client in waiting:
        assert client.send(b"get q/t=60000/open\r\n") == b""
    memcache.put(*"q" * 8)
    over = b"SERVER_ERROR too many unsettled messages: a user may have 2\r\n"
    assert [client.send(b"") for client in waiting[2:]] == [over] * 2
    stats = memcache.broker.queue_stats("q")
    assert (stats.on_loan, stats.ready, stats.failed) == (2, 6, 0)


def test_memcache_closes_on_a_connection_that_is_one_too_many(memcache: test_memcache.World) -> None:
    limit(memcache, memcache.clock, connections=1)
    client, other = memcache.client(), memcache.connect()
    assert other.send(test_memcache.login()) == b"SERVER_ERROR too many connections: a user may have 1\r\n"
    assert other.closed
    client.go()
    assert memcache.connect().send(test_memcache.login()) == b"STORED\r\n"


def test_anonymous_connections_count_too() -> None:
    world = test_memcache.World(Known(ALICE, anonymous=everything()))
    assert world.authenticator.anonymous is not None
    world.authenticator.anonymous.quota = Quota(Limits(connections=1), world.clock.seconds)
    first, second = world.connect(), world.connect()
    assert first.send(b"get q\r\n") == b"END\r\n"
    assert second.send(b"get q\r\n") == b"SERVER_ERROR too many connections: a user may have 1\r\n"
    assert second.closed


def test_queues_are_those_that_he_may_create(memcache: test_memcache.World) -> None:
    memcache.authenticator.allow("alice", publish="*", create="queue:alice.*")
    limit(memcache, memcache.clock, queues=2)
    memcache.put("other", "another", "alice.1")
    client = memcache.client()
    assert client.send(b"set alice.2 0 0 1\r\nx\r\n") == b"STORED\r\n"
    assert client.send(b"set alice.3 0 0 1\r\nx\r\n") == b"SERVER_ERROR too many queues: a user may have 2\r\n"
    assert client.send(b"set alice.1 0 0 1\r\nx\r\n") == b"STORED\r\n"
    assert not memcache.broker.exists("alice.3")


# -- STOMP


class StompTest(test_stomp.FrontTest):
    """Alice with limits."""

    def limited(self, **limits: int) -> Stomp:
        limit(self, self.clock, **limits)
        return self.user("alice")

    def test_an_error_says_that_there_are_too_many_bytes_and_what_was_confirmed_stays(self) -> None:
        client = self.limited(bytes=10)
        self.assertEqual(len(client.send("SEND", b"0123456789", destination="/queue/q", receipt="1")), 1)
        frames = client.send("SEND", b"x", destination="/queue/q", receipt="2")
        error = self.assert_error(frames, "Limit reached", receipt_id="2", error_code="limit-reached")
        self.assertIn(b"too many bytes", error.body)
        self.assertEqual(self.ready("q"), 1)

    def test_a_subscription_gets_the_credit_that_is_left(self) -> None:
        client = self.limited(unsettled=3)
        self.put("q", *[b"x"] * 5)
        got = client.send("SUBSCRIBE", destination="/queue/q", id="1", ack="client")
        self.assertEqual(len(got), 3)
        other = self.user("alice")
        self.assert_error(other.send("SUBSCRIBE", destination="/queue/q", id="1"), "Limit reached")

    def test_what_an_ended_subscription_left_counts_until_it_is_settled(self) -> None:
        client = self.limited(unsettled=1)
        self.put("q", b"x")
        (message,) = client.send("SUBSCRIBE", destination="/queue/q", id="1", ack="client")
        client.send("UNSUBSCRIBE", id="1")
        client.send("ACK", id=message.headers["ack"])
        self.assertEqual(client.send("SUBSCRIBE", destination="/queue/q", id="2", ack="client"), [])
        client.send("UNSUBSCRIBE", id="2")
        self.put("q", b"y")
        self.assertEqual(len(client.send("SUBSCRIBE", destination="/queue/q", id="3", ack="client")), 1)
        client.send("UNSUBSCRIBE", id="3")
        self.assert_error(client.send("SUBSCRIBE", destination="/queue/q", id="4"), "Limit reached")

    def test_a_connection_that_is_one_too_many_is_told_so_instead_of_connected(self) -> None:
        client = self.limited(connections=1)
        other = self.open()
        frames = other.send("CONNECT", accept_version="1.2", host="h", login="alice", passcode=PASSWORD)
        self.assert_error(frames, "Limit reached")
        client.lose()
        self.assertEqual(self.user("alice").frames(), [])


# -- HTTP


@pytest.fixture
def http() -> test_http.Guarded:
    return test_http.Guarded(Known({"alice": everything(), "bob": everything()}))


def test_http_says_429_and_when_to_come_back(http: test_http.Guarded) -> None:
    limit(http, http.clock, messages=1)
    assert http.by("alice", "POST", "/channels/q", b"x").status == 202
    answer = http.by("alice", "POST", "/channels/q", b"x")
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert http.by("bob", "POST", "/channels/q", b"x").status == 202
    http.clock.advance(1)
    assert http.by("alice", "POST", "/channels/q", b"x").status == 202
    assert http.ready_of("q") == 3


def test_a_batch_and_a_commit_count_their_messages(http: test_http.Guarded) -> None:
    limit(http, http.clock, messages=3)
    post = {"Authorization": test_http.basic(), "Content_Type": "application/json"}
    batch = b'[{"specversion":"1.0","id":"1","source":"s","type":"t","data":"x"},'
    batch += b'{"specversion":"1.0","id":"2","source":"s","type":"t","data":"x"}]'
    answer = http.ask(
        "POST",
        "/channels/q/messages",
        batch,
        Authorization=test_http.basic(),
        Content_Type="application/cloudevents-batch+json",
    )
    assert answer.status == 202
    ops = b'{"ops":[{"publish":{"channel":"q","body":"x"}},{"publish":{"channel":"q","body":"y"}}]}'
    assert http.ask("POST", "/commit", ops, **post).status == 429
    assert http.ready_of("q") == 2  # all or nothing
    http.clock.advance(1)
    assert http.ask("POST", "/commit", ops, **post).status == 200


def test_http_lends_no_more_than_a_user_may_have(http: test_http.Guarded) -> None:
    limit(http, http.clock, unsettled=3)
    http.put("q", "q", "q", "q")
    got = http.ask("POST", "/channels/q/lease?limit=10", b"", Authorization=test_http.basic())
    assert (got.status, http.broker.queue_stats("q").on_loan) == (200, 3)
    assert http.by("alice", "GET", "/channels/q?nowait").status == 429
    assert http.by("alice", "GET", "/channels/q/stream").status == 429


@pytest.mark.parametrize(("method", "path"), [("POST", "lease?wait=20&limit=2"), ("GET", "?wait=20&timeout=60")])
def test_requests_that_wait_together_get_no_more_than_their_user_may_have(
    method: str, path: str, http: test_http.Guarded
) -> None:
    limit(http, http.clock, unsettled=2)
    target = f"/channels/q/{path}".replace("/?", "?")
    waiting = [http.waiting(method, target, b"", Authorization=test_http.basic()) for _ in range(4)]
    post = {"Authorization": test_http.basic("bob"), "Content_Type": "application/x-ndjson"}
    assert http.ask("POST", "/channels/q/messages", b"1\n" * 8, **post).status == 202
    lent = 2 if method == "GET" else 1
    assert [one.answer().status for one in waiting] == [200] * lent + [429] * (4 - lent)
    stats = http.broker.queue_stats("q")
    assert (stats.on_loan, stats.ready, stats.failed) == (2, 6, 0)


def test_a_batch_ends_where_its_user_may_have_no_more(http: test_http.Guarded) -> None:
    limit(http, http.clock, unsettled=150)
    http.put(*"q" * 250)
    connection = http.connect()
    connection.ask("POST", "/channels/q/lease?limit=1000", b"", {"Authorization": test_http.basic()})
    assert (connection.answers(), http.broker.queue_stats("q").on_loan) == ([], 100)
    assert http.ask("POST", "/channels/q/lease?limit=50", b"", Authorization=test_http.basic()).status == 200
    http.clock.advance(0)
    assert len(connection.answer().json["messages"]) == 100
    assert http.broker.queue_stats("q").on_loan == 150


def test_a_stream_of_who_is_removed_ends(http: test_http.Guarded) -> None:
    connection = http.waiting("GET", "/channels/q/stream", Authorization=test_http.basic())
    http.authenticator.users["alice"].remove()
    assert connection.transport.disconnected


# -- where limits come from


def test_a_user_s_own_limits_take_the_place_of_the_common_ones_key_by_key(tmp_path: Path) -> None:
    alice = entry(password="")
    alice.limits = {"messages": 7, "connections": 0}
    path = write(tmp_path / "users.toml", {"alice": alice, "bob": entry(password="")})
    common = Limits(messages=5, connections=2, queues=3)
    users = Users(str(path), run=Hashing().run, now=Clock().seconds, bounds=Bounds(user=common))

    def limits() -> dict[str, Limits]:
        return {name: user.quota.limits for name in ("alice", "bob") if (user := users.named(name)) and user.quota}

    assert limits() == {"alice": Limits(messages=7, queues=3), "bob": common}
    users.bound(Bounds(user=Limits(bytes=9)))
    users.reload()
    assert limits() == {"alice": Limits(messages=7, bytes=9), "bob": Limits(bytes=9)}


def test_limits_of_a_changed_file_hold_for_who_is_logged_in(tmp_path: Path) -> None:
    alice = entry(password="")
    path = write(tmp_path / "users.toml", {"alice": alice})
    users = users_of(path, Clock())
    user = users.named("alice")
    assert user is not None
    assert user.quota is None
    alice.limits = {"messages": 7}
    write(path, {"alice": alice})
    users.reload()
    assert user.quota is not None
    his = user.quota
    alice.limits = {"messages": 8}
    write(path, {"alice": alice})
    users.reload()
    assert (user.quota, his.limits) == (his, Limits(messages=8))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("messages = -1", "user.alice.limits.messages: expected `int` >= 0"),
        ('bytes = "many"', "user.alice.limits.bytes: expected `int`, got `str`"),
        ("speed = 1", "user.alice.limits.speed: unknown key"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_its_key(limits: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text(f"[user.alice.limits]\n{limits}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=re.escape(words)):
        file.load(str(path))


def test_the_broker_command_keeps_limits_that_stand_in_the_file(tmp_path: Path) -> None:
    alice = entry(password="", publish="*")
    alice.limits = {"messages": 7}
    path = write(tmp_path / "users.toml", {"alice": alice})
    with file.changing(str(path)) as users:
        users["bob"] = entry(password="")
    assert file.load(str(path))["alice"] == alice
