"""memcached's binary protocol: packets in, commands out; and outcomes in packets. No I/O.

A packet is a header of 24 bytes, big-endian, and a body of extras, key and value::

    magic 80 (81 in answers) | opcode | key length (2) | extras length | type 0 | bucket, or status in answers (2)
    body length (4) | opaque (4), sent back as it is | cas (8)

A body that is too large is passed over as it arrives. A packet whose lengths contradict each other ends the connection:
nobody knows where the next one begins.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from broker.errors import BrokerError
from broker.memcache.commands import (
    Cas,
    Command,
    Delete,
    Done,
    FlushAll,
    Get,
    Login,
    Malformed,
    Quit,
    Set,
    Settle,
    Stats,
    Touch,
    Version,
)
from broker.memcache.dialect import SPOKEN
from broker.memcache.voice import KeyTooLong, Now, Outcome, sentence, words_of
from broker.memcache.words import MAX_KEY

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.memcache.keys import Key

REQUEST, RESPONSE = 0x80, 0x81
_header = struct.Struct(">BBHBBHIIQ")
HEADER = _header.size
_u32, _stored, _delta = struct.Struct(">I"), struct.Struct(">II"), struct.Struct(">QQI")
#: Small pieces of what is unfinished are gathered up to this.
PIECE = 64 * 1024
#: Extras of any command are at most these (incr: delta, initial value, expiry).
MAX_EXTRAS = 20

OK, NOT_FOUND, EXISTS, TOO_LARGE, INVALID, NOT_STORED = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05
AUTH_ERROR, UNKNOWN, INTERNAL = 0x20, 0x81, 0x84
#: What an answer's body says where a client reads it.
WORDS = {
    NOT_FOUND: b"Not found",
    EXISTS: b"Data exists for key.",
    TOO_LARGE: b"Too large.",
    INVALID: b"Invalid arguments",
    NOT_STORED: b"Not stored.",
    AUTH_ERROR: b"Auth failure.",
    UNKNOWN: b"Unknown command",
    INTERNAL: b"Internal error",
}
_STATUS = {
    Outcome.NOT_STORED: NOT_STORED,
    Outcome.EXISTS: EXISTS,
    Outcome.NOT_FOUND: NOT_FOUND,
    Outcome.NO_QUEUE: NOT_FOUND,
    Outcome.UNKNOWN: NOT_FOUND,
}

_GET, _GETQ, _GETK, _GETKQ, _GAT, _GATQ, _GATK, _GATKQ = 0x00, 0x09, 0x0C, 0x0D, 0x1D, 0x1E, 0x23, 0x24
_VERSION, _STAT = 0x0B, 0x10
#: Answers of these carry the key.
_WITH_KEY = frozenset((_GETK, _GETKQ, _GATK, _GATKQ))
#: The quiet form of an opcode, and that opcode.
_LOUD = {
    **{_GETQ: _GET, _GETKQ: _GETK, _GATQ: _GAT, _GATKQ: _GATK},
    **{0x11: 0x01, 0x12: 0x02, 0x13: 0x03, 0x14: 0x04, 0x15: 0x05, 0x16: 0x06, 0x17: 0x07, 0x18: 0x08},
    **{0x19: 0x0E, 0x1A: 0x0F},
}


class BinaryVoice(msgspec.Struct, frozen=True):
    """Packets that answer one packet."""

    opcode: int
    opaque: int
    quiet: bool = False

    @property
    def logs_in(self) -> bool:
        """Never: SASL does."""
        return False

    def said(self, outcome: Outcome, id: int = 0, size: int = 0) -> bytes:
        """A packet without a body, or with the words for what is not so."""
        status = _STATUS.get(outcome, OK)
        if self.quiet and status == OK and outcome is not Outcome.NOOP:
            return b""
        return self.packet(status, value=WORDS.get(status, b""), cas=id)

    def value(self, key: Key, delivery: Delivery, now: Now) -> tuple[bytes, bytes, bytes]:
        """The flags, the key if it is asked for, and the body."""
        message = delivery.message
        shown = key.raw if self.opcode in _WITH_KEY else b""
        extras = _u32.pack(message.flags)
        size = len(extras) + len(shown) + len(message.body)
        head = _header.pack(RESPONSE, self.opcode, len(shown), len(extras), 0, OK, size, self.opaque, delivery.id)
        return b"%b%b%b" % (head, extras, shown), message.body, b""

    def missed(self, key: Key) -> bytes:
        """Not found; the key stands for the words where it is asked for."""
        if self.quiet:
            return b""
        if self.opcode in _WITH_KEY:
            return self.packet(NOT_FOUND, key=key.raw)
        return self.packet(NOT_FOUND, value=WORDS[NOT_FOUND])

    def end(self) -> bytes:
        """Of numbers: a packet without a name."""
        return self.packet(OK) if self.opcode == _STAT else b""

    def stat(self, name: str, value: object) -> bytes:
        """A packet with the name for a key."""
        return self.packet(OK, key=name.encode(), value=str(value).encode())

    def text(self, lines: bytes) -> bytes:
        """A version has no word before it."""
        return self.packet(OK, value=SPOKEN.encode() if self.opcode == _VERSION else lines)

    def failed(self, error: BrokerError) -> tuple[bytes, bool]:
        """A status, and the sentence where memcached has no words of its own for it; a key that is too long closes."""
        if isinstance(error, KeyTooLong):
            return self.packet(INVALID, value=WORDS[INVALID]), True
        _, status = words_of(error)
        known = status in (NOT_FOUND, NOT_STORED, TOO_LARGE)
        return self.packet(status, value=WORDS[status] if known else sentence(error)), False

    def broken(self) -> bytes:
        """A status."""
        return self.packet(INTERNAL, value=WORDS[INTERNAL])

    def unauthenticated(self) -> bytes:
        """memcached's status for it, to quiet ones too."""
        return self.packet(AUTH_ERROR, value=WORDS[AUTH_ERROR])

    def packet(self, status: int, *, key: bytes = b"", value: bytes = b"", cas: int = 0) -> bytes:
        """One packet."""
        size = len(key) + len(value)
        head = _header.pack(RESPONSE, self.opcode, len(key), 0, 0, status, size, self.opaque, cas)
        return b"%b%b%b" % (head, key, value)


class Packet(msgspec.Struct, frozen=True, gc=False):
    """A request, taken apart."""

    voice: BinaryVoice
    cas: int
    extras: bytes
    key: bytes
    value: bytes


class _Head(msgspec.Struct, frozen=True, gc=False):
    voice: BinaryVoice
    opcode: int
    key: int
    extras: int
    size: int
    cas: int


class BinaryParser:
    """One connection's commands. `feed` what was read, then `next_command` until it gives None."""

    def __init__(self, max_message_size: int) -> None:
        #: May be changed between two commands.
        self.max_message_size = max_message_size
        # What was fed, where in its first piece we are, and the small pieces behind it.
        self._pieces: deque[bytes] = deque()
        self._at = 0
        self._tail = bytearray()
        #: Bytes fed and not looked at yet.
        self.pending = 0
        self._head: _Head | None = None
        # Bytes of a body that is passed over.
        self._skip = 0
        #: True after what ends the connection: nothing is parsed or kept any more.
        self.closed = False

    def feed(self, data: bytes) -> None:
        """Take what was read. Small pieces are gathered, so that the bound on memory holds byte by byte too."""
        if self.closed or not data:
            return
        self.pending += len(data)
        if not self._tail and len(data) >= PIECE // 4:
            self._pieces.append(data)
            return
        self._tail += data
        if len(self._tail) >= PIECE:
            self._gather()

    def next_command(self) -> Command | None:
        """The next command, or None if what was fed holds no further one."""
        while not self.closed:
            if self._skip:
                passed = self._take(min(self._skip, self.pending))
                self._skip -= len(passed)
                if self._skip:
                    return None
            if self._head is None:
                if self.pending < HEADER:
                    return None
                command = self._begin(_header.unpack(self._take(HEADER)))
                if command is not None:
                    return command
                continue
            head = self._head
            if self.pending < head.size:
                return None
            self._head = None
            body = self._take(head.size)
            return self._command(head, body)
        return None

    # -- parts

    def _begin(self, fields: tuple[int, ...]) -> Command | None:
        """A header; what it is if its body is not waited for."""
        magic, opcode, key, extras, _, _, size, opaque, cas = fields
        loud = _LOUD.get(opcode, opcode)
        voice = BinaryVoice(opcode, opaque, opcode in _LOUD)
        if magic != REQUEST:
            return self._end(Malformed(voice, b"", close=True))
        if key + extras > size or key > MAX_KEY or extras > MAX_EXTRAS:
            return self._end(self._invalid(voice))
        if size - key - extras > self.max_message_size:
            self._skip = size
            return Malformed(voice, voice.packet(TOO_LARGE, value=WORDS[TOO_LARGE]))
        self._head = _Head(voice, loud, key, extras, size, cas)
        return None

    def _command(self, head: _Head, body: bytes) -> Command:
        voice, place = head.voice, head.extras + head.key
        packet = Packet(voice, head.cas, body[: head.extras], body[head.extras : place], body[place:])
        rule = _RULES.get(head.opcode)
        if rule is None:
            return Malformed(voice, voice.packet(UNKNOWN, value=WORDS[UNKNOWN]))
        extras, key, value, make = rule
        fits = len(packet.extras) in extras and key in (None, bool(packet.key)) and (value or not packet.value)
        return make(packet) if fits else self._end(self._invalid(voice))

    @staticmethod
    def _invalid(voice: BinaryVoice) -> Malformed:
        return Malformed(voice, voice.packet(INVALID, value=WORDS[INVALID]), close=True)

    def _end(self, last: Malformed) -> Malformed:
        self.closed = True
        self._pieces.clear()
        self._tail.clear()
        self.pending = 0
        self._head = None
        return last

    def _gather(self) -> None:
        if self._tail:
            self._pieces.append(bytes(self._tail))
            self._tail.clear()

    def _take(self, size: int) -> bytes:
        """The next bytes; there are so many."""
        self.pending -= size
        pieces, taken = self._pieces, []
        while size:
            if not pieces:
                self._gather()
            piece, at = pieces[0], self._at
            part = piece[at : at + size]
            size -= len(part)
            self._at = at + len(part)
            if self._at == len(piece):
                pieces.popleft()
                self._at = 0
            taken.append(part)
        return taken[0] if len(taken) == 1 else b"".join(taken)


def _signed(seconds: int) -> int:
    """An expiry, which is signed in text."""
    return seconds - (1 << 32) if seconds >= 1 << 31 else seconds


def _set(packet: Packet) -> Command:
    flags, expiry = _stored.unpack(packet.extras)
    if packet.cas:
        return Cas(packet.voice, packet.key, flags, _signed(expiry), packet.value, packet.cas)
    return Set(packet.voice, packet.key, flags, _signed(expiry), packet.value)


def _delete(packet: Packet) -> Command:
    if packet.cas:
        return Settle(packet.voice, packet.key, packet.cas)
    return Delete(packet.voice, packet.key)


def _flush(packet: Packet) -> Command:
    # A delayed flush would empty what was put in after it.
    if packet.extras not in (b"", bytes(4)):
        return Malformed(packet.voice, packet.voice.packet(INVALID, value=WORDS[INVALID]))
    return FlushAll(packet.voice)


def _said(outcome: Outcome) -> Callable[[Packet], Command]:
    return lambda packet: Done(packet.voice, outcome)


#: By opcode: the sizes of its extras, whether it has a key (None: it may), whether it may have a value, and what it is.
_RULES: dict[int, tuple[tuple[int, ...], bool | None, bool, Callable[[Packet], Command]]] = {
    _GET: ((0,), True, False, lambda packet: Get(packet.voice, [packet.key])),
    _GETK: ((0,), True, False, lambda packet: Get(packet.voice, [packet.key])),
    0x01: ((8,), True, True, _set),
    0x02: ((8,), True, True, _said(Outcome.EXISTS)),  # as memcached refuses an add, and a replace
    0x03: ((8,), True, True, _said(Outcome.NOT_FOUND)),
    0x04: ((0,), True, False, _delete),
    0x05: ((20,), True, False, _said(Outcome.NOT_FOUND)),
    0x06: ((20,), True, False, _said(Outcome.NOT_FOUND)),
    0x07: ((0,), False, False, lambda packet: Quit(packet.voice)),
    0x08: ((0, 4), False, False, _flush),
    0x0A: ((0,), False, False, _said(Outcome.NOOP)),
    _VERSION: ((0,), False, False, lambda packet: Version(packet.voice)),
    0x0E: ((0,), True, True, _said(Outcome.NOT_STORED)),
    0x0F: ((0,), True, True, _said(Outcome.NOT_STORED)),
    _STAT: ((0,), None, False, lambda packet: Stats(packet.voice, packet.key.lower())),
    0x1B: ((4,), False, False, _said(Outcome.OK)),
    0x1C: ((4,), True, False, lambda packet: Touch(packet.voice, packet.key, _signed(*_u32.unpack(packet.extras)))),
    _GAT: ((4,), True, False, lambda packet: Get(packet.voice, [packet.key])),
    _GATK: ((4,), True, False, lambda packet: Get(packet.voice, [packet.key])),
    0x20: ((0,), False, False, lambda packet: Login(packet.voice, None)),
    0x21: ((0,), True, True, lambda packet: Login(packet.voice, packet.key, packet.value)),
    0x22: ((0,), None, True, lambda packet: Login(packet.voice, b"", packet.value)),
}
