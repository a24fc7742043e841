"""The PROXY protocol: headers as bytes, whom a listener believes, and that the client's address is what counts."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from broker.auth.limits import Bounds
from broker.config import HttpListener, MemcacheListener, StompListener
from broker.errors import ConfigError
from broker.proxy import MAX_FIELDS, MAX_LINE, PATIENCE, V2, BadHeader, Header, Proxied, Trusted, parse
from tests.auth.support import PASSWORD, Log, entry, everything, write
from tests.auth.test_audit import lines, talk
from tests.support import serving, tx
from tests.test_tls import Authority


def line(client: str = "192.0.2.7", port: int = 4711) -> bytes:
    """A header of version 1."""
    family, ours = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {client} {ours} {port} 443\r\n".encode()


def binary(client: str = "192.0.2.7", port: int = 4711, *, more: bytes = b"", command: int = 0x21) -> bytes:
    """A header of version 2."""
    packed = ipaddress.ip_address(client).packed
    fields = packed + packed + struct.pack("!HH", port, 443) + more
    return V2 + struct.pack("!BBH", command, 0x21 if ":" in client else 0x11, len(fields)) + fields


def of(client: str, port: int) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in client else IPv4Address)("TCP", client, port)


addresses = st.ip_addresses().map(str)
ports = st.integers(0, 65535)


@given(addresses, ports, st.binary(max_size=300), st.booleans())
def test_a_header_is_read_whole_and_no_further_than_it_goes(client: str, port: int, rest: bytes, v2: bool) -> None:
    header = binary(client, port) if v2 else line(client, port)
    assert parse(header + rest) == Header(len(header), of(client, port))
    assert all(parse(header[:end]) is None for end in range(len(header)))


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2, V2 + b"\x21\x11\x00\x0c", V2 + b"\x20"]),
)
def test_whatever_comes_is_a_header_none_yet_or_refused(data: bytes, start: bytes) -> None:
    try:
        header = parse(start + data)
    except BadHeader:
        return
    assert header is None or header.length <= len(start + data)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ff:ff::1 whatever\r\n",
        binary(command=0x20),
        V2 + b"\x20\x00\x00\x00",
        V2 + b"\x21\x00\x00\x00",
        V2 + b"\x21\x31\x00\xd8" + bytes(216),
    ],
)
def test_who_has_no_address_comes_as_the_proxy(header: bytes) -> None:
    assert parse(header) == Header(len(header), None)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.700 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 \xb2 2\r\n",
        b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY  \r\n",
        b"PROXY " + b"x" * MAX_LINE,
        V2 + b"\x11\x11\x00\x0c" + bytes(12),
        V2 + b"\x22\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x12\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\x00\x0b" + bytes(11),
        V2 + b"\x21\x21\x00\x0c" + bytes(12),
        V2 + struct.pack("!BBH", 0x21, 0x11, MAX_FIELDS + 1),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeader):
        parse(data)


def test_further_fields_are_passed_over() -> None:
    header = binary(more=b"\x04\x00\x03abc")
    assert parse(header + b"get") == Header(len(header), of("192.0.2.7", 4711))


# -- whom a listener believes


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        (IPv4Address("TCP", "10.1.2.3", 1), True),
        (IPv4Address("TCP", "192.0.2.1", 1), True),
        (IPv4Address("TCP", "192.0.2.2", 1), False),
        (IPv6Address("TCP", "::ffff:10.1.2.3", 1), True),
        (IPv6Address("TCP", "fd00:5::9%eth0", 1), True),
        (IPv6Address("TCP", "fd00:6::9", 1), False),
        (IPv6Address("TCP", "no address", 1), False),
        (UNIXAddress(b"/run/x"), False),
    ],
)
def test_an_address_is_trusted_or_is_not(peer: object, believed: bool) -> None:
    assert (peer in Trusted(["10.0.0.0/8", "192.0.2.1", "fd00:5::/64"])) == believed


def test_a_unix_socket_is_trusted_by_that_name() -> None:
    assert UNIXAddress(b"/run/x") in Trusted(["unix"])
    with pytest.raises(ConfigError, match=r"proxy: 'localhost' is no address, network or \"unix\""):
        Trusted(["localhost"])


# -- a connection


class Echo(Protocol):
    """Tells who it believes its peer to be, and what that says."""

    def connectionMade(self) -> None:
        assert isinstance(self.factory, Echoes)
        assert self.transport is not None
        self.factory.peers.append(self.transport.getPeer())

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Echoes(Factory):
    protocol = Echo
    noisy = False

    def __init__(self) -> None:
        self.peers: list[Any] = []


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.front = Echoes()
        self.proxied = Proxied(Trusted(["10.0.0.0/8"]), self.clock, self.front)

    def come(self, host: str) -> Any:
        """A connection from there; its transport."""
        peer = IPv4Address("TCP", host, 1)
        transport: Any = StringTransport(peerAddress=peer)
        transport.protocol = self.proxied.buildProtocol(peer)
        transport.protocol.makeConnection(transport)
        return transport


def test_the_front_begins_with_the_client_s_address_however_the_bytes_come() -> None:
    for header in (line(), binary()):
        world = World()
        transport = world.come("10.0.0.1")
        for byte in header + b"hello":
            transport.protocol.dataReceived(bytes([byte]))
        assert world.front.peers == [of("192.0.2.7", 4711)]
        assert transport.value() == b"hello"
        assert transport.getPeer() == of("192.0.2.7", 4711)
        assert not world.clock.getDelayedCalls()
        assert not world.proxied.waiting


def test_who_is_not_trusted_is_himself_whatever_he_says() -> None:
    world = World()
    transport = world.come("192.0.2.66")
    transport.protocol.dataReceived(line("127.0.0.1"))
    assert world.front.peers == [IPv4Address("TCP", "192.0.2.66", 1)]
    assert transport.value() == line("127.0.0.1")


def test_a_proxy_that_says_nothing_or_nonsense_is_closed_on_and_the_log_says_why() -> None:
    world = World()
    with Log() as log:
        silent, wrong = world.come("10.0.0.1"), world.come("10.0.0.2")
        wrong.protocol.dataReceived(b"GET / HTTP/1.1\r\n")
        assert wrong.disconnected
        world.clock.advance(PATIENCE)
        assert silent.disconnected
    assert "no PROXY header from 10.0.0.1:1: none came in 10 seconds: closed" in log.text
    assert "no PROXY header from 10.0.0.2:1: no PROXY header: closed" in log.text
    assert world.front.peers == []
    gone = world.come("10.0.0.3")
    gone.protocol.connectionLost(connectionDone)
    assert not world.clock.getDelayedCalls()
    late = world.come("10.0.0.4")
    world.proxied.doStop()
    assert late.disconnected


def test_a_front_that_takes_nobody_ends_it() -> None:
    world = World()
    world.front.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    transport = world.come("10.0.0.1")
    transport.protocol.dataReceived(line())
    assert transport.disconnected


# -- over real sockets, on every front


@tx(120)
async def test_log_audit_and_limits_know_the_client_s_address(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    users = write(tmp_path / "users.toml", {"alice": entry(**everything())})
    said: dict[str, Any] = {
        "memcache": [MemcacheListener(0, proxy=["127.0.0.0/8"])],
        "stomp": [StompListener(0, proxy=["127.0.0.1"])],
        "http": [HttpListener(0, proxy=["127.0.0.1"])],
    }
    token = f"alice {PASSWORD}".encode()
    login = b"set l 0 0 %d\r\n%b\r\n" % (len(token), token)

    def work() -> list[bytes]:
        with socket.create_connection(("127.0.0.1", served.memcache), timeout=60) as kept:
            kept.sendall(line("192.0.2.7") + login)
            first = kept.recv(100)
            second = talk(served.memcache, binary("192.0.2.7") + login, b"\n")
            third = talk(served.memcache, binary("192.0.2.8") + login + b"quit\r\n", b"STORED\r\n")
        frame = f"CONNECT\naccept-version:1.2\nhost:h\nlogin:alice\npasscode:{PASSWORD}\n\n\0".encode()
        stomp = talk(served.stomp, line("2001:db8::7") + frame, b"\0")
        basic = b"Authorization: Basic YWxpY2U6b3Blbi1zZXNhbWU=\r\n"
        http = talk(served.http, line("192.0.2.9") + b"GET /channels HTTP/1.0\r\n" + basic + b"\r\n", b"}")
        return [first, second, third, stomp[:9], http[:13]]

    with Log() as log:
        async with serving(users=str(users), audit=str(path), limits=Bounds(address_connections=1), **said) as served:
            got = await deferToThread(work)
    assert got == [
        b"STORED\r\n",
        b"SERVER_ERROR too many open connections from this address\r\n",
        b"STORED\r\n",
        b"CONNECTED",
        b"HTTP/1.0 200 ",
    ]
    assert [one["address"] for one in lines(path)] == ["192.0.2.7", "192.0.2.8", "2001:db8::7", "192.0.2.9"]
    assert "memcache client 192.0.2.7:4711 connected" in log.text


@tx()
async def test_a_listener_behind_a_proxy_is_not_local_wherever_it_is() -> None:
    with pytest.raises(ConfigError, match="is open to anybody on the network"):
        async with serving(http=[HttpListener(0, proxy=["127.0.0.1"])]):
            pass
    with pytest.raises(ConfigError, match="HTTP on 0: proxy: 'x' is no address"):
        async with serving(http=[HttpListener(0, proxy=["x"])]):
            pass


@tx(120)
async def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    listener = HttpListener(0, tls=authority.serving(), proxy=["127.0.0.1"])

    def work() -> bytes:
        with socket.create_connection(("127.0.0.1", served.http), timeout=60) as plain:
            plain.sendall(binary("192.0.2.7"))
            with authority.client().wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return secure.recv(100)

    with Log() as log:
        async with serving(http=[listener], allow_anonymous=True) as served:
            assert b" 200 " in await deferToThread(work)
    assert "192.0.2.7" in log.text
