"""A Unix socket of our own: made when it opens, as the process has its user by then, and fit to be left to another."""

from __future__ import annotations

import contextlib
import os
import socket

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorSocket

from broker import inherited
from broker.errors import ConfigError

#: Who may connect, if nothing is said.
MODE = 0o666


@attrs.frozen
class UnixPath:
    """``unix:/run/broker/stomp:mode=660``: a path, relative to the run directory."""

    name: str
    path: str
    mode: int
    local = True

    def bind(self) -> UnixWay:
        """Nothing can be taken in advance."""
        return UnixWay(self)

    def remove(self) -> None:
        """Leave no path behind to which nobody listens."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def is_at(self, descriptor: int) -> bool:
        """Two sockets of one path are told apart by what was asked for."""
        return False

    def __str__(self) -> str:
        return self.name


class UnixWay:
    """The way in through such a socket."""

    local = True

    def __init__(self, place: UnixPath) -> None:
        self._place = place
        self.name = place.name
        self._socket: socket.socket | None = None
        #: The path is there, and ours.
        self.is_made = False

    def open(self, reactor: IReactorSocket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Make the socket; raises `OSError`."""
        place, found = self._place, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = found
        found.setblocking(False)
        if _is_stale(place.path):
            place.remove()
        found.bind(place.path)
        self.is_made = True
        os.chmod(place.path, place.mode)
        found.listen(inherited.BACKLOG)
        return succeed(inherited.open_unix(found, reactor, factory, inherited.BACKLOG))

    def fileno(self) -> int:
        """What a process that follows this one may inherit, once it is open."""
        if self._socket is None:
            raise ConfigError(f"{self.name} is not open")
        return self._socket.fileno()

    def close(self) -> None:
        """Give it up."""
        if self._socket is not None:
            self._socket.close()


def _is_stale(path: str) -> bool:
    """That there is a socket at `path`, and nobody listens to it any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        try:
            trying.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
