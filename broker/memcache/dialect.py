"""What differs between the memcache servers whose habits we keep, as data, and what a key means.

A key is ``[/queue/|/topic/]<name>[/<option>]*``. The options are the trailing run of known ones, so that a name may
hold slashes; an escape (``%2F``) keeps one from being read as the beginning of an option.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

from broker.core.destination import MAX_NAME_BYTES, Destination, Kind, queue, topic
from broker.errors import BadName, BadValue

#: Milliseconds a get may wait: what fits 32 bits, 24 days.
MAX_WAIT = 2**31 - 1

_QUEUE = b"/queue/"
_TOPIC = b"/topic/"
_options = frozenset((b"open", b"close", b"abort", b"peek", b"sync"))
_escape = re.compile(rb"%(?:2[FfBb05])")
_escapes = {b"%2F": b"/", b"%20": b" ", b"%25": b"%", b"%2B": b"+"}


class Key(msgspec.Struct, frozen=True):
    """What a key says: a destination and what is to be done there."""

    destination: Destination
    #: Settle the oldest open read first (Kestrel).
    close: bool = False
    #: Take a message on loan until ``close`` or ``abort``.
    open: bool = False
    #: Look at the head without taking it.
    peek: bool = False
    #: Give the oldest open read back.
    abort: bool = False
    #: With `set`: reply after the commit (Darner), which is what every `set` does.
    sync: bool = False
    #: Milliseconds to wait for a message (``t=``); 0 = do not wait.
    wait: int = 0

    @property
    def plain(self) -> bool:
        """True if there is no option that only a read can have."""
        return not (self.close or self.open or self.peek or self.abort or self.wait)


class Dialect(msgspec.Struct, frozen=True):
    """One server's habits. The defaults: what general clients need, and Kestrel's options."""

    #: An exptime up to this is in seconds from now, one above it the seconds since 1970 (memcached; Kestrel: 999,999).
    relative_limit: int = 2_592_000
    #: A plain `get` of a queue which this connection has open reads on: Kestrel, Darner and Siberite refuse it.
    get_while_open: bool = False
    #: The reply to `delete` of a queue that is not there (memcached and Starling; Kestrel: DELETED).
    delete_miss: bytes = b"NOT_FOUND\r\n"
    #: The reply to `flush_all` (memcached and Starling; Kestrel, Darner and Siberite: a sentence).
    flushed_all: bytes = b"OK\r\n"


DEFAULT = Dialect()


def lifetime(exptime: int, relative_limit: int) -> tuple[int, int]:
    """The meaning of an exptime: (ttl in ms or 0, end in us of the wall clock or 0); a negative one is over already."""
    if exptime < 0:
        return 0, 1
    if exptime <= relative_limit:
        return exptime * 1000, 0
    return 0, exptime * 1_000_000


@lru_cache(maxsize=1024)
def parse_key(raw: bytes) -> Key:
    """The meaning of a key as sent. `BadName`, `BadValue`: the sentence for the client."""
    make: Callable[[str], Destination] = queue
    start = 0
    if raw.startswith(_QUEUE):
        start = len(_QUEUE)
    elif raw.startswith(_TOPIC):
        start = len(_TOPIC)
        make = topic
    end = len(raw)
    options: set[bytes] = set()
    wait: int | None = None
    while (slash := raw.rfind(b"/", start, end)) >= 0:
        option = raw[slash + 1 : end]
        if option.startswith(b"t="):
            milliseconds = _milliseconds(option[2:])
            wait = milliseconds if wait is None else wait  # read from behind: the last one counts (Kestrel)
        elif option in _options:
            options.add(option)
        elif option == b"any":
            raise BadValue("the option any is not supported")
        else:
            break
        end = slash
    name = raw[start:end]
    if b"%" in name:
        name = _escape.sub(lambda match: _escapes[match[0].upper()], name)
    if len(name) > MAX_NAME_BYTES:
        raise BadValue("bad command line format")  # memcached's words for a key that is too long
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise BadName("the name is not valid UTF-8") from None
    if len(options) > 1 and options != {b"close", b"open"}:
        raise BadValue("of the options open, close, abort, peek and sync only close and open go together")
    return Key(
        make(text),
        open=b"open" in options,
        close=b"close" in options,
        abort=b"abort" in options,
        peek=b"peek" in options,
        sync=b"sync" in options,
        wait=wait or 0,
    )


def destination_of(raw: bytes) -> Destination:
    """Where a ``set`` of this key puts its message."""
    key = parse_key(raw)
    if not key.plain:
        raise BadValue("set takes no option but sync")
    return key.destination


def key_to_read(raw: bytes) -> Key:
    """What a ``get`` of this key is to do."""
    key = parse_key(raw)
    if key.destination.kind is Kind.TOPIC:
        raise BadValue("a topic cannot be read with get: read a queue that is bound to it")
    if key.sync:
        raise BadValue("sync goes with set only")
    return key


def queue_of(raw: bytes) -> str:
    """The name of the queue that a ``delete`` or ``flush`` is about."""
    key = parse_key(raw)
    if not key.plain or key.sync:
        raise BadValue("only get and set take options")
    if key.destination.kind is Kind.TOPIC:
        raise BadValue("a topic holds no messages: name a queue")
    return key.destination.name


def _milliseconds(word: bytes) -> int:
    if (not word.isdigit() and not (word[:1] == b"-" and word[1:].isdigit())) or len(word) > 20:
        raise BadValue("t= takes milliseconds")
    # Kestrel: 0 or less does not wait.
    if (wait := int(word)) > MAX_WAIT:
        raise BadValue(f"t= is at most {MAX_WAIT} milliseconds")
    return max(wait, 0)
