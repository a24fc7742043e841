"""Messages: what a producer said, immutable, the same for every reader.

Units: a *stamp* and ``expires`` are microseconds of the wall clock since 1970; durations are milliseconds.
"""

from __future__ import annotations

import msgspec

#: What a message costs in memory beside its body: the object, its dict, its place in a window (measured: 310 bytes).
OVERHEAD = 320


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message.

    It is stored as a msgpack array with the stamp first, so that a batch can be searched by time; new fields are
    appended with a default, so that old batches stay readable.
    """

    #: Given by the broker when the message is accepted: strictly increasing on a node, never 0 afterwards.
    stamp: int = 0
    body: bytes = b""
    #: Every header the producer sent, decoded, without those its protocol reserves. Names as the producer wrote them.
    headers: dict[str, str] = {}
    #: None: the producer said nothing about it.
    content_type: str | None = None
    #: memcache's 32 bits.
    flags: int = 0
    #: Lower first, 0 the default.
    priority: int = 0
    #: The moment after which it must not be delivered (us); 0 = never. The broker folds `ttl` into it.
    expires: int = 0
    #: The producer's wish for its time to live (ms); 0 = none.
    ttl: int = 0
    #: The producer's wish for the length of a loan over HTTP (ms); 0 = none.
    lease: int = 0
    #: The producer's wish for how many deliveries may fail before the message is given up; 0 = no limit.
    max_attempts: int = 0
    #: The producer's wish to deliver it only so long after its stamp (ms); 0 = at once. Waiting ones keep it.
    delay: int = 0
    #: Where a delayed message goes when it is due, as ``/queue/orders``; empty for all others.
    target: str = ""
    #: Messages with the same one go to one consumer at a time where the policy says ``groups``; empty: it has none.
    group: str = ""
    #: The producer's name for this publish: the same one again within ``dedup_window`` is not stored twice.
    key: str = ""

    @property
    def size(self) -> int:
        """Bytes of memory it is counted with, wherever memory is bounded."""
        size = OVERHEAD + len(self.body)
        if self.headers:  # asked for three times a message; the sums of their lengths take two to three times as long
            size += len("".join([*self.headers, *self.headers.values()]))
        return size


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode


def pack(messages: list[Message]) -> bytes:
    """The messages one after the other, without an array header: packed runs of a lane join by ``+``."""
    return b"".join(map(_encode, messages))


def array_header(count: int) -> bytes:
    """The msgpack header of an array of `count` elements."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def unpack(count: int, data: bytes) -> list[Message]:
    """The inverse of `pack`; raises `msgspec.DecodeError` when `data` is not `count` messages."""
    return _decode(array_header(count) + data)
