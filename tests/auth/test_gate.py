"""How many connections may come: each front's words for one too many, over real sockets, and who comes in again."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from broker.auth.limits import Arrivals, Bounds, Buckets
from broker.auth.memory import MAX_KEYS
from broker.auth.users import Users
from broker.errors import ConfigError, OverLimit
from broker.gate import MAX_DROPPED, MAX_TOLD, PATIENCE, PERIOD, Gate
from tests.auth.support import PASSWORD, Hashing, Log, entry, write
from tests.support import serving, tx
from tests.test_reload import configured


class Inside(Protocol):
    """A front that hears when its connections end."""

    def connectionLost(self, reason: Any = connectionDone) -> None:
        assert isinstance(self.factory, Front)
        self.factory.lost += 1


class Front(Factory):
    protocol = Inside
    noisy = False
    lost = 0


def address(host: str) -> IPv4Address | IPv6Address:
    return IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)


class World:
    def __init__(self, *, told: bool = True, **bounds: Any) -> None:
        self.clock = Clock()
        self.front = Front()
        self.arrivals = Arrivals(Bounds(**bounds), self.clock.seconds)
        words = (lambda error: error.reason.encode()) if told else None
        self.gate = Gate("STOMP", self.arrivals, self.clock, words, self.front)

    def come(self, host: str = "192.0.2.1") -> Any:
        """Connect; the protocol, or None."""
        protocol = self.gate.buildProtocol(address(host))
        if protocol is not None:
            protocol.makeConnection(Transport())
        return protocol

    def is_in(self, host: str = "192.0.2.1") -> bool:
        """Connect; True if that reaches the front."""
        return isinstance(self.come(host), Inside)


class Transport(StringTransport):
    """One that says whether it was cut off."""

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True
        self.connected = False


def test_a_connection_over_the_limit_is_told_and_one_comes_in_when_another_has_gone() -> None:
    world = World(connections=2)
    first = world.come()
    assert world.is_in("192.0.2.2")
    refused = world.come("192.0.2.3")
    assert refused.transport.value() == b"too many open connections"
    assert refused.transport.disconnecting
    first.connectionLost(connectionDone)
    assert world.front.lost == 1
    assert world.is_in()
    assert not world.is_in()


def test_one_address_has_its_own_limit_and_a_household_is_one() -> None:
    world = World(address_connections=1)
    assert [world.is_in(host) for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2")] == [True, False, True]
    assert [world.is_in(host) for host in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")] == [True, False, True]
    assert not world.is_in("::ffff:192.0.2.1")


def test_other_limits_hold_for_who_comes_from_then_on() -> None:
    world = World()
    for _ in range(3):
        assert world.is_in()
    world.arrivals.change(Bounds(connections=4))
    assert [world.is_in(), world.is_in()] == [True, False]
    world.arrivals.change(Bounds(address_rate=1))
    assert [world.is_in(), world.is_in()] == [True, False]
    world.arrivals.change(Bounds(address_rate=1, connections=9))
    assert not world.is_in()


def test_a_unix_socket_is_no_address() -> None:
    world = World(address_connections=1, address_rate=1)
    for _ in range(3):
        assert isinstance(world.gate.buildProtocol(UNIXAddress("/run/broker")), Inside)


def test_an_address_may_come_as_often_as_its_rate_says() -> None:
    world = World(address_rate=2)
    assert [world.is_in() for _ in range(3)] == [True, True, False]
    assert world.is_in("192.0.2.2")
    world.clock.advance(0.5)
    assert [world.is_in() for _ in range(2)] == [True, False]


def test_a_flood_of_addresses_takes_a_bounded_memory() -> None:
    buckets = Buckets(1, Clock().seconds)
    for number in range(MAX_KEYS + 10):
        assert not buckets.take(str(number))
    assert len(buckets) == MAX_KEYS
    assert buckets.take(str(MAX_KEYS + 9)) > 0


def test_refusals_leave_nothing_behind() -> None:
    arrivals = Arrivals(Bounds(address_connections=1), Clock().seconds)
    leave = arrivals.enter("192.0.2.1")
    with pytest.raises(OverLimit):
        arrivals.enter("192.0.2.1")
    leave()
    leave()
    arrivals.enter("192.0.2.1")
    with pytest.raises(OverLimit):
        arrivals.enter("192.0.2.1")


def test_so_many_are_told_at_a_time_and_none_of_them_for_ever() -> None:
    world = World(connections=1)
    world.come()
    told = [world.come() for _ in range(MAX_TOLD)]
    assert world.come() is None
    told[0].dataReceived(b"x" * MAX_DROPPED)
    assert not told[0].transport.aborting
    told[0].dataReceived(b"x")
    assert told[0].transport.aborting
    told[0].connectionLost(connectionDone)
    assert world.come() is not None
    world.clock.advance(PATIENCE)
    assert all(one.transport.aborting for one in told[1:])
    world.gate.doStop()
    for one in list(world.gate.told):
        one.connectionLost(connectionDone)
    assert not world.clock.getDelayedCalls()


def test_who_would_have_to_shake_hands_first_is_told_nothing() -> None:
    world = World(told=False, connections=1)
    assert world.is_in()
    assert world.come() is None


def test_a_front_that_takes_nobody_is_not_counted() -> None:
    world = World(connections=1)
    build, world.front.buildProtocol = world.front.buildProtocol, lambda addr: None  # type: ignore[method-assign]
    assert world.come() is None
    world.front.buildProtocol = build  # type: ignore[method-assign]
    assert world.is_in()


def test_the_log_has_a_line_a_second_however_many_come() -> None:
    world = World(connections=1)
    world.come()
    with Log() as log:
        for _ in range(10):
            world.come("192.0.2.9")
        world.clock.advance(PERIOD)
        world.come("192.0.2.9")
    lines = [line for line in log.text.splitlines() if "is refused" in line.partition("{")[0]]
    assert len(lines) == 2
    assert "STOMP client 192.0.2.9:1 is refused: too many open connections; 9 others" in lines[1]


# -- over real sockets


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may take its time to read what it is told: nobody cuts it off before the test's own limit."""
    monkeypatch.setattr("broker.gate.PATIENCE", 300.0)


def said(port: int, sent: bytes = b"") -> bytes:
    """What a client reads to the end that comes, and says something at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        parts = []
        while data := client.recv(4096):
            parts.append(data)
    return b"".join(parts)


@pytest.mark.usefixtures("patient")
@tx(120)
async def test_every_front_says_it_in_its_own_words() -> None:
    async with serving(limits=Bounds(connections=1)) as served:
        kept = await deferToThread(socket.create_connection, ("127.0.0.1", served.memcache), 60)
        try:
            await until(lambda: served.service.front_stats()["memcache"].connections == 1)
            line = await deferToThread(said, served.memcache, b"get q\r\n")
            frame = await deferToThread(said, served.stomp, b"CONNECT\naccept-version:1.2\n\n\0")
            answer = await deferToThread(said, served.http, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        finally:
            kept.close()
        await until(lambda: served.service.front_stats()["memcache"].connections == 0)
        welcome = await deferToThread(said, served.http, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert line == b"SERVER_ERROR too many open connections\r\n"
    assert frame.startswith(b"ERROR\nmessage:Limit reached\nerror-code:limit-reached\n")
    assert frame.endswith(b"\n\ntoo many open connections\n\0")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 too many open connections\r\nRetry-After: 1\r\n")
    assert body == b"HTTP 429 too many open connections\n"
    assert b" 200 " in welcome.partition(b"\r\n")[0]


@pytest.mark.usefixtures("patient")
@tx(120)
async def test_limits_of_a_configuration_that_is_read_again_hold_and_not_those_of_one_with_a_mistake(
    tmp_path: Path,
) -> None:
    config = tmp_path / "broker.toml"
    users = write(tmp_path / "users.toml", {"alice": entry()})
    async with serving(users=str(users)) as served:
        reloading = configured(served, config, "")
        config.write_text("[limits]\nconnections = 1\n[limits.user]\nmessages = 7\n")
        users.write_text("[user.alice]\nrights = 5\n")
        with pytest.raises(ConfigError):
            await reloading.reload("test")
        kept = [await deferToThread(socket.create_connection, ("127.0.0.1", served.memcache), 60) for _ in range(2)]
        await until(lambda: served.service.front_stats()["memcache"].connections == 2)
        write(users, {"alice": entry()})
        result = await reloading.reload("test")
        assert (result.changed, result.changed_at_next_start) == (["limits.connections", "limits.user.messages"], [])
        line = await deferToThread(said, served.memcache)
        for one in kept:
            one.close()
    assert line == b"SERVER_ERROR too many open connections\r\n"


async def until(true: Any) -> None:
    """Turn the reactor until that is true."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    while not true():
        await deferLater(reactor, 0.001)


# -- logins


def test_an_address_may_log_in_as_often_as_its_rate_says(tmp_path: Path) -> None:
    clock, hashing = Clock(), Hashing()
    path = write(tmp_path / "users.toml", {name: entry() for name in ("alice", "bob", "eve")})
    users = Users(str(path), run=hashing.run, now=clock.seconds, bounds=Bounds(address_logins=2))
    came: list[object] = []
    for name, host in [("alice", "192.0.2.1"), ("bob", "192.0.2.1"), ("eve", "192.0.2.1"), ("eve", "192.0.2.2")]:
        _ = users.password(name, PASSWORD, host).addCallback(came.append)
    assert [user is not None for user in came] == [True, True, False, True]
    assert hashing.count == 3
    _ = users.password("alice", PASSWORD, "192.0.2.1").addCallback(came.append)
    assert came[-1] is not None  # it needs no hash any more
