"""The lines we answer with, and the one table from errors to lines."""

from __future__ import annotations

from broker import __version__, errors
from broker.errors import BrokerError
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


#: What begins the line that tells of an error, or the whole line where clients know one. The nearest class counts.
ERRORS: dict[type[BrokerError], bytes] = {
    errors.BrokerError: b"SERVER_ERROR",
    errors.BadName: b"CLIENT_ERROR",
    errors.BadValue: b"CLIENT_ERROR",
    errors.NotAllowed: b"CLIENT_ERROR",
    errors.MessageTooLarge: TOO_LARGE,
    errors.QueueFull: NOT_STORED,
    errors.NotFound: NOT_FOUND,
    errors.LeaseLost: NOT_FOUND,
    errors.StoreUnavailable: b"SERVER_ERROR",
    errors.StoreRefused: b"SERVER_ERROR",
    errors.Stopping: b"SERVER_ERROR",
    errors.ConfigError: b"SERVER_ERROR",
    errors.NothingToReload: b"SERVER_ERROR",
    ReadsOpen: b"ERROR",
}


def error_reply(error: BaseException | None) -> bytes | None:
    """The line that tells a client of `error`; None if it is not one of ours."""
    if not isinstance(error, BrokerError):
        return None
    words = next(ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS)
    return words if words.endswith(b"\n") else b"%b %b\r\n" % (words, " ".join(error.reason.split()).encode())
