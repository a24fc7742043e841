"""Sockets that somebody else has made to listen and left to this process: ``systemd:domain=INET:name=stomp``.

systemd's ``.socket`` units keep a port open while the broker is started again: who connects meanwhile waits. Which
sockets there are stands in the environment (LISTEN_FDS, LISTEN_FDNAMES), as sd_listen_fds(3) has it.
"""

from __future__ import annotations

import os
import re
import socket
from typing import cast

from twisted.internet import unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, _SystemdParser, serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorSocket

from broker.errors import ConfigError

#: Connections that may wait to be accepted: a fleet that reconnects at once. The kernel's net.core.somaxconn caps it.
BACKLOG = 4096
_wanted = re.compile(r"systemd:domain=(INET|INET6|UNIX):(name=[^:=]+|index=\d+)")


def duplicate(text: str, descriptor: int) -> socket.socket:
    """The socket `text` names, if connections can come to it; raises `ConfigError`. It stays open as it is, too."""
    try:
        found = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise ConfigError(f"cannot listen on {text}: {error.strerror}") from None
    if found.type != socket.SOCK_STREAM or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        raise ConfigError(
            f"cannot listen on {text}: the socket does not wait for connections (ListenStream=, Accept=no)"
        )
    found.setblocking(False)
    return found


def parse(text: str, reactor: IReactorSocket) -> int:
    """The descriptor of the socket that `text`, an endpoint of Twisted's, names. Raises `ConfigError`."""
    if _wanted.fullmatch(text) is None:
        raise ConfigError(f"cannot listen on {text!r}: it is systemd:domain=INET:name=NAME, or ...:index=N")
    try:
        endpoint = serverFromString(reactor, text)
    except (LookupError, ValueError):
        raise ConfigError(
            f"cannot listen on {text}: nobody has left such a socket to this process (LISTEN_FDS, LISTEN_FDNAMES); "
            "is it started by its .socket unit?"
        ) from None
    assert isinstance(endpoint, AdoptedStreamServerEndpoint)
    return cast(int, endpoint.fileno)


def descriptors() -> list[int]:
    """All that were left to this process. Twisted takes them out of the environment, and nobody else can say."""
    return _SystemdParser._sddaemon.inheritedDescriptors()


class _Port(unix.Port):
    """Twisted's, which takes a path for its own: it lets everybody write to it, and removes it in the end.

    It would also shut the socket down, for whoever else has it, too.
    """

    _shouldShutdown = False

    def leave_path_alone(self, backlog: int) -> None:
        """Call it before it listens."""
        self._bindPath = b"\0" + os.fsencode(self._bindPath)  # as of a socket that has no path
        self.backlog = backlog


def open_unix(found: socket.socket, reactor: IReactorSocket, factory: IProtocolFactory, backlog: int) -> IListeningPort:
    """Accept connections on a Unix socket somebody else has made, and keeps."""
    port = _Port._fromListeningDescriptor(reactor, found.fileno(), factory)
    port.leave_path_alone(backlog)
    port.startListening()
    return cast(IListeningPort, port)


def path_of(found: socket.socket) -> str:
    """Where a Unix socket is; a name without a path begins with @."""
    name = os.fsdecode(found.getsockname())
    return f"@{name[1:]}" if name.startswith("\0") else name
