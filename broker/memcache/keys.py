"""What a key means.

A key is ``[/queue/|/topic/]<name>[/<option>]*``. In the default dialect the options are the trailing run of known ones,
so that a name may hold slashes; an escape (``%2F``) keeps one from being read as the beginning of an option. Kestrel's
and Siberite's names end at the first slash.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

from broker.core.destination import Destination, Kind, queue, topic
from broker.errors import BadName, BadValue
from broker.memcache.dialect import Dialect
from broker.memcache.voice import BadKey, KeyTooLong, OddName

#: Milliseconds a get may wait: what fits 32 bits, 24 days.
MAX_WAIT = 2**31 - 1
#: Keys whose meaning is remembered.
_KNOWN = 1024

_QUEUE = b"/queue/"
_TOPIC = b"/topic/"
_options = frozenset((b"open", b"close", b"abort", b"peek", b"sync", b"any"))
_escape = re.compile(rb"%(?:2[FfBb05])")
_escapes = {b"%2F": b"/", b"%20": b" ", b"%25": b"%", b"%2B": b"+"}
#: The first character of what stands for a plus, or for something that does.
_escaped_plus = re.compile("%(?=(?:25)*2B)")
_plain = re.compile(rb"[A-Za-z0-9_:\-]+")


class Key(msgspec.Struct, frozen=True):
    """What a key says: a destination and what is to be done there."""

    destination: Destination
    #: As it was sent.
    raw: bytes
    #: How a VALUE line names it.
    shown: bytes
    #: Further destinations that a `set` goes to (Siberite's ``a+b``).
    others: tuple[Destination, ...] = ()
    #: The queue that this one is a cursor of (Siberite's ``queue.cursor``); empty: it is none.
    cursor_of: str = ""
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
    #: One message of all the queues in this `get`, the first that has one.
    any: bool = False
    #: Milliseconds to wait for a message (``t=``); 0 = do not wait.
    wait: int = 0

    @property
    def plain(self) -> bool:
        """True if there is no option that only a read can have."""
        return not (self.close or self.open or self.peek or self.abort or self.wait or self.any)


class Keys:
    """The meaning of keys in one dialect. Everything raises `BadName` or `BadValue`: the sentence for the client."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        #: The meaning of a key as sent.
        self.parse: Callable[[bytes], Key] = lru_cache(maxsize=_KNOWN)(self._parse)
        #: The same, where a `set` puts its message.
        self.to_store: Callable[[bytes], Key] = lru_cache(maxsize=_KNOWN)(self._to_store)

    def _to_store(self, raw: bytes) -> Key:
        if self._dialect.plus == "several" and b"+" in raw:
            names = dict.fromkeys(raw.removesuffix(b"/sync").split(b"+"))
            first, *others = [self.to_store(name) for name in names]
            return msgspec.structs.replace(first, raw=raw, others=tuple(other.destination for other in others))
        key = self.parse(raw)
        if not key.plain:
            raise BadKey("set takes no option but sync")
        if key.cursor_of:
            raise OddName("queue: name is not alphanumeric")
        return key

    def to_read(self, raw: bytes) -> Key:
        """What a ``get`` of this key is to do."""
        key = self.parse(raw)
        if key.destination.kind is Kind.TOPIC:
            raise BadValue("a topic cannot be read with get: read a queue that is bound to it")
        if key.sync:
            raise BadKey("sync goes with set only")
        return key

    def of_queue(self, raw: bytes) -> Key:
        """The queue that a ``delete`` or ``flush`` is about."""
        key = self.parse(raw)
        if not key.plain or key.sync:
            raise BadKey("only get and set take options")
        if key.destination.kind is Kind.TOPIC:
            raise BadValue("a topic holds no messages: name a queue")
        return key

    # -- parts

    def _parse(self, raw: bytes) -> Key:
        make: Callable[[str], Destination] = queue
        start = 0
        if raw.startswith(_QUEUE):
            start = len(_QUEUE)
        elif raw.startswith(_TOPIC):
            start = len(_TOPIC)
            make = topic
        options: set[bytes] = set()
        end, wait = self._take_options(raw, start, options)
        _check_together(options)
        cursor_of, end_shown, name = self._name(raw, start, end)
        if make is queue:
            if self._dialect.dot == "refused" and "." in name:
                raise BadKey("the name of a queue has no dot")
            if self._dialect.plus == "name":
                name = _not_a_child(name)
        return Key(
            make(name),
            raw,
            raw if self._dialect.echo == "asked" else raw[:end_shown],
            cursor_of=cursor_of,
            open=b"open" in options,
            close=b"close" in options,
            abort=b"abort" in options,
            peek=b"peek" in options,
            sync=b"sync" in options,
            any=b"any" in options,
            wait=wait,
        )

    def _take_options(self, raw: bytes, start: int, options: set[bytes]) -> tuple[int, int]:
        """Where the name ends, and how long to wait (ms); the other options go into `options`."""
        dialect = self._dialect
        if dialect.options == "none":
            return len(raw), 0
        if dialect.options == "trailing":
            return _trailing(raw, start, options)
        end, wait = raw.find(b"/", start), 0
        if end < 0:
            return len(raw), 0
        said = [option for option in raw[end + 1 :].split(b"/") if option]
        for option in said:
            if option.startswith(b"t=") and (dialect.unknown_options == "ignored" or option[2:].isdigit()):
                wait = _milliseconds(option[2:])  # the last one counts (Kestrel)
            elif option in _options:
                options.add(option)
            elif dialect.unknown_options == "refused":
                raise BadKey("Invalid command")
        if dialect.unknown_options == "refused":
            # Siberite takes these in this order, and never waits.
            named = [option for option in said if not option.startswith(b"t=")]
            if named not in (
                [],
                [b"open"],
                [b"close"],
                [b"close", b"open"],
                [b"abort"],
                [b"peek"],
                [b"sync"],
                [b"any"],
            ):
                raise BadKey("Invalid command")
            wait = 0
        return end, wait

    def _name(self, raw: bytes, start: int, end: int) -> tuple[str, int, str]:
        """The queue it is a cursor of, where in `raw` ends what a VALUE line shows, and the name."""
        dialect, name, shown = self._dialect, raw[start:end], end
        if dialect.options == "trailing" and b"%" in name:
            name = _escape.sub(lambda match: _escapes[match[0].upper()], name)
        cursor_of = b""
        if dialect.dot == "cursor" and b"." in name:
            cursor_of, cursor, *_ = name.split(b".")
            shown = start + len(cursor_of)
            name = b"%b.%b" % (cursor_of, cursor) if cursor else cursor_of
            cursor_of = cursor_of if cursor else b""
            if cursor and not _plain.fullmatch(cursor):
                raise OddName("cgroup: name is not alphanumeric")
        if not name and not dialect.sentences:
            raise BadKey("the name is empty")
        if dialect.plain_names:
            if not _plain.fullmatch(cursor_of or name):
                raise OddName("queue: name is not alphanumeric")
            if len(cursor_of or name) > dialect.max_name:
                raise OddName("queue: name is too long")
        if len(name) > 250:
            raise KeyTooLong("the name is longer than 250 bytes")
        try:
            return cursor_of.decode(), shown, name.decode()
        except UnicodeDecodeError:
            raise BadName("the name is not valid UTF-8") from None


def _not_a_child(name: str) -> str:
    """The queue for a name in which ``+`` means nothing; to all others, ``a+b`` is a child of a.

    An escape that is there already is made longer, so that no two names become one.
    """
    return _escaped_plus.sub("%25", name).replace("+", "%2B")


def _trailing(raw: bytes, start: int, options: set[bytes]) -> tuple[int, int]:
    end = len(raw)
    wait: int | None = None
    while (slash := raw.rfind(b"/", start, end)) >= 0:
        option = raw[slash + 1 : end]
        if option.startswith(b"t="):
            milliseconds = _milliseconds(option[2:])
            wait = milliseconds if wait is None else wait  # read from behind: the last one counts (Kestrel)
        elif option in _options:
            options.add(option)
        else:
            break
        end = slash
    return end, wait or 0


def _check_together(options: set[bytes]) -> None:
    """Kestrel's rule: of these only close and open go together; ``any`` with what takes or looks."""
    rest = options - {b"any"}
    if len(rest) > 1 and rest != {b"close", b"open"}:
        raise BadKey("of the options open, close, abort, peek and sync only close and open go together")
    if b"any" in options and rest & {b"close", b"abort", b"sync"}:
        raise BadKey("any goes with open and t= only")
    if b"any" in options and b"peek" in rest:
        raise BadKey("any goes with open and t= only")


def lifetime(exptime: int, dialect: Dialect) -> tuple[int, int]:
    """The meaning of an exptime: (ttl in ms or 0, end in us of the wall clock or 0); a negative one is over already."""
    if not exptime or not dialect.expires:
        return 0, 0
    if exptime < 0:
        return 0, 1
    if exptime <= dialect.relative_limit:
        return exptime * 1000, 0
    return 0, exptime * 1_000_000


def _milliseconds(word: bytes) -> int:
    if (not word.isdigit() and not (word[:1] == b"-" and word[1:].isdigit())) or len(word) > 20:
        raise BadValue("t= takes milliseconds")
    # Kestrel: 0 or less does not wait.
    if (wait := int(word)) > MAX_WAIT:
        raise BadValue(f"t= is at most {MAX_WAIT} milliseconds")
    return max(wait, 0)
