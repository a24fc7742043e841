"""Queues at rest: what there is to know of a queue that nobody uses, in seventy bytes.

A queue in memory, with its log, lane and reader, takes about 3 KB and 15 us to make; of 100,000 most are not touched
for hours. Those with one lane that only they read, of which nothing is on loan, settled out of order, failed or bound,
are a row of numbers here until their name or one of their messages' ids is spoken.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

import attrs
import msgspec

from broker.core.counts import Counts
from broker.core.destination import Kind
from broker.core.message import OVERHEAD
from broker.core.reader import Reader
from broker.core.store import Inventory, LaneState, ReaderState


class AtRest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A queue that nobody uses. The numbers mean what they mean in `Queue`, `Lane` and `Reader`."""

    queue: int
    lane: int
    priority: int
    next: int
    expiring: int
    reader: int
    cursor: int
    reserved: int
    delivered: int
    crashed_below: int
    bytes: int
    since: int
    last_age: int

    @property
    def waiting(self) -> int:
        """Messages not settled."""
        return self.next - self.cursor


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AtRest).decode


def size_of(lane: LaneState) -> int:
    """Bytes of a message of it on average, as stored."""
    return lane.bytes // lane.next if lane.next else 0


def bytes_of(waiting: int, size: int) -> int:
    """About how many bytes of memory so many messages of this size take."""
    return waiting * (OVERHEAD + size)


def at_rest(inventory: Inventory) -> Iterator[tuple[str, AtRest]]:
    """Those of the stored queues that may be at rest, by name.

    What is counted is counted in a byte an id: dicts of 100,000 of them would take 30 MB, and leave that behind.
    """
    destinations = 1 + max((one.id for one in inventory.destinations), default=0)
    names: list[str | None] = [None] * destinations
    for one in inventory.destinations:
        if one.kind is Kind.QUEUE:
            names[one.id] = one.name
    for binding in inventory.bindings:
        names[binding.define.queue] = names[binding.define.source] = None
    lanes_of, readers_of = _Counts(destinations), _Counts(destinations)
    lanes: list[LaneState | None] = [None] * (1 + max((lane.id for lane in inventory.lanes), default=0))
    readers_on = _Counts(len(lanes))
    for lane in inventory.lanes:
        lanes[lane.id] = lane
        lanes_of.add(lane.destination)
    for key in inventory.keys:
        lanes[key.lane] = None
    for reader in inventory.readers:
        readers_of.add(reader.queue)
        readers_on.add(reader.lane)
    for reader in inventory.readers:
        known, name = lanes[reader.lane], names[reader.queue]
        if name is None or known is None or known.run or reader.settled or reader.failures:
            continue
        alone = readers_of.one(reader.queue) and readers_on.one(reader.lane)
        if alone and known.destination == reader.queue and lanes_of.one(reader.queue):
            yield name, _resting(known, reader)


class _Counts:
    """None, one or several of something, by id."""

    def __init__(self, size: int) -> None:
        self._counts = bytearray(size)

    def add(self, id: int) -> None:
        self._counts[id] = min(self._counts[id] + 1, 2)

    def one(self, id: int) -> bool:
        return self._counts[id] == 1


def _resting(lane: LaneState, reader: ReaderState) -> AtRest:
    delivered = min(reader.reserved, lane.next)
    return AtRest(
        queue=reader.queue,
        lane=lane.id,
        priority=lane.priority,
        next=lane.next,
        expiring=-1 if lane.next > reader.cursor else 0,
        reader=reader.id,
        cursor=reader.cursor,
        reserved=reader.reserved,
        delivered=delivered,
        crashed_below=delivered,
        bytes=bytes_of(lane.next - reader.cursor, size_of(lane)),
        since=0,
        last_age=0,
    )


def state_of(reader: Reader) -> AtRest:
    """What there is to know of a queue at rest, whose only reader this is; of its log it has the only lane."""
    queue, lane = reader.queue, reader.lane
    return AtRest(
        queue=queue.id,
        lane=lane.id,
        priority=lane.priority,
        next=lane.next,
        expiring=lane.expiring,
        reader=reader.id,
        cursor=reader.bits.cursor,
        reserved=reader.reserved,
        delivered=reader.delivered,
        crashed_below=reader.crashed_below,
        bytes=reader.bytes,
        since=reader.since,
        last_age=queue.last_age,
    )


class Dormant:
    """All queues at rest, by name and by the id of their reader."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}
        #: The ids of their readers in order, each with its queue; also of some that are used again. A dict of integers
        #: takes five times as much.
        self._readers = array("q")
        self._names: list[str] = []
        #: Of those that were used since the broker started.
        self._counts: dict[str, Counts] = {}
        #: Those of which something will expire.
        self.expiring: dict[str, None] = {}
        #: Those of which that is not known: nobody has looked since the start. Some of them may be used again.
        self.unknown: list[str] = []

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, name: str) -> bool:
        return name in self._states

    def names(self) -> list[str]:
        """Of all of them."""
        return list(self._states)

    def add(self, name: str, state: AtRest, counts: Counts | None = None) -> None:
        """A queue comes to rest."""
        self._states[name] = _encode(state)
        place = bisect_left(self._readers, state.reader)
        if place == len(self._readers) or self._readers[place] != state.reader:
            self._readers.insert(place, state.reader)
            self._names.insert(place, name)
        if state.expiring > 0:
            self.expiring[name] = None
        elif state.expiring:
            self.unknown.append(name)
        if counts is not None and any(attrs.astuple(counts)):
            self._counts[name] = counts

    def get(self, name: str) -> tuple[AtRest, Counts] | None:
        """A queue as it came to rest."""
        state = self._states.get(name)
        return (_decode(state), self._counts.get(name) or Counts()) if state is not None else None

    def pop(self, name: str) -> tuple[AtRest, Counts] | None:
        """A queue is used again."""
        found = self.get(name)
        if found is not None:
            del self._states[name]
            self._counts.pop(name, None)
            self.expiring.pop(name, None)
        return found

    def waiting(self) -> list[str]:
        """The names of those that hold messages."""
        return [name for name, state in self._states.items() if _decode(state).waiting]

    def reserved(self) -> list[str]:
        """The names of those that have more reserved than was delivered."""
        states = ((name, _decode(state)) for name, state in self._states.items())
        return [name for name, state in states if state.reserved > max(state.delivered, state.cursor, 1)]

    def name_of(self, reader: int) -> str | None:
        """The queue whose reader has this id."""
        place = bisect_left(self._readers, reader)
        if place == len(self._readers) or self._readers[place] != reader:
            return None
        name = self._names[place]
        # A queue that was deleted, and made anew, has another reader.
        return name if name in self._states and _decode(self._states[name]).reader == reader else None
