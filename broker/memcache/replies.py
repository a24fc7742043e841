"""The lines we answer with, and the one table from errors to lines."""

from __future__ import annotations

from broker import __version__
from broker.errors import BadName, BadValue, BrokerError, MessageTooLarge, NotAllowed, NotFound, QueueFull
from broker.memcache.commands import ERROR, TOO_LARGE, Refused

END = b"END\r\n"
OK = b"OK\r\n"
STORED = b"STORED\r\n"
NOT_STORED = b"NOT_STORED\r\n"
DELETED = b"DELETED\r\n"
NOT_FOUND = b"NOT_FOUND\r\n"
INTERNAL_ERROR = b"SERVER_ERROR internal error\r\n"
#: Plain numbers: libmemcached takes nothing else for a version.
VERSION = f"VERSION {__version__}\r\n".encode()

_refused = {
    # A queue has no value to add to, replace or count with: what memcached says of a key it cannot do that to.
    **dict.fromkeys(("add", "replace", "append", "prepend"), NOT_STORED),
    **dict.fromkeys(("incr", "decr"), NOT_FOUND),
}
_stats = {
    b"reset": b"RESET\r\n",
    # Dashboards and php ask for these: nothing to say is not an error.
    **dict.fromkeys((b"settings", b"items", b"slabs", b"sizes", b"conns"), END),
}


class ReadsOpen(BrokerError):
    """The reads this connection has open on a queue are in the way of another."""


def refused(command: Refused) -> bytes:
    """The reply to a command that is known and not served."""
    return _refused.get(command.name) or f"CLIENT_ERROR {command.name} is not supported\r\n".encode()


def stats_of(argument: bytes) -> bytes:
    """The reply to ``stats`` with an argument."""
    return _stats.get(argument, ERROR)


def error_reply(error: BaseException | None) -> bytes | None:
    """The line that tells a client of `error`; None if it is not one of ours."""
    match error:
        case QueueFull():
            return NOT_STORED
        case MessageTooLarge():
            return TOO_LARGE
        case NotFound():
            return NOT_FOUND
        case BadName() | BadValue() | NotAllowed():
            kind = "CLIENT_ERROR"
        case ReadsOpen():
            kind = "ERROR"
        case BrokerError():
            kind = "SERVER_ERROR"
        case _:
            return None
    return f"{kind} {' '.join(error.reason.split())}\r\n".encode()
