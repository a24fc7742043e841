"""Where the fronts listen: what the user wrote, checked and bound before anything starts.

TCP addresses are listening sockets of our own, which Twisted adopts later. Three things follow: a port in use is known
before the process goes to the background; between the check and the use nobody can take it; and when Twisted closes an
adopted port it only closes its descriptor, where for a port of its own making it shuts the socket down for every
process that has inherited it. Sockets that this process has inherited itself are adopted likewise.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from typing import Any, Protocol, cast
from weakref import WeakSet

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IReactorSocket,
    ITCPTransport,
)
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from broker import inherited
from broker.config import Where
from broker.errors import ConfigError
from broker.inherited import BACKLOG
from broker.unix import MODE, UnixPath

OFF = "off"

_host_port = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:]*)):(?P<port>\d+)")
#: Endpoint types, which the first word of ``host:port`` is never taken for a host.
_endpoint_types = ("tcp", "tcp6", "ssl", "tls", "unix", "systemd", "stdio", "haproxy", "fd")
_unescaped_colon = re.compile(r"(?<!\\):")


class Way(Protocol):
    """One way in to the broker, not open yet."""

    @property
    def name(self) -> str:
        """For people: ``127.0.0.1:22122``, or the endpoint."""

    @property
    def local(self) -> bool:
        """Only programs on this machine come in here."""

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept connections from now on. Once only."""

    def close(self) -> None:
        """Give it up. An open port of it must be closed, too; until both are, who connects waits."""


@attrs.frozen
class Address:
    """A TCP address. Every form of it is resolved when it is bound."""

    host: str
    port: int

    def bind(self) -> Bound:
        """Take it; raises `ConfigError`, or `InUse` if somebody else has it."""
        try:
            host = self.host or "0.0.0.0"  # nosec B104  # who says ":22122" means it; without users it is refused
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"cannot listen on {self}: {getattr(error, 'strerror', error)}") from None
        # "localhost" is both 127.0.0.1 and ::1; the first is what clients try that know only one.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
            # bind alone does not keep others out: Linux lets two sockets with SO_REUSEADDR share a port until one of
            # them listens.
            bound.listen(BACKLOG)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                raise InUse(f"cannot listen on {self}: the port is in use") from None
            raise ConfigError(f"cannot listen on {self}: {error.strerror}") from None
        return Bound(bound)

    def is_at(self, descriptor: int) -> bool:
        """That a socket listens at just this address; at none, if any port will do."""
        try:
            found = socket.getaddrinfo(self.host or "0.0.0.0", self.port, type=socket.SOCK_STREAM)  # nosec B104
        except (OSError, UnicodeError):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as there:
            at = there.getsockname()
        return self.port > 0 and at in [one[4] for one in found]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InUse(ConfigError):
    """Somebody else listens there."""


class Bound:
    """A socket that listens and is ours: connections wait in the kernel's backlog while no port of it is open."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        if bound.family == socket.AF_UNIX:
            self.name, self.local = f"unix:{inherited.path_of(bound)}", True
            return
        host, port = bound.getsockname()[:2]
        self.name = str(Address(host, port))
        self.local = ipaddress.ip_address(host.partition("%")[0]).is_loopback

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        fd, family = self._socket.fileno(), self._socket.family
        # The port has its own duplicate: if only that is closed, who connects waits.
        if family == socket.AF_UNIX:
            port = inherited.open_unix(self._socket, reactor, factory, BACKLOG)
        else:
            port = reactor.adoptStreamPort(fd, family, cast("ServerFactory[Any]", factory))
        return succeed(port)

    def fileno(self) -> int:
        """What a process that follows this one may inherit."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


@attrs.frozen
class Inherited:
    """A socket that was left to this process."""

    name: str
    descriptor: int

    def bind(self) -> Bound:
        """Take it; raises `ConfigError`."""
        return Bound(inherited.duplicate(self.name, self.descriptor))


@attrs.frozen
class Described:
    """Any other Twisted endpoint. It binds when it opens, so that its failures come late."""

    name: str
    local: bool

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        return serverFromString(reactor, self.name).listen(factory)

    def bind(self) -> Described:
        """Nothing can be taken in advance."""
        return self

    def close(self) -> None:
        """Nothing was taken."""


#: What somebody may wish for.
Place = Address | Inherited | UnixPath | Described


def parse(where: Where, reactor: IReactorSocket) -> Place | None:
    """What the user means by `where`; None for ``off``. Raises `ConfigError`."""
    text = str(where).strip()
    if text == OFF:
        return None
    if text.isascii() and text.isdigit():
        return _address("127.0.0.1", text, text)
    host_port = _host_port.fullmatch(text)
    if host_port and host_port["host"] not in _endpoint_types:
        host = host_port["six"] if host_port["six"] is not None else host_port["host"]
        return _address(host, host_port["port"], text)
    return _endpoint(text, reactor)


def _address(host: str, port: str, text: str) -> Address:
    if int(port) > 65535:
        raise ConfigError(f"cannot listen on {text}: ports end at 65535")
    return Address(host, int(port))


def _endpoint(text: str, reactor: IReactorSocket) -> Place:
    kind, *fields = _unescaped_colon.split(text)
    if kind == "systemd":
        return Inherited(text, inherited.parse(text, reactor))
    options = dict(field.split("=", 1) for field in fields if "=" in field)
    host = options.get("interface", "").replace("\\:", ":")
    if kind in ("tcp", "tcp6") and re.fullmatch(r"[0-9]+(:interface=.*)?", ":".join(fields)) and len(fields) <= 2:
        return _address(host or ("::" if kind == "tcp6" else ""), fields[0], text)
    try:
        serverFromString(reactor, text)
    except (ValueError, TypeError, LookupError, OSError) as error:
        raise ConfigError(
            f'cannot listen on {text!r}: not a port, host:port, endpoint or "off" ({error})'.replace("\n", " ")
        ) from None
    if kind == "unix" and fields and "=" not in fields[0] and not {*options} - {"mode", "backlog", "lockfile"}:
        return UnixPath(text, fields[0].replace("\\:", ":"), int(options["mode"], 8) if "mode" in options else MODE)
    return Described(text, kind == "unix" or (kind in ("tcp", "tcp6", "ssl") and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@implementer(IProtocolFactory, ILoggingContext)
class Connections:
    """The connections of one listener, whichever front's: how many are open, and the means to cut them."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self._protocols: WeakSet[IProtocol] = WeakSet()
        #: Connections made so far.
        self.total = 0

    def buildProtocol(self, address: IAddress) -> IProtocol | None:
        """A client came."""
        protocol = self._factory.buildProtocol(address)
        if protocol is not None:
            self._protocols.add(protocol)
            self.total += 1
        return protocol

    def doStart(self) -> None:
        """The port is open."""
        self._factory.doStart()

    def doStop(self) -> None:
        """The port is closed."""
        self._factory.doStop()

    def logPrefix(self) -> str:
        """What Twisted calls the port's owner in the log."""
        return type(self._factory).__name__

    def _transports(self) -> list[ITCPTransport]:
        transports = (getattr(protocol, "transport", None) for protocol in self._protocols)
        return [one for one in transports if one is not None and not getattr(one, "disconnected", False)]

    def open(self) -> list[IProtocol]:
        """Those that are not gone yet."""
        there = {id(transport) for transport in self._transports()}
        return [one for one in list(self._protocols) if id(getattr(one, "transport", None)) in there]

    def count(self) -> int:
        """Connections that are not gone yet."""
        return len(self._transports())

    def cut(self) -> None:
        """Close them all, whatever is unsent."""
        for transport in self._transports():
            transport.abortConnection()
