"""What is answered in memcache's text protocol: lines, in a dialect's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from broker.memcache.dialect import SPOKEN, Dialect
from broker.memcache.voice import Now, Outcome, ReadsOpen, sentence, words_of

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.memcache.keys import Key

INTERNAL_ERROR = b"SERVER_ERROR internal error\r\n"
UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
END = b"END\r\n"
VERSION = f"VERSION {SPOKEN}\r\n".encode()


class TextVoice:
    """Lines, in one dialect. A `quiet` one answers nothing (``noreply``); one with `cas` shows ids (``gets``)."""

    logs_in = True

    def __init__(self, dialect: Dialect, *, quiet: bool = False, cas: bool = False) -> None:
        self._dialect = dialect
        self._quiet = quiet
        self._cas = cas
        words = {
            Outcome.STORED: b"STORED\r\n",
            Outcome.NOT_STORED: dialect.not_stored,
            Outcome.EXISTS: b"NOT_FOUND\r\n",
            Outcome.NOT_FOUND: b"NOT_FOUND\r\n",
            Outcome.DELETED: dialect.deleted,
            Outcome.NO_QUEUE: dialect.delete_miss,
            Outcome.SETTLED: b"DELETED\r\n",
            Outcome.TOUCHED: b"TOUCHED\r\n",
            Outcome.FLUSHED: END,
            Outcome.FLUSHED_ALL: dialect.flushed_all,
            Outcome.RELOADED: dialect.reloaded,
            Outcome.RESET: b"RESET\r\n",
            Outcome.NOT_OPEN: b"ERROR\r\n",
            Outcome.STATUS: END,
            Outcome.NO_SHUTDOWN: dialect.no_shutdown,
            Outcome.OK: b"OK\r\n",
            Outcome.UNKNOWN: dialect.unknown,
            Outcome.NOOP: b"",
            Outcome.BYE: b"",
        }
        self._words = dict.fromkeys(words, b"") if quiet else words

    def said(self, outcome: Outcome, id: int = 0, size: int = 0) -> bytes:
        """A line."""
        return self._words[outcome]

    def value(self, key: Key, delivery: Delivery, now: Now) -> tuple[bytes, bytes, bytes]:
        """``VALUE <key> <flags> <bytes> [<cas unique>]`` and the body."""
        message = delivery.message
        body = message.body
        cas = b" %d" % delivery.id if self._cas else b""
        return b"VALUE %b %d %d%b\r\n" % (key.shown, message.flags, len(body), cas), body, b"\r\n"

    def missed(self, key: Key) -> bytes:
        """Nothing: that is what is missing before ``END``."""
        return b""

    def end(self) -> bytes:
        """``END``."""
        return END

    def stat(self, name: str, value: object) -> bytes:
        """``STAT <name> <value>``."""
        return f"STAT {name} {value}\r\n".encode()

    def text(self, lines: bytes) -> bytes:
        """These lines."""
        return b"" if self._quiet else lines

    def failed(self, error: BrokerError) -> tuple[bytes, bool]:
        """An error line, in the words the dialect has for it."""
        dialect = self._dialect
        words, _ = words_of(error)
        if words == b"TOO_LARGE":
            line, close = dialect.too_large, False
        elif words == b"NOT_STORED":
            line, close = dialect.not_stored, False
        elif words == b"NOT_FOUND":
            line, close = b"NOT_FOUND\r\n", False
        else:
            close = dialect.errors_close
            if words == b"BAD_FORMAT":
                line = dialect.bad_format
            elif isinstance(error, ReadsOpen) and dialect.read_open:
                line = dialect.read_open
            else:
                line = b"%b %b\r\n" % (words, sentence(error)) if dialect.sentences else b"%b\r\n" % words
        return b"" if self._quiet else line, close

    def broken(self) -> bytes:
        """A line that tells nothing."""
        return b"" if self._quiet else INTERNAL_ERROR

    def unauthenticated(self) -> bytes:
        """memcached's words, to a ``noreply`` too."""
        return UNAUTHENTICATED
