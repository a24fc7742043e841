"""memcache's text protocol: the words of a line in, a command out.

`Texts` knows the commands of one dialect. What a line announces behind it, a body, is a `Payload`; how lines and bodies
are cut out of a stream is `broker.memcache.wire`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import msgspec

from broker.core.level import Level
from broker.memcache.commands import (
    Cas,
    Command,
    Confirm,
    Delete,
    Done,
    DumpConfig,
    DumpStats,
    Flush,
    FlushAll,
    FlushExpired,
    Get,
    Malformed,
    Monitor,
    Quit,
    Reload,
    Set,
    Shutdown,
    Stats,
    Status,
    Touch,
    Version,
)
from broker.memcache.dialect import Dialect
from broker.memcache.text import TextVoice
from broker.memcache.voice import Outcome

BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
BAD_DELETE = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"
BAD_DELAY = b"CLIENT_ERROR invalid exptime argument\r\n"
BAD_DELTA = b"CLIENT_ERROR invalid numeric delta argument\r\n"

#: The longest key as sent: a name of 250 bytes, each as an escape of three, and all its options.
MAX_KEY = 1024
#: Lines whose meaning is remembered, and how long one may be.
_KNOWN = 2_048
_KNOWN_LINE = 128
#: Bodies beyond this are not believed: such a length is a malformed line, as in memcached (INT_MAX).
MAX_LENGTH = 2**31 - 3
MAX_FLAGS = 0xFFFFFFFF
MAX_UNIQUE = 0xFFFFFFFFFFFFFFFF
MIN_EXPTIME, MAX_EXPTIME = -0x80000000, 0xFFFFFFFF


def number(word: bytes, least: int, most: int) -> int:
    """The decimal number `word`; ValueError if it is none, or not within `least` and `most`."""
    # int() alone would take blanks, underscores, and any length.
    if (not word.isdigit() and not (word[:1] == b"-" and word[1:].isdigit())) or len(word) > 20:
        raise ValueError
    found = int(word)
    if not least <= found <= most:
        raise ValueError
    return found


class Payload(msgspec.Struct, gc=False):
    """A line is followed by a body: how long it is, and what becomes of it."""

    length: int
    #: Known before the body, which is swallowed then.
    refused: Command | None = None
    #: What it is with its body.
    make: Callable[[bytes], Command] | None = None
    #: What it is with a body that is too large, and with one that does not end where it should.
    broken: tuple[Malformed, Malformed] | None = None


class Texts:
    """The commands of one dialect, for all connections that speak it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.loud = TextVoice(dialect)
        self.quiet = TextVoice(dialect, quiet=True)
        self.with_cas = TextVoice(dialect, cas=True) if dialect.cas else self.loud
        loud = self.loud
        self._lacking = Malformed(loud, dialect.lacking, dialect.lacking_closes)
        self.unknown = Malformed(loud, dialect.unknown, dialect.errors_close)
        known = {word: parse for word, parse in _PARSERS.items() if _serves(dialect, word)}
        self._parsers = {word: parse.__get__(self) for word, parse in known.items()}
        self._any_case = dialect.any_case
        #: What lines that came before say.
        self.known: dict[bytes, Command | Payload] = {}
        self._bodies = {
            quiet: (
                Malformed(voice, b"" if quiet else dialect.too_large),
                Malformed(voice, b"" if quiet else BAD_CHUNK, dialect.lacking_closes),
            )
            for quiet, voice in ((False, self.loud), (True, self.quiet))
        }

    def remember(self, line: bytes, parsed: Command | Payload) -> None:
        """What a line says that is likely to come again: 3 us less for each `set` and `get`."""
        again = isinstance(parsed, Get) or (isinstance(parsed, Payload) and line.startswith(b"set "))
        if again and len(line) <= _KNOWN_LINE:
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known[line] = parsed

    def parse(self, words: list[bytes]) -> Command | Payload:
        """What the words of a line say; there is one at least."""
        word = words[0]
        parse = self._parsers.get(word)
        if parse is None and self._any_case:
            parse = self._parsers.get(word.lower())
        return self.unknown if parse is None else parse(words)

    # -- parts

    def _voice(self, quiet: bool) -> TextVoice:
        return self.quiet if quiet else self.loud

    def _bad(self, reply: bytes = b"", quiet: bool = False) -> Malformed:
        """A number that is none, or a key that is too long."""
        reply = b"" if quiet else reply or self._dialect.bad_format
        return Malformed(self._voice(quiet), reply, self._dialect.lacking_closes)

    def _one_key(self, words: list[bytes], make: Callable[[TextVoice, bytes], Command]) -> Command:
        """``<command> <key>``, whatever follows."""
        if len(words) < 2:
            return self._lacking
        return self._bad() if len(words[1]) > MAX_KEY else make(self.loud, words[1])

    # -- with a body

    def _set(self, words: list[bytes]) -> Command | Payload:
        """``set <key> <flags> <exptime> <bytes> [noreply]``."""
        count = len(words)
        if count < 5:
            return self._lacking
        try:
            length = number(words[4], 0, MAX_LENGTH)
        except ValueError:
            return self._bad(self._dialect.bad_length)
        quiet = count > 5 and words[5] == b"noreply"
        key = words[1]
        try:
            if count > 6 or len(key) > MAX_KEY:  # a sixth word is passed over (Kestrel, Siberite)
                raise ValueError
            flags = number(words[2], 0, MAX_FLAGS)
            exptime = number(words[3], MIN_EXPTIME, MAX_EXPTIME)
        except ValueError:
            return Payload(length, self._bad(quiet=quiet))
        voice = self.quiet if quiet else self.loud
        return Payload(length, None, lambda body: Set(voice, key, flags, exptime, body), self._broken(quiet))

    def _cas(self, words: list[bytes]) -> Command | Payload:
        """``cas <key> <flags> <exptime> <bytes> <cas unique> [noreply]``."""
        count = len(words)
        if count < 6:
            return self._lacking
        try:
            length = number(words[4], 0, MAX_LENGTH)
        except ValueError:
            return self._bad(self._dialect.bad_length)
        quiet = count > 6 and words[-1] == b"noreply"
        key = words[1]
        try:
            if count > 7 or len(key) > MAX_KEY:
                raise ValueError
            flags = number(words[2], 0, MAX_FLAGS)
            exptime = number(words[3], MIN_EXPTIME, MAX_EXPTIME)
            unique = number(words[5], 0, MAX_UNIQUE)
        except ValueError:
            return Payload(length, self._bad(quiet=quiet))
        if self._dialect.commands is not None:
            return self._cannot(length, quiet)
        voice = self._voice(quiet)
        return Payload(length, None, lambda body: Cas(voice, key, flags, exptime, body, unique), self._broken(quiet))

    def _add(self, words: list[bytes]) -> Command | Payload:
        """``add``, ``replace``, ``append``, ``prepend``: one cannot do that to a queue."""
        payload = self._set(words)
        if isinstance(payload, Payload) and payload.make is not None:
            return self._cannot(payload.length, quiet=words[-1] == b"noreply")
        return payload

    def _cannot(self, length: int, quiet: bool) -> Payload:
        """One cannot do that to a queue: what is sent for it is swallowed."""
        reply = b"" if quiet else self._dialect.add_refused
        return Payload(length, Malformed(self._voice(quiet), reply, self._dialect.errors_close))

    def _broken(self, quiet: bool) -> tuple[Malformed, Malformed]:
        """What a body is that is too large, and one that does not end where it should."""
        return self._bodies[quiet]

    # -- reading

    def _get(self, words: list[bytes]) -> Command:
        return self._keys(words, self.loud)

    def _gets(self, words: list[bytes]) -> Command:
        return self._keys(words, self.with_cas)

    def _keys(self, words: list[bytes], voice: TextVoice) -> Command:
        if len(words) < 2:
            return self._lacking
        keys = words[1:]
        if len(keys) > 1 and self._dialect.keys != "all":
            keys = keys[:1] if self._dialect.keys == "first" else [b" ".join(keys)]
        if len(keys[0]) > MAX_KEY or (len(keys) > 1 and max(map(len, keys)) > MAX_KEY):
            return self._bad()
        return Get(voice, keys)

    def _gat(self, words: list[bytes]) -> Command:
        """``gat <exptime> <key>*``: the loan is as long as ever."""
        if len(words) < 3:
            return self._lacking
        try:
            number(words[1], MIN_EXPTIME, MAX_EXPTIME)
        except ValueError:
            return self._bad(BAD_DELAY)
        return self._keys(words[1:], self.with_cas if words[0].lower() == b"gats" else self.loud)

    def _touch(self, words: list[bytes]) -> Command:
        """``touch <key> <exptime> [noreply]``."""
        if len(words) < 3:
            return self._lacking
        quiet = len(words) > 3 and words[-1] == b"noreply"
        try:
            seconds = number(words[2], MIN_EXPTIME, MAX_EXPTIME)
        except ValueError:
            return self._bad(BAD_DELAY, quiet)
        return self._bad(quiet=quiet) if len(words[1]) > MAX_KEY else Touch(self._voice(quiet), words[1], seconds)

    def _incr(self, words: list[bytes]) -> Command:
        """``incr <key> <delta> [noreply]``, ``decr``: no key has a number."""
        if len(words) < 3:
            return self._lacking
        quiet = len(words) > 3 and words[-1] == b"noreply"
        try:
            number(words[2], 0, MAX_UNIQUE)
        except ValueError:
            return self._bad(BAD_DELTA, quiet)
        return self._bad(quiet=quiet) if len(words[1]) > MAX_KEY else Done(self._voice(quiet), Outcome.NOT_FOUND)

    def _monitor(self, words: list[bytes]) -> Command:
        """``monitor <key> <seconds> [<most>]``."""
        if len(words) < 3:
            return self._lacking
        try:
            seconds = number(words[2], 0, MAX_LENGTH)
            most = number(words[3], 1, MAX_LENGTH) if len(words) > 3 else 0
        except ValueError:
            return self._bad()
        return self._one_key(words, lambda voice, key: Monitor(voice, key, seconds, most))

    def _confirm(self, words: list[bytes]) -> Command:
        """``confirm <key> <count>``."""
        if len(words) < 3:
            return self._lacking
        try:
            count = number(words[2], -MAX_LENGTH, MAX_LENGTH)
        except ValueError:
            return self._bad()
        return self._one_key(words, lambda voice, key: Confirm(voice, key, count))

    # -- queues

    def _delete(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return self._lacking
        quiet = len(words) > 2 and words[-1] == b"noreply"
        rest = words[2:-1] if quiet else words[2:]
        # A time of 0 is what old clients send; memcached refuses any other. Kestrel and Siberite look at no such word.
        if rest not in ([], [b"0"]) and not self._dialect.errors_close:
            return self._bad(BAD_DELETE, quiet)
        return self._bad(quiet=quiet) if len(words[1]) > MAX_KEY else Delete(self._voice(quiet), words[1])

    def _flush(self, words: list[bytes]) -> Command:
        return self._one_key(words, Flush)

    def _flush_all(self, words: list[bytes]) -> Command:
        quiet = len(words) > 1 and words[-1] == b"noreply"
        rest = words[1:-1] if quiet else words[1:]
        # A delayed flush would empty what was put in after it: it is refused, not done at once. Kestrel ignores words.
        if rest not in ([], [b"0"]) and not self._dialect.errors_close:
            return self._bad(BAD_DELAY, quiet)
        return FlushAll(self._voice(quiet))

    def _flush_expired(self, words: list[bytes]) -> Command:
        return self._one_key(words, FlushExpired)

    def _flush_all_expired(self, words: list[bytes]) -> Command:
        return FlushExpired(self.loud, None)

    def _dump_stats(self, words: list[bytes]) -> Command:
        return DumpStats(self.loud, words[1:])

    def _dump_config(self, words: list[bytes]) -> Command:
        return DumpConfig(self.loud, words[1:])

    # -- the server

    def _stats(self, words: list[bytes]) -> Command:
        return Stats(self.loud, words[1].lower() if len(words) > 1 and self._dialect.commands is None else b"")

    def _status(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return Status(self.loud)
        try:
            return Status(self.loud, Level[words[1].decode().upper()])
        except (KeyError, UnicodeDecodeError):
            sentence = b"CLIENT_ERROR status is one of up, writeavoid, draining, readonly and quiescent\r\n"
            reply = sentence if self._dialect.sentences else self._dialect.unknown
            return Malformed(self.loud, reply, self._dialect.errors_close)

    def _reload(self, words: list[bytes]) -> Command:
        return Reload(self.loud)

    def _shutdown(self, words: list[bytes]) -> Command:
        return Shutdown(self.loud)

    def _version(self, words: list[bytes]) -> Command:
        return Version(self.loud)

    def _level(self, words: list[bytes]) -> Command:
        """``verbosity <level> [noreply]``, ``cache_memlimit <megabytes> [noreply]``: obeyed elsewhere, if at all."""
        if len(words) < 2:
            return self._lacking
        quiet = words[-1] == b"noreply"
        try:
            number(words[1], 0, 0xFFFFFFFF)
        except ValueError:
            return self._bad(quiet=quiet)
        return Done(self._voice(quiet), Outcome.OK)

    def _quit(self, words: list[bytes]) -> Command:
        return Quit(self.loud) if self._dialect.quits else Done(self.quiet, Outcome.OK)


@lru_cache
def texts_of(dialect: Dialect) -> Texts:
    """The commands of this dialect."""
    return Texts(dialect)


def _serves(dialect: Dialect, word: bytes) -> bool:
    # The payload of what one cannot do to a queue is swallowed in every dialect (Kestrel does so too).
    return dialect.commands is None or word in dialect.commands or word in _WITH_BODY


_WITH_BODY = (b"add", b"replace", b"append", b"prepend", b"cas")
_PARSERS: dict[bytes, Callable[[Texts, list[bytes]], Command | Payload]] = {
    b"get": Texts._get,
    b"gets": Texts._gets,
    b"gat": Texts._gat,
    b"gats": Texts._gat,
    b"set": Texts._set,
    b"cas": Texts._cas,
    **dict.fromkeys((b"add", b"replace", b"append", b"prepend"), Texts._add),
    b"delete": Texts._delete,
    b"touch": Texts._touch,
    b"incr": Texts._incr,
    b"decr": Texts._incr,
    b"flush": Texts._flush,
    b"flush_all": Texts._flush_all,
    b"flush_expired": Texts._flush_expired,
    b"flush_all_expired": Texts._flush_all_expired,
    b"monitor": Texts._monitor,
    b"confirm": Texts._confirm,
    b"stats": Texts._stats,
    b"dump_stats": Texts._dump_stats,
    b"dump_config": Texts._dump_config,
    b"status": Texts._status,
    b"reload": Texts._reload,
    b"shutdown": Texts._shutdown,
    b"version": Texts._version,
    b"verbosity": Texts._level,
    b"cache_memlimit": Texts._level,
    b"quit": Texts._quit,
}
