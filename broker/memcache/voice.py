"""How a client is told what became of its command: what there is to tell, and the one table of errors.

Text, meta and binary each have a voice (`broker.memcache.text`, ``meta``, ``binary``): bytes out of outcomes, without
any I/O. A command carries the voice it is to be answered with; whoever does the command knows no protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from broker import errors
from broker.errors import BadName, BadValue, BrokerError

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.memcache.keys import Key


class Outcome(enum.Enum):
    """What may become of a command that has no value to show."""

    #: By identity: `enum.Enum`'s own is a call of Python, and each answer is looked up.
    __hash__ = object.__hash__

    STORED = enum.auto()
    #: Refused: the queue is full, or one cannot do that to a queue.
    NOT_STORED = enum.auto()
    #: The loan that an id names is over.
    EXISTS = enum.auto()
    NOT_FOUND = enum.auto()
    DELETED = enum.auto()
    #: There is no queue of that name.
    NO_QUEUE = enum.auto()
    SETTLED = enum.auto()
    TOUCHED = enum.auto()
    FLUSHED = enum.auto()
    FLUSHED_ALL = enum.auto()
    RELOADED = enum.auto()
    #: The numbers of ``stats`` begin anew.
    RESET = enum.auto()
    #: Not confirmed: not so many reads are open.
    NOT_OPEN = enum.auto()
    #: The server's status is another one from now on.
    STATUS = enum.auto()
    NO_SHUTDOWN = enum.auto()
    OK = enum.auto()
    #: There is no such thing to tell of.
    UNKNOWN = enum.auto()
    NOOP = enum.auto()
    BYE = enum.auto()


class ReadsOpen(BrokerError):
    """The reads this connection has open are in the way of another."""


class BadKey(BadValue):
    """Options that do not go together, or a key without a name."""


class KeyTooLong(BadValue):
    """A name of more bytes than there may be."""


class OddName(BadName):
    """A name that this dialect's server would not take."""


#: What begins the line that tells of an error, and its number in the binary protocol. The nearest class counts.
ERRORS: dict[type[BrokerError], tuple[bytes, int]] = {
    errors.BrokerError: (b"SERVER_ERROR", 0x84),
    errors.BadName: (b"CLIENT_ERROR", 0x04),
    errors.BadValue: (b"CLIENT_ERROR", 0x04),
    errors.NotAllowed: (b"CLIENT_ERROR", 0x20),
    errors.MessageTooLarge: (b"TOO_LARGE", 0x03),
    errors.QueueFull: (b"NOT_STORED", 0x05),
    errors.OverLimit: (b"SERVER_ERROR", 0x86),
    errors.NotFound: (b"NOT_FOUND", 0x01),
    errors.LeaseLost: (b"NOT_FOUND", 0x01),
    errors.StoreUnavailable: (b"SERVER_ERROR", 0x86),
    errors.StoreRefused: (b"SERVER_ERROR", 0x84),
    errors.Stopping: (b"SERVER_ERROR", 0x86),
    errors.NotUpgraded: (b"SERVER_ERROR", 0x86),
    errors.ConfigError: (b"SERVER_ERROR", 0x84),
    errors.NothingToReload: (b"SERVER_ERROR", 0x84),
    BadKey: (b"CLIENT_ERROR", 0x04),
    KeyTooLong: (b"BAD_FORMAT", 0x04),
    OddName: (b"ERROR", 0x04),
    ReadsOpen: (b"ERROR", 0x04),
    errors.Blocked: (b"SERVER_ERROR", 0x86),
}


def words_of(error: BrokerError) -> tuple[bytes, int]:
    """The row of `ERRORS` for this error."""
    return next(ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS)


def sentence(error: BrokerError) -> bytes:
    """What went wrong, on one line."""
    return " ".join(error.reason.split()).encode()


#: Microseconds of the wall clock.
Now = Callable[[], int]


class Voice(Protocol):
    """One way to answer one command."""

    @property
    def logs_in(self) -> bool:
        """True if a `set` before the login is the login (memcached's ``-Y``)."""

    def said(self, outcome: Outcome, id: int = 0, size: int = 0) -> bytes:
        """A command without a value is done; `id` and `size` are those of a message it made."""

    def value(self, key: Key, delivery: Delivery, now: Now) -> tuple[bytes, bytes, bytes]:
        """What a read found: the head, the body if it was asked for, and what stands behind it."""

    def missed(self, key: Key) -> bytes:
        """A read found nothing."""

    def end(self) -> bytes:
        """No further value, or number, comes."""

    def stat(self, name: str, value: object) -> bytes:
        """One number of ``stats``."""

    def text(self, lines: bytes) -> bytes:
        """Lines that are an answer by themselves: a version, a dump."""

    def failed(self, error: BrokerError) -> tuple[bytes, bool]:
        """What went wrong, and whether to close."""

    def broken(self) -> bytes:
        """A fault of the broker's own."""

    def unauthenticated(self) -> bytes:
        """The client has not said who it is."""
