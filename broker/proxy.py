"""The PROXY protocol: a proxy says in the first bytes of a connection whose it is.

Versions 1 and 2 (haproxy.org/download/2.8/doc/proxy-protocol.txt), by configuration of a listener: a connection from an
address that is trusted must begin so, one from any other address is its client's own. Nothing is guessed from what
comes, or anybody could say that he comes from somewhere else. The front sees the connection once the header is there,
so that logs, limits, logins and the audit log know the client's address and no other.

Twisted's own wrapper does not fit: it has the front begin before the address is known, and gives up on a header whose
first bytes come in two parts.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.auth.door import host_of
from broker.errors import ConfigError
from broker.hello import shown

V1 = b"PROXY "
V2 = b"\r\n\r\n\0\r\nQUIT\n"
#: The longest line of version 1, with its end.
MAX_LINE = 107
#: Bytes of version 2's addresses and further fields; proxies send a few hundred.
MAX_FIELDS = 4096
#: Seconds in which the header must have come.
PATIENCE = 10.0
#: What is said instead of an address of proxies that come by a Unix socket.
UNIX = "unix"


class BadHeader(ValueError):
    """What a connection begins with is no PROXY header, or names no TCP client."""


@attrs.frozen
class Header:
    """A header of this length; who the client is, or None: the proxy itself, or somebody without an address."""

    length: int
    client: IPv4Address | IPv6Address | None


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with; None if it is not whole. Raises `BadHeader`."""
    if data.startswith(V2):
        return _binary(data)
    if data.startswith(V1):
        return _line(data)
    if V1.startswith(data) or V2.startswith(data):
        return None
    raise BadHeader("no PROXY header")


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise BadHeader("too long a line")
        return None
    words = data[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return Header(end + 2, None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise BadHeader("not TCP4 or TCP6 with two addresses and two ports")
    _, family, source, target, *ports = words
    try:
        addresses = [ipaddress.ip_address(one) for one in (source, target)]
    except ValueError:
        raise BadHeader("no address") from None
    if any(f"TCP{one.version}" != family for one in addresses):
        raise BadHeader(f"no address of {family}")
    if not all(one.isascii() and one.isdigit() and len(one) <= 5 and int(one) < 65536 for one in ports):
        raise BadHeader("no port")
    return Header(end + 2, _client(addresses[0], int(ports[0])))


def _binary(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    command, family, size = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):
        raise BadHeader(f"version and command {command:#04x}")
    if size > MAX_FIELDS:
        raise BadHeader(f"a header of {size} bytes")
    if len(data) < 16 + size:
        return None
    length, fields = 16 + size, data[16 : 16 + size]
    if command == 0x20 or family in (0x00, 0x31):  # its own health check; somebody without an address; a Unix socket
        return Header(length, None)
    width = {0x11: 4, 0x21: 16}.get(family)
    if width is None:
        raise BadHeader(f"family and protocol {family:#04x}, not TCP")
    if size < 2 * width + 4:
        raise BadHeader("too short for its addresses")
    (port,) = struct.unpack_from("!H", fields, 2 * width)
    return Header(length, _client(ipaddress.ip_address(fields[:width]), port))


def _client(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> IPv4Address | IPv6Address:
    kind = IPv4Address if address.version == 4 else IPv6Address
    return kind("TCP", str(address), port)


class Trusted:
    """The proxies that are believed: addresses, networks, and ``unix``. Raises `ConfigError`."""

    def __init__(self, said: Sequence[str]) -> None:
        self._unix = UNIX in said
        self._networks = []
        for one in said:
            if one == UNIX:
                continue
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                raise ConfigError(f'proxy: {one!r} is no address, network or "{UNIX}"') from None

    def __contains__(self, peer: object) -> bool:
        host = host_of(peer)
        if not host:
            return self._unix
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


@implementer(IProtocolFactory)
class Proxied:
    """The connections of one listener that `trusted` proxies come to, as well as others."""

    def __init__(self, trusted: Trusted, clock: IReactorTime, inner: IProtocolFactory) -> None:
        self._trusted = trusted
        self.clock = clock
        self.inner = inner
        #: Those whose header has not come.
        self.waiting: set[_Announced] = set()

    def doStart(self) -> None:
        """The port is open."""
        self.inner.doStart()

    def doStop(self) -> None:
        """The port is closed."""
        for one in list(self.waiting):
            one.give_up("the broker is stopping")
        self.inner.doStop()

    def buildProtocol(self, address: IAddress) -> IProtocol | None:
        """Somebody came."""
        return _Announced(self) if address in self._trusted else self.inner.buildProtocol(address)


class _Announced(Protocol):
    """A proxy's connection until its header is there; then a protocol of the front stands in its place."""

    _log = Logger()
    transport: Any

    def __init__(self, factory: Proxied) -> None:
        self._factory = factory
        self._data = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """It begins."""
        self._factory.waiting.add(self)
        self._timer = self._factory.clock.callLater(PATIENCE, self.give_up, f"none came in {PATIENCE:g} seconds")

    def dataReceived(self, data: bytes) -> None:
        """A part of the header, or all of it and more."""
        self._data += data
        try:
            header = parse(self._data)
        except BadHeader as error:
            self.give_up(str(error))
            return
        if header is not None:
            self._over()
            self._begin(header)

    def _begin(self, header: Header) -> None:
        transport, client = self.transport, header.client
        if client is not None:
            transport.getPeer = lambda: client
        front = self._factory.inner.buildProtocol(transport.getPeer())
        if front is None:
            transport.abortConnection()
            return
        transport.protocol = front
        front.makeConnection(transport)
        if rest := self._data[header.length :]:
            front.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The proxy went away."""
        self._over()

    def give_up(self, why: str) -> None:
        """Break off."""
        self._over()
        self._log.warn("no PROXY header from {peer}: {why}: closed", peer=shown(self.transport.getPeer()), why=why)
        self.transport.abortConnection()

    def _over(self) -> None:
        self._factory.waiting.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
