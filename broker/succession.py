"""What a process leaves to the one that follows it, and how the two talk: new code without stopping.

The new process is given descriptors: every listening socket, so that clients wait in the kernel's backlog while nobody
accepts; the lock on the data, which is thus never free in between; and one end of a pair of sockets. On it they say, a
line each: ``prepared`` (new: it could serve), ``go`` (old: the data are yours), ``ready`` (new: it serves), ``failed
WHY`` (new). The end of the old one, at whatever point, means ``go`` too; that of the new one, that it failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from broker import inherited
from broker.listen import Address, Bound, Place
from broker.lock import Lock
from broker.unix import UnixPath

PREPARED, GO, READY, FAILED = "prepared", "go", "ready", "failed"
#: A line is cut there (bytes).
MAX_LINE = 2000


class Left(NamedTuple):
    """A listening socket that another process, or an earlier broker of this one, has made."""

    front: str
    #: As it was asked for: port 0 says so.
    asked: str
    descriptor: int


class Estate:
    """Sockets that listen already, and the lock on the data; whoever takes something gets a duplicate."""

    def __init__(self, left: list[Left], lock: int | None = None) -> None:
        self.left = left
        self.lock = lock
        self._free = list(left)

    def anew(self) -> Estate:
        """The same, of which nothing is taken yet."""
        return Estate(self.left, self.lock)

    def bound(self, front: str, place: Place) -> Bound | None:
        """The socket for this wish of a front; None: there is none."""
        if not isinstance(place, Address | UnixPath):  # systemd's come to every process in their own way
            return None
        for one in self._free:
            if (one.front, one.asked) == (front, str(place)) or place.is_at(one.descriptor):
                self._free.remove(one)
                return Bound(inherited.duplicate(str(place), one.descriptor))
        return None

    def locked(self, data: str) -> Lock | None:
        """The lock, if it is that of the data file at `data`."""
        return None if self.lock is None else Lock.left(data, self.lock)

    @property
    def descriptors(self) -> list[int]:
        """All of them."""
        return [one.descriptor for one in self.left] + ([] if self.lock is None else [self.lock])

    def close(self) -> None:
        """Keep nothing of it but what was taken."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.left, self._free, self.lock = [], [], None


class Succession(NamedTuple):
    """What this process has from the one it follows."""

    estate: Estate
    channel: socket.socket


def to_json(estate: Estate, channel: int, errors: int) -> str:
    """For the environment of a process that has the same descriptors; `errors` is what standard error was before."""
    return json.dumps({"channel": channel, "errors": errors, "lock": estate.lock, "left": estate.left})


def of_json(said: dict[str, Any], channel: socket.socket) -> Succession:
    """What `to_json` said."""
    estate = Estate([Left(*one) for one in said["left"]], said["lock"])
    for descriptor in (channel.fileno(), *estate.descriptors):
        os.set_inheritable(descriptor, False)
    return Succession(estate, channel)


class _Mine:
    """What `broker.successor` has found for the service that twistd makes."""

    found: Succession | None = None


def leave(found: Succession) -> None:
    """This process follows another."""
    _Mine.found = found


def take() -> Succession | None:
    """What this process has from the one it follows; None: it follows none, or that was taken."""
    found, _Mine.found = _Mine.found, None
    return found


@implementer(IReadDescriptor)
class Channel:
    """The other one's lines, on the reactor."""

    def __init__(self, reactor: IReactorFDSet, channel: socket.socket) -> None:
        self._reactor = reactor
        self._socket = channel
        self._held = b""
        self._is_over = False
        self._waiting: Deferred[str] | None = None
        channel.setblocking(False)
        reactor.addReader(self)

    def say(self, line: str) -> None:
        """Tell the other one; if it is gone, nobody."""
        with contextlib.suppress(OSError):
            self._socket.send(" ".join(line.split()).encode()[:MAX_LINE] + b"\n")

    def hear(self) -> Deferred[str]:
        """The next line, when it comes; empty: the other one is gone, or has said its last."""
        self._waiting = waiting = Deferred[str]()
        self._tell()
        return waiting

    def close(self) -> None:
        """Say and hear nothing more."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
        self._is_over = True
        self._tell()

    def fileno(self) -> int:
        """For the reactor."""
        return self._socket.fileno()

    def doRead(self) -> None:
        """Something came."""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._is_over = True
            self._reactor.removeReader(self)
        self._held += data
        self._tell()

    def _tell(self) -> None:
        if self._waiting is None:
            return
        line, newline, rest = self._held.partition(b"\n")
        if newline or self._is_over:
            self._held, waiting, self._waiting = rest, self._waiting, None
            waiting.callback(line.decode(errors="replace"))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives it up."""
        self._is_over = True
        self._tell()

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "succession"
