"""What the committed groups say, in memory: definitions, marks and settled numbers, never messages.

Both stores apply each commit's directory here, once it is durable, and SQLite applies the directories it finds at
start-up: one function for both, so that a restart cannot see anything else than what ran before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from broker.core.bits import CHUNK
from broker.core.store import (
    BindingState,
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    Definition,
    DropQueue,
    EndBinding,
    Failure,
    Group,
    Inventory,
    LaneState,
    PublishKey,
    ReaderState,
)
from broker.errors import StoreRefused
from broker.storage.lane import Lane, Reader
from broker.storage.record import Directory
from broker.storage.settled import Settled

#: Numbers of a lane: a delivery id keeps 33 bits for them.
MAX_SEQ: Final = 1 << 33
#: Numbers settled above a cursor from which on what it waits for is a straggler; 25 MB of messages of 1.6 KB.
FAR: Final = 4 * CHUNK
#: The sorts of ids in `Inventory.last_ids`.
ID_SORTS: Final = ("destination", "lane", "reader", "binding")


@attrs.define
class Changes:
    """What differs from the last checkpoint, by id. An id that the ledger no longer knows was dropped."""

    destinations: set[int] = attrs.field(factory=set)
    lanes: set[int] = attrs.field(factory=set)
    readers: set[int] = attrs.field(factory=set)
    bindings: set[int] = attrs.field(factory=set)
    #: (reader, chunk of its settled numbers).
    chunks: set[tuple[int, int]] = attrs.field(factory=set)
    #: (reader, seq).
    failures: set[tuple[int, int]] = attrs.field(factory=set)


@attrs.define
class _Owned:
    """Lanes by their destination and readers by their queue. It takes 20 MB for 100,000 queues, and few ask for it."""

    lanes: dict[int, tuple[Lane, ...]] = attrs.field(factory=dict)
    readers: dict[int, tuple[Reader, ...]] = attrs.field(factory=dict)

    def add_lane(self, lane: Lane) -> None:
        self.lanes[lane.destination] = (*self.lanes.get(lane.destination, ()), lane)

    def add_reader(self, reader: Reader) -> None:
        self.readers[reader.queue] = (*self.readers.get(reader.queue, ()), reader)


def take_keys(keys: dict[tuple[int, str], PublishKey], more: Iterable[PublishKey]) -> None:
    """Add to `keys`; of two with the same lane and key the one with the later end holds."""
    for key in more:
        known = keys.get((key.lane, key.key))
        if known is None or known.until <= key.until:
            keys[key.lane, key.key] = key


class Ledger:
    """The state after the last committed group."""

    def __init__(self, *, track: bool = False) -> None:
        self.destinations: dict[int, DefineDestination] = {}
        self.lanes: dict[int, Lane] = {}
        self.readers: dict[int, Reader] = {}
        self.bindings: dict[int, BindingState] = {}
        self._owned: _Owned | None = None
        self._bindings_by_queue: dict[int, dict[int, BindingState]] = {}
        self._bindings_by_source: dict[int, dict[int, BindingState]] = {}
        self.last_stamp = 0
        self.last_ids = dict.fromkeys(ID_SORTS, 0)
        #: By lane and key: those of the groups since the last checkpoint, or of all without `track`.
        self.keys: dict[tuple[int, str], PublishKey] = {}
        #: Kept only if asked for.
        self.changes = Changes() if track else None
        #: Lanes of which more may be freed than when it was last tried.
        self.moved: set[int] = set()
        #: Lanes as they were at the start, that `look` has not yet put among them.
        self.unlooked = array("q")
        #: Readers that have much settled above their cursor (`straggle`); kept only with `track`.
        self.lagging: set[int] = set()
        #: Lanes of which something is retained.
        self.retained: set[int] = set()
        #: Lanes that no longer exist and whose batches are still to be freed.
        self.gone: set[int] = set()

    def checkpointed(self) -> None:
        """The tables are at this state: nothing differs from them, and they have the keys."""
        self.changes = Changes()
        self.keys = {}

    # -- before a commit

    def allot(self, group: Group) -> dict[int, int]:
        """The number of the first message of each part; raises `StoreRefused` for what could not be applied."""
        new = self._check(group.definitions) if group.definitions else ()
        bases: dict[int, int] = {}
        for lane, messages in group.parts.items():
            known = self.lanes.get(lane)
            if known is None and lane not in new:
                raise StoreRefused(f"there is no lane {lane}")
            base = known.next if known is not None else 0
            if base + len(messages) > MAX_SEQ:
                raise StoreRefused(f"lane {lane} is used up: it has {base} messages behind it")
            bases[lane] = base
        return bases

    def _check(self, definitions: list[Definition]) -> set[int]:
        """The lanes these definitions make. A queue that read a lane twice would get everything twice, unnoticed."""
        lanes: set[int] = set()
        dropped: set[int] = set()
        pairs: set[tuple[int, int]] = set()
        for one in definitions:
            if isinstance(one, DefineLane):
                lanes.add(one.id)
            elif isinstance(one, DropQueue):
                dropped.add(one.id)
                pairs = {pair for pair in pairs if pair[0] != one.id}
            elif isinstance(one, DefineReader):
                known = self.lanes.get(one.lane)
                if known is None and one.lane not in lanes:
                    raise StoreRefused(f"there is no lane {one.lane}")
                twice = known is not None and any(reader.queue == one.queue for reader in known.readers)
                if (one.queue, one.lane) in pairs or (twice and one.queue not in dropped):
                    raise StoreRefused(f"queue {one.queue} reads lane {one.lane} already")
                pairs.add((one.queue, one.lane))
        return lanes

    def lanes_of(self, destination: int) -> tuple[Lane, ...]:
        """The lanes of a destination."""
        return self._owners().lanes.get(destination, ())

    def _owners(self) -> _Owned:
        if self._owned is None:
            self._owned = _Owned()
            for lane in self.lanes.values():
                self._owned.add_lane(lane)
            for reader in self.readers.values():
                self._owned.add_reader(reader)
        return self._owned

    def before(self, group: Group) -> dict[int, int]:
        """The bytes in front of each part."""
        return {lane: self.lanes[lane].bytes for lane in group.parts if lane in self.lanes}

    # -- after it

    def apply(self, directory: Directory) -> None:
        """Take over what a commit said. Numbers of readers and lanes that are gone by then are passed over."""
        for definition in directory.definitions:
            self._define(definition)
        for part in directory.parts:
            lane = self.lanes.get(part.lane)
            if lane is not None:
                lane.next = part.base + part.count
                lane.bytes = part.before + part.length
                if not lane.readers:
                    self.moved.add(lane.id)
                if self.changes is not None:
                    self.changes.lanes.add(lane.id)
        for entry in directory.settled:
            reader = self._touch(entry[0])
            if reader is not None:
                reader.reserved = entry[1] or reader.reserved
                for place in range(2, len(entry), 2):
                    self._settle(reader, entry[place], entry[place + 1])
        for id, mark in directory.jumps:
            reader = self._touch(id)
            if reader is not None:
                self._settle(reader, reader.settled.first_open, mark)
        for id, seq, attempts, due, reason in directory.failures:
            reader = self._touch(id)
            if reader is not None and seq not in reader.settled:
                if self.changes is not None:
                    self.changes.failures.add((id, seq))
                if reader.failures is None:
                    reader.failures = {}
                if attempts or due:
                    reader.failures[seq] = Failure(attempts, due, reason)
                else:
                    reader.failures.pop(seq, None)
        take_keys(self.keys, directory.keys)
        for id, mark in directory.keep:
            lane = self.lanes.get(id)
            if lane is not None:
                lane.keep = mark
                self.retained.add(id)
                if self.changes is not None:
                    self.changes.lanes.add(id)
        self.last_stamp = max(self.last_stamp, directory.last_stamp)

    def look(self, count: int) -> None:
        """Have so many lanes in `moved`, as far as there are any that may belong there."""
        while len(self.moved) < count and self.unlooked:
            lane = self.unlooked.pop()
            if lane in self.lanes:
                self.moved.add(lane)

    def retain(self, keep: Mapping[int, int]) -> None:
        """This is retained and no more. The tables need not say it: a start that knows less keeps more."""
        for id in [id for id in self.retained if id not in keep]:
            self.retained.discard(id)
            if id in self.lanes:
                self.lanes[id].keep = None
                self.moved.add(id)
        for id, mark in keep.items():
            lane = self.lanes.get(id)
            if lane is not None and lane.keep != mark:
                lane.keep = mark
                self.retained.add(id)
                self.moved.add(id)

    def lasting(self, keys: dict[tuple[int, str], PublishKey]) -> list[PublishKey]:
        """Those of `keys` that are not to be forgotten yet."""
        return [key for key in keys.values() if key.until > self.last_stamp and key.lane in self.lanes]

    def _touch(self, id: int) -> Reader | None:
        reader = self.readers.get(id)
        if reader is not None and self.changes is not None:
            self.changes.readers.add(id)
        return reader

    def pass_over(self, lane: int, lo: int, hi: int) -> None:
        """No reader of `lane` will ever get ``lo <= n < hi``."""
        known = self.lanes.get(lane)
        for reader in known.readers if known is not None else ():
            self._touch(reader.id)
            self._settle(reader, lo, min(hi, known.next if known else 0))

    def _settle(self, reader: Reader, lo: int, hi: int) -> None:
        if hi <= lo:
            return
        settled = reader.settled
        cursor, chunked = settled.cursor, settled.count
        if self.changes is not None:
            # Their messages are kept beside the failures.
            self.changes.failures.update((reader.id, seq) for seq in settled.stragglers_in(lo, hi))
        settled.add_range(lo, hi)
        first, end = max(lo, cursor), hi
        if settled.cursor != cursor:
            self.moved.add(reader.lane)
            if chunked:
                first, end = cursor, max(hi, settled.cursor + 1)
        if settled.count:
            if settled.is_full(first // CHUNK) or settled.is_full((end - 1) // CHUNK) or end - first >= CHUNK:
                self.moved.add(reader.lane)
            if self.changes is not None and settled.count >= FAR:
                self.lagging.add(reader.id)
        if self.changes is not None and (chunked or settled.count):
            touched = range(first // CHUNK, (end - 1) // CHUNK + 1)
            self.changes.chunks.update((reader.id, chunk) for chunk in touched)
        if reader.failures:
            if hi - lo < len(reader.failures):
                over = [seq for seq in range(lo, hi) if seq in reader.failures]
            else:
                over = [seq for seq in reader.failures if lo <= seq < hi]
            for seq in over:
                del reader.failures[seq]
                if self.changes is not None:
                    self.changes.failures.add((reader.id, seq))
            if not reader.failures:
                reader.failures = None

    def _define(self, definition: Definition) -> None:
        changes = self.changes
        match definition:
            case DefineDestination(id=id):
                self._used("destination", id)
                self.destinations[id] = definition
                if changes is not None:
                    changes.destinations.add(id)
            case DefineLane(id=id, destination=destination, priority=priority, run=run):
                self._used("lane", id)
                self.add_lane(Lane(id, destination, priority, run))
                if changes is not None:
                    changes.lanes.add(id)
            case DefineReader(id=id, queue=queue, lane=lane, cursor=cursor):
                self._used("reader", id)
                self.add_reader(Reader(id, queue, lane, Settled(cursor), cursor))
                if changes is not None:
                    changes.readers.add(id)
            case DefineBinding(id=id, queue=queue, source=source):
                self._used("binding", id)
                for other in self._bindings_of(queue=queue, source=source):
                    self._forget_binding(other)
                self.add_binding(BindingState(definition))
            case EndBinding(id=id, until=until):
                if id in self.bindings:
                    self.bindings[id].until = until
                    if changes is not None:
                        changes.bindings.add(id)
            case DropQueue(id=id):
                self._drop(id)

    def add_lane(self, lane: Lane) -> None:
        """Take a lane, unless it is known."""
        if lane.id not in self.lanes:
            self.lanes[lane.id] = lane
            if self._owned is not None:
                self._owned.add_lane(lane)

    def add_reader(self, reader: Reader) -> None:
        """Take a reader, unless its lane is gone."""
        lane = self.lanes.get(reader.lane)
        if lane is not None:
            self.readers[reader.id] = reader
            lane.readers += (reader,)
            if self._owned is not None:
                self._owned.add_reader(reader)

    def add_binding(self, binding: BindingState) -> None:
        """Take a binding; another of the same queue and source must have been taken away."""
        define = binding.define
        self.bindings[define.id] = binding
        self._bindings_by_queue.setdefault(define.queue, {})[define.id] = binding
        self._bindings_by_source.setdefault(define.source, {})[define.id] = binding
        if self.changes is not None:
            self.changes.bindings.add(define.id)

    def _bindings_of(self, queue: int, source: int) -> list[DefineBinding]:
        """The bindings of this pair: one or none."""
        return [one.define for one in self._bindings_by_queue.get(queue, {}).values() if one.define.source == source]

    def _used(self, sort: str, id: int) -> None:
        self.last_ids[sort] = max(self.last_ids[sort], id)

    def _forget_binding(self, define: DefineBinding) -> None:
        del self.bindings[define.id]
        for index, key in ((self._bindings_by_queue, define.queue), (self._bindings_by_source, define.source)):
            del index[key][define.id]
            if not index[key]:
                del index[key]
        if self.changes is not None:
            self.changes.bindings.add(define.id)

    def _drop(self, queue: int) -> None:
        owned = self._owners()
        for reader in owned.readers.pop(queue, ()):
            del self.readers[reader.id]
            lane = self.lanes[reader.lane]
            lane.readers = tuple(other for other in lane.readers if other is not reader)
            self.moved.add(lane.id)
            if self.changes is not None:
                self.changes.readers.add(reader.id)
        for binding in list(self._bindings_by_queue.get(queue, {}).values()):
            self._forget_binding(binding.define)
        sourced = list(self._bindings_by_source.get(queue, {}).values())
        lanes = owned.lanes.get(queue, ())
        if any(one.until is None for one in sourced) or any(lane.readers for lane in lanes):
            return
        owned.lanes.pop(queue, None)
        for lane in lanes:
            del self.lanes[lane.id]
            self.moved.discard(lane.id)
            self.gone.add(lane.id)
            if self.changes is not None:
                self.changes.lanes.add(lane.id)
        for binding in sourced:
            self._forget_binding(binding.define)
        if self.destinations.pop(queue, None) is not None and self.changes is not None:
            self.changes.destinations.add(queue)

    # -- for the core

    def inventory(self, unclean_starts: int) -> Inventory:
        """A copy that shares nothing that changes."""
        return Inventory(
            list(self.destinations.values()),
            [LaneState(x.id, x.destination, x.priority, x.run, x.next, x.low, x.bytes) for x in self.lanes.values()],
            list(map(_state, self.readers.values())),
            [BindingState(x.define, None if x.until is None else dict(x.until)) for x in self.bindings.values()],
            self.lasting(self.keys),
            self.last_stamp,
            dict(self.last_ids),
            unclean_starts,
        )


def _state(reader: Reader) -> ReaderState:
    cursor, settled = reader.settled.state()
    state = ReaderState(reader.id, reader.queue, reader.lane, cursor, reader.reserved)
    if settled:
        state.settled = settled
    if reader.failures:
        state.failures = dict(reader.failures)
    return state
