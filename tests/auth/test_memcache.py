"""memcached's login, and what each command takes."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.auth.door import Door
from broker.core.broker import Broker
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import Policy
from broker.memcache.login import MAX_TOKEN
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.auth.support import PASSWORD, Known, Log, everything
from tests.memcache.support import Client

UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"


def login(user: str = "alice", password: str = PASSWORD, end: bytes = b"") -> bytes:
    token = f"{user} {password}".encode()
    return b"set any 0 0 %d%b\r\n%b\r\n" % (len(token), end, token)


class World:
    def __init__(self, authenticator: Known) -> None:
        self.authenticator = authenticator
        self.clock = Clock()
        self.broker = Broker(MemoryStore(), self.clock, policy=Policy(max_message_size=100_000))
        _ = Deferred.fromCoroutine(self.broker.start())
        self.factory = MemcacheFactory(self.broker, door=Door(self.broker, authenticator))

    def connect(self) -> Client:
        return Client(self.factory)

    def client(self, user: str = "alice") -> Client:
        client = self.connect()
        assert client.send(login(user)) == b"STORED\r\n"
        return client

    def put(self, *names: str) -> None:
        for name in names:
            _ = self.broker.publish(queue(name), Message(body=b"x"))
        self.clock.advance(0)


@pytest.fixture
def world() -> World:
    return World(Known({"alice": everything(), "bob": {}}))


# -- the login


@pytest.mark.parametrize(
    "command",
    [
        b"get q",
        b"gets q r",
        b"get q/t=1000",
        b"delete q",
        b"delete q noreply",
        b"flush q",
        b"flush_all",
        b"stats",
        b"version",
        b"verbosity 1",
        b"quit",
        b"nonsense",
        b"",
        b"mn",
        b"mg q",
        b"add q 0 0 1\r\nx",
        b"ms q 1\r\nx",
        b"set q 0 0",
        b"set q 0 0 x",
        b"set q 0 -9999999999999 1\r\nx",
        b"get " + b"k" * 2000,
    ],
)
def test_until_the_login_every_command_is_refused_and_the_connection_kept(command: bytes, world: World) -> None:
    client = world.connect()
    assert client.send(command + b"\r\n") == UNAUTHENTICATED
    assert not client.closed
    assert client.send(login()) == b"STORED\r\n"
    assert client.send(b"version\r\n").startswith(b"VERSION ")
    assert world.broker.queues() == []


def test_a_line_that_never_ends_is_refused_too_and_ends_the_connection(world: World) -> None:
    client = world.connect()
    assert client.send(b"x" * 10_000) == UNAUTHENTICATED
    assert client.closed


@pytest.mark.parametrize("end", [b"", b" noreply"])
@pytest.mark.parametrize(
    ("token", "reply"),
    [
        (f"alice {PASSWORD}".encode(), b"STORED\r\n"),
        (b"alice wrong", FAILURE),
        (f"eve {PASSWORD}".encode(), FAILURE),
        (b"alice ", FAILURE),
        (b" ", FAILURE),
        (b"\xff \xfe", FAILURE),
        (f"alice  {PASSWORD}".encode(), FAILURE),
        (b"alice", b"CLIENT_ERROR bad authentication token format\r\n"),
        (b"", b"CLIENT_ERROR bad authentication token format\r\n"),
    ],
)
def test_a_login(token: bytes, reply: bytes, end: bytes, world: World) -> None:
    client = world.connect()
    assert client.send(b"set any 5 0 %d%b\r\n%b\r\n" % (len(token), end, token)) == reply
    known = reply == b"STORED\r\n"
    assert client.send(b"get q\r\n") == (b"END\r\n" if known else UNAUTHENTICATED)
    if not known:
        assert client.send(login()) == b"STORED\r\n"
    assert world.broker.queues() == []


def test_a_token_that_is_too_long(world: World) -> None:
    client = world.connect()
    assert client.send(b"set a 0 0 %d\r\n" % (MAX_TOKEN + 1)) == b"CLIENT_ERROR auth token too long\r\n"
    assert client.send(b"x" * (MAX_TOKEN + 1) + b"\r\n" + login()) == b"STORED\r\n"


def test_a_password_may_have_blanks_and_the_address_is_told(world: World) -> None:
    client = world.connect()
    client.send(b"set a 0 0 9\r\nbob a b c\r\n")
    assert world.authenticator.asked == [("bob", "a b c", "192.168.1.1")]


def test_after_the_login_sets_are_messages_of_any_size(world: World) -> None:
    client = world.client()
    assert client.send(b"set q 0 0 90000\r\n" + b"x" * 90000 + b"\r\n") == b"STORED\r\n"
    assert client.send(login()) == b"STORED\r\n"
    assert world.broker.queue_stats("any").ready == 1


def test_what_comes_in_one_write_with_the_login_waits_for_it(world: World) -> None:
    world.authenticator.late = True
    client = world.connect()
    assert client.send(b"version\r\n" + login() + b"set q 0 0 5000\r\n" + b"x" * 5000 + b"\r\nget q/peek\r\n") == (
        UNAUTHENTICATED
    )
    world.authenticator.waiting.pop()()
    world.clock.advance(0)
    assert client.received().startswith(b"STORED\r\nSTORED\r\nVALUE q/peek 0 5000\r\n")


def test_a_client_that_goes_while_its_password_is_verified(world: World) -> None:
    world.authenticator.late = True
    client = world.connect()
    client.send(login() + b"set q 0 0 1\r\nx\r\n")
    client.go()
    world.authenticator.waiting.pop()()
    assert world.broker.queues() == []
    assert world.factory.counters.curr_connections == 0


def test_stopping_while_a_password_is_verified(world: World) -> None:
    world.authenticator.late = True
    client = world.connect()
    client.send(login())
    client.protocol.give_back()
    world.authenticator.waiting.pop()()
    assert client.take() == b"STORED\r\n"
    assert client.closed


def test_where_anonymous_is_allowed_it_is_who_does_not_log_in() -> None:
    world = World(Known({"alice": everything()}, anonymous={"browse": "queue:q"}))
    world.put("q")
    client = world.connect()
    assert client.send(b"get q/peek\r\n") == b"VALUE q/peek 0 1\r\nx\r\nEND\r\n"
    assert client.send(login()) == b"CLIENT_ERROR not allowed: user anonymous has no right to publish to queue any\r\n"


def test_who_is_removed_is_cut_off_and_who_is_gone_already_is_forgotten(world: World) -> None:
    gone, client, other = world.client(), world.client(), world.client("bob")
    gone.go()
    alice = world.authenticator.users["alice"]
    assert len(alice.connections) == 1
    alice.remove()
    assert client.closed
    assert not other.closed
    client.go()
    other.go()
    assert not alice.connections


def test_no_password_is_logged(world: World) -> None:
    with Log() as log:
        client = world.connect()
        client.send(login() + login())
        world.connect().send(login(password="guessed"))
        client.go()
    assert PASSWORD not in log.text
    assert "guessed" not in log.text
    assert "192.168.1.1:54321 is alice" in log.text


# -- rights

NO = "CLIENT_ERROR not allowed: user bob has no right to {}\r\n"


@pytest.mark.parametrize(
    ("command", "allowed", "reply", "missing"),
    [
        ("set q 0 0 1\r\ny", {"publish": "queue:q"}, b"STORED\r\n", "publish to queue q"),
        ("set new 0 0 1\r\ny", {"publish": "*", "create": "queue:new"}, b"STORED\r\n", "create queue new"),
        ("set /topic/t 0 0 1\r\ny", {"publish": "topic:t"}, b"STORED\r\n", "publish to topic t"),
        ("get q", {"subscribe": "queue:q"}, b"VALUE q 0 1\r\nx\r\nEND\r\n", "take from queue q"),
        ("get q/t=10", {"subscribe": "queue:q"}, b"VALUE q/t=10 0 1\r\nx\r\nEND\r\n", "take from queue q"),
        ("get q/open", {"subscribe": "queue:q"}, b"VALUE q/open 0 1\r\nx\r\nEND\r\n", "take from queue q"),
        ("get q/close", {"subscribe": "queue:q"}, b"END\r\n", "take from queue q"),
        ("get q/abort", {"subscribe": "queue:q"}, b"END\r\n", "take from queue q"),
        ("get q/peek", {"browse": "queue:q"}, b"VALUE q/peek 0 1\r\nx\r\nEND\r\n", "look into queue q"),
        ("get new", {"subscribe": "queue:new"}, b"END\r\n", "take from queue new"),
        ("get new/t=1", {"subscribe": "*", "create": "queue:new"}, b"", "create queue new"),
        ("get none q", {"subscribe": "queue:*"}, b"VALUE q 0 1\r\nx\r\nEND\r\n", "take from queue none"),
        ("delete q", {"admin": "queue:q"}, b"DELETED\r\n", "administer queue q"),
        ("delete none", {"admin": "queue:none"}, b"NOT_FOUND\r\n", "administer queue none"),
        ("flush q", {"admin": "queue:q"}, b"END\r\n", "administer queue q"),
        ("flush_all", {"admin": "*"}, b"OK\r\n", "administer the whole broker"),
        ("stats reset", {"admin": "*"}, b"RESET\r\n", "administer the whole broker"),
    ],
)
def test_each_command_takes_its_right(
    command: str, allowed: dict[str, str], reply: bytes, missing: str, world: World
) -> None:
    world.put("q")
    client = world.client("bob")
    # everything but what it takes
    others = {action: patterns for action, patterns in everything().items() if action not in allowed}
    if missing.startswith("create"):
        others = {action: patterns for action, patterns in everything().items() if action != "create"}
    world.authenticator.allow("bob", **others)
    assert client.send(command.encode() + b"\r\n") == NO.format(missing).encode()
    assert world.broker.queue_stats("q").ready == 1
    assert world.broker.queues() == ["q"]
    world.authenticator.allow("bob", **allowed)
    assert client.send(command.encode() + b"\r\n") == reply
    client.go()


def test_a_queue_that_is_there_needs_no_right_to_create(world: World) -> None:
    world.put("q")
    client = world.client("bob")
    world.authenticator.allow("bob", publish="*", subscribe="*")
    assert client.send(b"get q\r\n") == b"VALUE q 0 1\r\nx\r\nEND\r\n"
    assert client.send(b"set q 0 0 1\r\ny\r\n") == b"STORED\r\n"  # empty, it is there all the same


def test_noreply_is_silent_about_a_missing_right_and_does_nothing(world: World) -> None:
    world.put("q")
    client = world.client("bob")
    assert client.send(b"set q 0 0 1 noreply\r\ny\r\ndelete q noreply\r\nflush_all noreply\r\nversion\r\n").startswith(
        b"VERSION "
    )
    assert world.broker.queue_stats("q").ready == 1


def test_of_several_keys_none_is_taken_if_one_is_forbidden(world: World) -> None:
    world.put("a", "b")
    client = world.client("bob")
    world.authenticator.allow("bob", subscribe="queue:a")
    assert client.send(b"get a b\r\n") == NO.format("take from queue b").encode()
    assert world.broker.queue_stats("a").ready == 1


def test_options_and_escapes_do_not_lead_around_a_right(world: World) -> None:
    world.put("secret/x", "secret")
    client = world.client("bob")
    world.authenticator.allow("bob", **everything("queue:public*"))
    for key in (b"secret%2Fx", b"/queue/secret", b"secret/open", b"secret/t=5/open", b"/queue/secret/x"):
        assert client.send(b"get " + key + b"\r\n").startswith(b"CLIENT_ERROR not allowed: ")


def test_stats_show_what_may_be_seen(world: World) -> None:
    world.put("mine", "others")
    client = world.client("bob")
    world.authenticator.allow("bob", browse="queue:mine")
    said = client.send(b"stats\r\n")
    assert b"STAT queue_mine_items 1\r\n" in said
    assert b"others" not in said
    assert b"STAT pid" not in said
    world.authenticator.allow("bob", browse="*")
    said = client.send(b"stats\r\n")
    assert b"STAT queue_others_items 1\r\n" in said
    assert b"STAT curr_items 2\r\n" in said


def test_a_topic_is_published_to_by_its_own_right(world: World) -> None:
    _ = Deferred.fromCoroutine(world.broker.bind("q", topic("t")))
    client = world.client("bob")
    world.authenticator.allow("bob", publish="queue:*", create="*")
    assert client.send(b"set /topic/t 0 0 1\r\nx\r\n") == NO.format("publish to topic t").encode()
