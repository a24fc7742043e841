"""memcached's meta protocol: ``mn mg ms md ma me``, on the same connection as text.

A command's flags are letters, some with a token; those that ask for something come back in the order they were sent in
(Dalli looks them up by their place). What they ask of a cache and no queue has, they are accepted for.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from broker.errors import BrokerError
from broker.memcache.commands import Cas, Command, Delete, Describe, Done, Get, Malformed, Set, Settle
from broker.memcache.text import INTERNAL_ERROR, UNAUTHENTICATED
from broker.memcache.voice import Now, Outcome, sentence, words_of
from broker.memcache.words import (
    BAD_CHUNK,
    MAX_EXPTIME,
    MAX_FLAGS,
    MAX_KEY,
    MAX_LENGTH,
    MAX_UNIQUE,
    MIN_EXPTIME,
    Payload,
    number,
)

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.memcache.keys import Key

FORMAT = b"CLIENT_ERROR bad command line format\r\n"
DUPLICATE = b"CLIENT_ERROR duplicate flag\r\n"
INVALID = b"CLIENT_ERROR invalid flag\r\n"
BAD_TOKEN = b"CLIENT_ERROR bad token in command line format\r\n"
BAD_MODE = b"CLIENT_ERROR invalid mode for ms M token\r\n"
OPAQUE_TOO_LONG = b"CLIENT_ERROR opaque token too long\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
BAD_KEY = b"CLIENT_ERROR error decoding key\r\n"
TOO_MANY = b"CLIENT_ERROR options flags are too long\r\n"
#: Bytes of an opaque token.
MAX_OPAQUE = 32
#: Flags of one command; memcached keeps them in as many bytes as a line is long.
MAX_FLAGS_COUNT = 40

#: What each command's flags may be.
_FLAGS = {
    b"mg": frozenset(b"bcfhklqstuvCENORTLP"),
    b"ms": frozenset(b"bcksqCEFIOTMNLP"),
    b"md": frozenset(b"bkqxCEIOTLP"),
    b"ma": frozenset(b"bcktqvCEJDMNOTLP"),
    b"me": frozenset(b"bkqOLP"),
}
#: Flags whose token is a number.
_NUMBERS = {
    **dict.fromkeys(b"CEJDR", (0, MAX_UNIQUE)),
    **dict.fromkeys(b"TN", (MIN_EXPTIME, MAX_EXPTIME)),
    ord("F"): (0, MAX_FLAGS),
}
_REFUSED = dict.fromkeys(b"EAPReapr", Outcome.NOT_STORED)


class MetaVoice(msgspec.Struct, frozen=True):
    """The codes of two letters, with the flags that were asked for."""

    #: The key as it was sent, as base64 if so.
    key: bytes = b""
    #: Those that something is answered to, in order: ``k``, ``O123``.
    flags: tuple[bytes, ...] = ()
    quiet: bool = False

    @property
    def logs_in(self) -> bool:
        """Never: memcached's login is a `set`."""
        return False

    def said(self, outcome: Outcome, id: int = 0, size: int = 0) -> bytes:
        """``HD``, or why not."""
        code = _CODES.get(outcome, b"HD")
        if self.quiet and code == b"HD":
            return b""
        flags = self._told({b"c": b"c%d" % id, b"s": b"s%d" % size}) if code == b"HD" else self._told({})
        return b"%b%b\r\n" % (code, flags)

    def value(self, key: Key, delivery: Delivery, now: Now) -> tuple[bytes, bytes, bytes]:
        """``VA <size> <flags>`` and the body if it is asked for, else ``HD``."""
        message = delivery.message
        told = {
            b"c": b"c%d" % delivery.id,
            b"f": b"f%d" % message.flags,
            b"h": b"h%d" % delivery.redelivered,
            b"l": b"l0",
            b"s": b"s%d" % len(message.body),
            b"t": b"t%d" % seconds_left(delivery, now),
        }
        flags = self._told(told)
        if b"v" not in self.flags:
            return b"HD%b\r\n" % flags, b"", b""
        return b"VA %d%b\r\n" % (len(message.body), flags), message.body, b"\r\n"

    def missed(self, key: Key) -> bytes:
        """``EN``."""
        return b"" if self.quiet else b"EN\r\n"

    def end(self) -> bytes:
        """Nothing: each value stands by itself."""
        return b""

    def stat(self, name: str, value: object) -> bytes:
        """A part of ``ME``."""
        return f" {name}={value}".encode()

    def text(self, lines: bytes) -> bytes:
        """``ME <key> <parts>``; ``EN`` if there are none."""
        return b"ME %b%b\r\n" % (self.key, lines) if lines else b"EN\r\n"

    def failed(self, error: BrokerError) -> tuple[bytes, bool]:
        """An error line as in text, or the code that means the same; it is never hidden."""
        words, _ = words_of(error)
        match words:
            case b"NOT_STORED":
                return b"NS%b\r\n" % self._told({}), False
            case b"NOT_FOUND":
                return b"NF%b\r\n" % self._told({}), False
            case b"TOO_LARGE":
                return TOO_LARGE, False
            case b"BAD_FORMAT":
                return FORMAT, False
        return b"%b %b\r\n" % (words, sentence(error)), False

    def broken(self) -> bytes:
        """A line that tells nothing."""
        return INTERNAL_ERROR

    def unauthenticated(self) -> bytes:
        """memcached's words."""
        return UNAUTHENTICATED

    def _told(self, known: dict[bytes, bytes]) -> bytes:
        """The flags that come back, each behind a blank."""
        told = []
        for flag in self.flags:
            letter = flag[:1]
            if letter == b"O":
                told.append(flag)
            elif letter == b"k":
                told.append(b"k" + self.key)
            elif letter == b"b":
                told.append(b"b")
            elif letter in known:
                told.append(known[letter])
        return b"".join(b" " + one for one in told)


_CODES = {
    Outcome.NOT_STORED: b"NS",
    Outcome.EXISTS: b"EX",
    Outcome.NOT_FOUND: b"NF",
    Outcome.NO_QUEUE: b"NF",
    Outcome.NOOP: b"MN",
}


def seconds_left(delivery: Delivery, now: Now) -> int:
    """How long the message may be delivered; -1: for ever."""
    expires = delivery.reader.queue.expires(delivery.reader, delivery.seq, delivery.message)
    return max(expires - now(), 0) // 1_000_000 if expires else -1


class _Flags(msgspec.Struct):
    """What a line says behind its key."""

    voice: MetaVoice
    key: bytes
    #: Each letter's token; a number for those that take one.
    tokens: dict[int, bytes]
    numbers: dict[int, int]


class Metas:
    """The meta commands."""

    def __init__(self) -> None:
        self._parsers = {
            b"mg": self._get,
            b"ms": self._set,
            b"md": self._delete,
            b"ma": self._arithmetic,
            b"me": self._debug,
        }
        self._noop = Done(MetaVoice(), Outcome.NOOP)
        self._lacking = Malformed(MetaVoice(), b"ERROR\r\n")

    def parse(self, words: list[bytes]) -> Command | Payload | None:
        """What these words say; None if they are no meta command."""
        word = words[0]
        if word == b"mn":
            return self._noop
        parse: Callable[[list[bytes]], Command | Payload] | None = self._parsers.get(word)
        return None if parse is None else parse(words)

    def _get(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return self._lacking
        flags = _flags(words, words[2:])
        if isinstance(flags, Malformed):
            return flags
        return Get(flags.voice, [flags.key], look=ord("v") not in flags.tokens)

    def _set(self, words: list[bytes]) -> Command | Payload:
        """``ms <key> <length> <flags>*``."""
        if len(words) < 3:
            return self._lacking
        try:
            length = number(words[2], 0, MAX_LENGTH)
        except ValueError:
            return _bad(FORMAT)
        flags = _flags(words, words[3:])
        if isinstance(flags, Malformed):
            return Payload(length, flags)
        voice, key, numbers = flags.voice, flags.key, flags.numbers
        mode = flags.tokens.get(ord("M"), b"S")
        if mode not in (b"S", b"s") and (len(mode) != 1 or mode[0] not in _REFUSED):
            return Payload(length, _bad(BAD_MODE))
        if mode not in (b"S", b"s"):
            return Payload(length, Done(voice, Outcome.NOT_STORED))
        client_flags, exptime = numbers.get(ord("F"), 0), numbers.get(ord("T"), 0)
        if (unique := numbers.get(ord("C"))) is not None:
            asked = unique
            return Payload(length, None, lambda body: Cas(voice, key, client_flags, exptime, body, asked), _BODIES)
        return Payload(length, None, lambda body: Set(voice, key, client_flags, exptime, body), _BODIES)

    def _delete(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return self._lacking
        flags = _flags(words, words[2:])
        if isinstance(flags, Malformed):
            return flags
        unique = flags.numbers.get(ord("C"))
        return Delete(flags.voice, flags.key) if unique is None else Settle(flags.voice, flags.key, unique)

    def _arithmetic(self, words: list[bytes]) -> Command:
        """No key has a number."""
        if len(words) < 2:
            return self._lacking
        flags = _flags(words, words[2:])
        return flags if isinstance(flags, Malformed) else Done(flags.voice, Outcome.NOT_FOUND)

    def _debug(self, words: list[bytes]) -> Command:
        if len(words) < 2:
            return self._lacking
        flags = _flags(words, words[2:])
        return flags if isinstance(flags, Malformed) else Describe(flags.voice, flags.key)


def _bad(reply: bytes) -> Malformed:
    return Malformed(MetaVoice(), reply)


#: What a body is that is too large, and one that does not end where it should.
_BODIES = (_bad(TOO_LARGE), _bad(BAD_CHUNK))


def _flags(words: list[bytes], said: list[bytes]) -> _Flags | Malformed:
    """The flags of a line, each once and with its token."""
    if len(words[1]) > MAX_KEY:
        return _bad(FORMAT)
    if len(said) > MAX_FLAGS_COUNT:
        return _bad(TOO_MANY)
    known, tokens, numbers = _FLAGS[words[0]], {}, {}
    for flag in said:
        letter, token = flag[0], flag[1:]
        if letter not in known:
            return _bad(INVALID)
        if letter in tokens:
            return _bad(DUPLICATE)
        tokens[letter] = token
        if letter in _NUMBERS:
            try:
                numbers[letter] = number(token, *_NUMBERS[letter])
            except ValueError:
                return _bad(BAD_TOKEN)
        elif letter == ord("O") and len(token) > MAX_OPAQUE:
            return _bad(OPAQUE_TOO_LONG)
    key = words[1]
    if ord("b") in tokens:
        try:
            key = binascii.a2b_base64(key, strict_mode=True)
        except binascii.Error:
            return _bad(BAD_KEY)
    # Only the key that comes back says that it is base64, right behind it.
    asked: list[bytes] = []
    for flag in said:
        if flag[0] == ord("k"):
            asked += [b"k", b"b"] if ord("b") in tokens else [b"k"]
        elif flag[0] != ord("b"):
            asked.append(flag)
    return _Flags(MetaVoice(words[1], tuple(asked), ord("q") in tokens), key, tokens, numbers)


METAS = Metas()
