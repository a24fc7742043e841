"""A data file as lines of JSON: what is defined, and every message that is retained or not settled by some queue.

No line names an id or a number: loaded elsewhere, a dump gets new ones. A message's place in its log is its stamp. The
lines are described in ``docs/storage-format.rst``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from broker.core.message import Message, unpack
from broker.core.policy import BindingPolicy
from broker.core.store import BindingState, DefineBinding
from broker.storage.lane import Lane
from broker.storage.offline import Offline
from broker.storage.tables import load_keys

#: The version of these lines.
FORMAT: Final = 1


class _Line(
    msgspec.Struct, tag_field="type", tag=str.lower, omit_defaults=True, forbid_unknown_fields=True, kw_only=True
):
    """One line."""


class Begin(_Line):
    """The first."""

    format: int
    last_stamp: int
    #: The lowest stamp of a message that follows; 0: none does.
    first_stamp: int = 0


class Destination(_Line):
    """A queue, a topic, or a slot of delayed messages."""

    name: str
    kind: str


class Place(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A place in a destination's log, per lane."""

    priority: int
    run: int = 0
    #: The first message behind it; 0: all that follow are before it.
    stamp: int = 0
    #: Of a binding that begins in the past: the filter that holds up to here.
    filter_text: str = ""


class Binding(_Line):
    """A queue reads another destination; the fields as in `DefineBinding`, names in the place of ids."""

    queue: str
    source: str
    start: list[Place] = []
    #: Where it ended; absent: it is in force.
    until: list[Place] | None = None
    policy: BindingPolicy | None = None
    filter_name: str = ""
    filter_text: str = ""
    follows: bool = False
    #: The pattern of topics whose binding this one follows from.
    of: str = ""
    #: Up to where its filter is asked as messages are delivered.
    past: list[Place] = []


class Log(_Line):
    """What follows, up to the next such line, are messages of one lane of a destination, in order."""

    destination: str
    priority: int
    run: int = 0
    #: The queues that read it.
    readers: list[str] = []
    #: Messages are kept although every queue has settled them. Those that are follow, too.
    retained: bool = False


class Standing(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What one queue knows of a message that it has not settled."""

    #: It may have been delivered before.
    delivered: bool = False
    attempts: int = 0
    due: int = 0
    reason: str = ""


class Entry(_Line, tag="message"):
    """A message. The fields as in `Message`, but for the body and the queues."""

    stamp: int
    #: The body if it is UTF-8.
    body: str = ""
    #: Else the body in base64.
    body_base64: bytes = b""
    headers: dict[str, str] = {}
    content_type: str | None = None
    flags: int = 0
    priority: int = 0
    expires: int = 0
    ttl: int = 0
    lease: int = 0
    max_attempts: int = 0
    delay: int = 0
    target: str = ""
    group: str = ""
    key: str = ""
    #: Every queue that has not settled it; none: it is retained.
    queues: dict[str, Standing] = {}
    #: What its publisher called it, against doubles, and until when that holds.
    keys: dict[str, int] = {}


class Key(_Line):
    """What a publisher called a message of the last log that is not among those before this line."""

    key: str
    until: int


class End(_Line):
    """The last: a dump without it is not whole."""

    messages: int


Line: TypeAlias = Begin | Destination | Binding | Log | Entry | Key | End

#: The fields of a message that are written as they are.
_SAME: Final = [name for name in Message.__struct_fields__ if name != "body"]


def to_entry(message: Message, queues: dict[str, Standing]) -> Entry:
    """The line of a message."""
    entry = Entry(**{name: getattr(message, name) for name in _SAME}, queues=queues)
    try:
        entry.body = message.body.decode()
    except UnicodeDecodeError:
        entry.body_base64 = message.body
    return entry


def from_entry(entry: Entry) -> Message:
    """The inverse."""
    fields = {name: getattr(entry, name) for name in _SAME}
    return Message(body=entry.body_base64 or entry.body.encode(), **fields)


class Dump:
    """The lines of an open data file."""

    def __init__(self, store: Offline) -> None:
        self._store = store
        self._ledger = store.ledger
        self._names = {id: f"/{one.kind.value}/{one.name}" for id, one in store.ledger.destinations.items()}

    def lines(self) -> Iterator[Line]:
        """All lines, in an order that does not depend on ids."""
        ledger = self._ledger
        lanes = sorted(ledger.lanes.values(), key=lambda lane: (self._names[lane.destination], lane.priority, lane.run))
        stamps = (self._stamp(lane, 0) for lane in lanes)
        yield Begin(
            format=FORMAT, last_stamp=ledger.last_stamp, first_stamp=min((one for one in stamps if one), default=0)
        )
        for id in sorted(self._names, key=self._names.__getitem__):
            destination = ledger.destinations[id]
            yield Destination(name=destination.name, kind=destination.kind.value)
        yield from sorted(map(self._binding, ledger.bindings.values()), key=lambda one: (one.queue, one.source))
        count = 0
        keys: dict[int, dict[int, dict[str, int]]] = {}
        for one in sorted(load_keys(self._store.connection, ledger), key=lambda one: one.key):
            keys.setdefault(one.lane, {}).setdefault(one.seq, {})[one.key] = one.until
        for lane in lanes:
            readers = sorted(self._names[reader.queue] for reader in lane.readers)
            yield Log(
                destination=self._names[lane.destination],
                priority=lane.priority,
                run=lane.run,
                readers=readers,
                retained=lane.keep is not None,
            )
            named = keys.get(lane.id, {})
            for number, entry in self._entries(lane, 0):
                count += 1
                entry.keys = named.pop(number, {})
                yield entry
            for key, until in sorted(item for some in named.values() for item in some.items()):
                yield Key(key=key, until=until)
        yield End(messages=count)

    def _entries(self, lane: Lane, seq: int) -> Iterator[tuple[int, Entry]]:
        readers = sorted((self._names[reader.queue], reader) for reader in lane.readers)
        for batch in self._store.batches(lane.id, seq):
            for number, message in enumerate(unpack(batch.count, batch.data), batch.base):
                queues = {}
                for name, reader in readers:
                    if number not in reader.settled:
                        failure = (reader.failures or {}).get(number)
                        standing = queues[name] = Standing(delivered=number < reader.reserved)
                        if failure is not None:
                            standing.attempts, standing.due, standing.reason = (
                                failure.attempts,
                                failure.due,
                                failure.reason,
                            )
                if number >= seq and (queues or number >= lane.kept):
                    yield number, to_entry(message, queues)

    def _stamp(self, lane: Lane, seq: int) -> int:
        """The stamp of the first message from `seq` on that is in the dump; 0 if there is none."""
        first = next(self._entries(lane, seq), None) if seq < lane.next else None
        return first[1].stamp if first is not None else 0

    def _binding(self, binding: BindingState) -> Binding:
        define = binding.define
        return Binding(
            queue=self._names[define.queue],
            source=self._names[define.source],
            start=self._places(define.source, define.start),
            until=None if binding.until is None else self._places(define.source, binding.until),
            policy=define.policy if define.policy != BindingPolicy() else None,
            filter_name=define.filter_name,
            filter_text=define.filter_text,
            follows=define.follows,
            of=self._pattern(define.of),
            past=self._past(define),
        )

    def _pattern(self, binding: int) -> str:
        pattern = self._ledger.bindings.get(binding)
        return self._names[pattern.define.source] if pattern is not None else ""

    def _past(self, define: DefineBinding) -> list[Place]:
        lanes = [lane for lane in self._ledger.lanes_of(define.source) if lane.id in define.past]
        places = []
        for lane in lanes:
            end, text = define.past[lane.id]
            places.append(Place(lane.priority, lane.run, self._stamp(lane, end), text))
        return sorted(places, key=lambda place: (place.priority, place.run))

    def _places(self, source: int, marks: dict[int, int]) -> list[Place]:
        lanes = [lane for lane in self._ledger.lanes_of(source) if lane.id in marks]
        places = [Place(lane.priority, lane.run, self._stamp(lane, marks[lane.id])) for lane in lanes]
        return sorted(places, key=lambda place: (place.priority, place.run))
