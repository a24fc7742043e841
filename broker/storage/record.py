"""What one commit writes: the record's directory and data, and the batches beside it. Pure functions.

A *part* is what a commit appends to one lane: its messages packed one after the other, so that parts of a lane join
without decoding. Parts under `INLINE` bytes lie back to back in the record's data; larger ones become batches.
The layout is documented in ``docs/storage-format.rst``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.message import Message, array_header, pack
from broker.core.store import Definition, Group, PublishKey
from broker.errors import ConfigError, StoreRefused

#: The version of the record's layout; a directory's second byte.
VERSION: Final = 1
#: Parts of this many bytes or more are written as batches at once: a fold would only copy them.
INLINE: Final = 16 * 1024
#: What a batch holds at most; a larger message is a batch of its own. The format allows 1,024 messages, but a batch is
#: decoded at once, and no more than 1,000 are handled in one reactor turn.
BATCH_BYTES: Final = 64 * 1024
BATCH_COUNT: Final = 1000
MOST_COUNT: Final = 1024


class Part(msgspec.Struct, array_like=True, gc=False):
    """One lane's messages in a record."""

    lane: int
    #: The number of the first message, and how many there are.
    base: int
    count: int
    #: Where it begins in the record's data; -1: it was written as batches.
    offset: int
    length: int
    #: Bytes of the lane before it.
    before: int
    #: The earliest moment one of its messages expires (us); 0 = none does.
    next_expiry: int
    #: The moment from which all of them are expired (us); 0 = one of them never is.
    max_expiry: int
    #: The stamp of its first message.
    t0: int


class Row(msgspec.Struct, gc=False):
    """One row of the table ``batch``; the fields as in `Part`."""

    lane: int
    base: int
    count: int
    before: int
    next_expiry: int
    max_expiry: int
    t0: int
    data: bytes


class Directory(msgspec.Struct, array_like=True):
    """Everything a commit says but the messages themselves. Applied in this order: definitions, parts, the rest."""

    version: int = VERSION
    last_stamp: int = 0
    parts: list[Part] = []
    #: ``[reader, reserved, lo, hi, lo, hi...]``; reserved 0: unchanged.
    settled: list[list[int]] = []
    #: ``[reader, seq]``: everything below is settled.
    jumps: list[tuple[int, int]] = []
    #: ``[reader, seq, attempts, due, reason]``; attempts and due both 0: it no longer matters.
    failures: list[tuple[int, int, int, int, str]] = []
    keys: list[PublishKey] = []
    definitions: list[Definition] = []
    #: ``[lane, seq]``: nothing at or above it may go, whatever is settled.
    keep: list[tuple[int, int]] = []


class Record(msgspec.Struct):
    """What one commit adds to the file."""

    directory: Directory
    data: bytes
    rows: list[Row]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Directory).decode
_decode_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def encode(directory: Directory) -> bytes:
    """The stored form of a directory; raises `StoreRefused` for what has none."""
    try:
        return _encode(directory)
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise StoreRefused(f"this cannot be stored: {error}") from error


def decode(data: bytes) -> Directory:
    """The inverse of `encode`; raises `ConfigError` for a newer layout, `msgspec.DecodeError` for garbage."""
    if len(data) > 1 and data[1] != VERSION:
        raise ConfigError(f"the data file holds records of layout {data[1]}, this broker reads {VERSION}")
    return _decode(data)


def split(count: int, data: bytes) -> list[msgspec.Raw]:
    """Each of `count` packed messages by itself, still packed."""
    return _decode_raw(array_header(count) + data)


def expiry(messages: list[Message]) -> tuple[int, int]:
    """`Part.next_expiry` and `Part.max_expiry` of these messages."""
    if len(messages) == 1:  # as nearly always, where many queues share a commit
        return messages[0].expires, messages[0].expires
    moments = [message.expires for message in messages if message.expires]
    if not moments:
        return 0, 0
    return min(moments), max(moments) if len(moments) == len(messages) else 0


def _rows(lane: int, base: int, before: int, messages: list[Message], packed: bytes) -> list[Row]:
    """The messages of one large part as batches."""
    if len(packed) <= BATCH_BYTES and len(messages) <= BATCH_COUNT:
        return [Row(lane, base, len(messages), before, *expiry(messages), messages[0].stamp, packed)]
    rows = []
    pieces = list(map(bytes, split(len(messages), packed)))
    first = size = 0
    for place in range(len(pieces) + 1):
        full = place == len(pieces) or size + len(pieces[place]) > BATCH_BYTES or place - first == BATCH_COUNT
        if full and place > first:
            run = messages[first:place]
            data = b"".join(pieces[first:place])
            rows.append(Row(lane, base + first, len(run), before, *expiry(run), run[0].stamp, data))
            before += len(data)
            first, size = place, 0
        if place < len(pieces):
            size += len(pieces[place])
    return rows


def empty(group: Group) -> bool:
    """True if a commit of it would change nothing (a stamp alone is nothing: no message has it)."""
    return not (
        group.parts
        or group.settled
        or group.jumps
        or group.reserved
        or group.failures
        or group.definitions
        or group.keys
        or group.keep
    )


def build(group: Group, bases: dict[int, int], before: dict[int, int]) -> Record:
    """What `group` writes, its lanes numbered from `bases` and with `before` bytes each in front of it.

    Raises `StoreRefused` when something in it cannot be stored, such as an integer beyond 64 bits.
    """
    parts: list[Part] = []
    chunks: list[bytes] = []
    rows: list[Row] = []
    offset = 0
    for lane, messages in group.parts.items():
        if not messages:
            continue
        try:
            packed = pack(messages)
        except (OverflowError, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise StoreRefused(f"a message cannot be stored: {error}") from error
        base, ahead, length = bases[lane], before.get(lane, 0), len(packed)
        place = -1
        if length >= INLINE:
            rows += _rows(lane, base, ahead, messages, packed)
        else:
            place = offset
            offset += length
            chunks.append(packed)
        parts.append(Part(lane, base, len(messages), place, length, ahead, *expiry(messages), messages[0].stamp))
    return Record(_directory(group, parts), b"".join(chunks), rows)


def _directory(group: Group, parts: list[Part]) -> Directory:
    settled = []
    for reader, ranges in group.settled.items():
        entry = [reader, group.reserved.get(reader, 0)]
        for lo, hi in ranges:
            entry += (lo, hi)
        settled.append(entry)
    settled += [[reader, mark] for reader, mark in group.reserved.items() if reader not in group.settled]
    failures = [
        (reader, seq, failure.attempts, failure.due, failure.reason) if failure is not None else (reader, seq, 0, 0, "")
        for (reader, seq), failure in group.failures.items()
    ]
    return Directory(
        VERSION,
        group.last_stamp,
        parts,
        settled,
        list(group.jumps.items()),
        failures,
        group.keys,
        group.definitions,
        list(group.keep.items()),
    )
