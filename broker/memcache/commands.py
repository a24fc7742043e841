"""What a memcache client can say, as values, and the error lines that need nothing but the line to be known."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

BAD_FORMAT = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
BAD_DELETE = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"
BAD_DELAY = b"CLIENT_ERROR invalid exptime argument\r\n"
LINE_TOO_LONG = b"CLIENT_ERROR line too long\r\n"
NO_BINARY = b"CLIENT_ERROR the binary protocol is not supported\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
ERROR = b"ERROR\r\n"


class Get(msgspec.Struct, frozen=True, gc=False):
    """``get`` and ``gets <key>*``; the keys as sent, options included."""

    keys: list[bytes]
    #: ``gets``: each VALUE line ends with the cas unique.
    cas: bool = False


class Set(msgspec.Struct, frozen=True, gc=False):
    """``set <key> <flags> <exptime> <bytes> [noreply]`` and its body; `exptime` as sent."""

    key: bytes
    flags: int
    exptime: int
    body: bytes
    noreply: bool = False


class Delete(msgspec.Struct, frozen=True, gc=False):
    """``delete <key> [0] [noreply]``."""

    key: bytes
    noreply: bool = False


class Flush(msgspec.Struct, frozen=True, gc=False):
    """``flush <key>`` (Kestrel)."""

    key: bytes


class FlushAll(msgspec.Struct, frozen=True, gc=False):
    """``flush_all [0] [noreply]``."""

    noreply: bool = False


class Stats(msgspec.Struct, frozen=True, gc=False):
    """``stats [<argument>]``; the argument in lower case, empty if there is none."""

    argument: bytes = b""


class Reload(msgspec.Struct, frozen=True, gc=False):
    """``reload`` (Kestrel)."""


class Version(msgspec.Struct, frozen=True, gc=False):
    """``version``."""


class Verbosity(msgspec.Struct, frozen=True, gc=False):
    """``verbosity <level> [noreply]``."""

    noreply: bool = False


class Quit(msgspec.Struct, frozen=True, gc=False):
    """``quit``."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A command that is well known and not served; a payload it announced is swallowed."""

    name: str
    noreply: bool = False


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """Not a command: the error line to send, empty if the peer asked for none, and whether to close after it."""

    reply: bytes
    close: bool = False


Command: TypeAlias = (
    Get | Set | Delete | Flush | FlushAll | Stats | Reload | Version | Verbosity | Quit | Refused | Malformed
)
