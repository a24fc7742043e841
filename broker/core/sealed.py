"""What a commit takes along: facts that are true in memory already, and a group that is closed."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from broker.core.reader import CLAIM, Lane, Reader
from broker.core.store import Failure, Group, PublishKey, Range
from broker.core.unit import Unit


@attrs.define(eq=False)
class Facts:
    """What is true already in memory, on its way to the disk."""

    settled: dict[int, list[Range]] = attrs.field(factory=dict)
    failures: dict[tuple[int, int], Failure | None] = attrs.field(factory=dict)
    claims: dict[Reader, int] = attrs.field(factory=dict)
    waiters: list[Deferred[None]] = attrs.field(factory=list)

    def __bool__(self) -> bool:
        return bool(self.settled or self.failures or self.claims or self.waiters)

    def join(self, older: Facts) -> None:
        """Take over what an earlier group could not commit; what is newer wins."""
        for reader, ranges in older.settled.items():
            self.settled.setdefault(reader, []).extend(ranges)
        self.failures = older.failures | self.failures
        self.claims = older.claims | self.claims
        self.waiters = older.waiters + self.waiters


@attrs.define(eq=False)
class Sealed:
    """A group on its way to the store."""

    group: Group
    units: list[Unit]
    facts: Facts
    #: Per lane of its parts: the lane and the bytes the messages take in memory.
    lanes: list[tuple[Lane, int]] = attrs.field(factory=list)
    #: What this group's own messages settle: who must not see them.
    unseen: dict[int, list[Range]] = attrs.field(factory=dict)
    #: What its units settle in queues that follow others.
    followed: list[tuple[Reader, int, int]] = attrs.field(factory=list)

    def number(self) -> dict[int, int]:
        """Give what its units append its numbers, and add what they settle; where each lane ends with that."""
        group = self.group
        sizes: dict[Lane, int] = {}
        for unit in self.units:
            for put in unit.parts:
                lane = put.lane
                if lane.gone:
                    put.number = -1
                    continue
                part = group.parts.setdefault(lane.id, [])
                put.number = lane.next + len(part)
                part += put.messages
                sizes[lane] = sizes.get(lane, 0) + put.size
            if unit.parts:
                continue
            for append in unit.appends:
                lane = append.lane
                if lane.gone:
                    unit.numbers.append(-1)
                    continue
                part = group.parts.setdefault(lane.id, [])
                seq = lane.next + len(part)
                part.append(append.message)
                unit.numbers.append(seq)
                if append.until:
                    group.keys.append(PublishKey(lane.id, seq, append.key, append.until))
                sizes[lane] = sizes.get(lane, 0) + append.size
                for reader in lane.readers if append.skipped else ():
                    if reader.queue in append.skipped:
                        self.unseen.setdefault(reader.id, []).append((seq, seq + 1))
            for reader, seq in unit.settles:
                self._settle(reader, seq, seq + 1)
            for reader, low, high in unit.ranges:
                self._settle(reader, low, high)
            for delivery in unit.acks:
                self._settle(delivery.reader, delivery.seq, delivery.seq + 1)
            for delivery, failure in unit.nacks:
                group.failures[delivery.reader.id, delivery.seq] = failure
        ends = {lane.id: lane.next + len(group.parts[lane.id]) for lane in sizes}
        for lane in sizes:
            self._read_by(lane, ends[lane.id])
            if lane.keep >= 0:
                group.keep[lane.id] = lane.keep
        for reader_id, ranges in self.unseen.items():
            group.settled.setdefault(reader_id, []).extend(ranges)
        self.lanes = list(sizes.items())
        return ends

    def _read_by(self, lane: Lane, end: int) -> None:
        """Evaluate the bindings for what is appended to `lane`, and reserve ahead for readers that will deliver it."""
        for reader in lane.readers:
            if not reader.terms.open:
                self.unseen.setdefault(reader.id, []).append((lane.next, end))
            elif reader.queue.used and end > reader.claiming - CLAIM // 2:
                reader.claiming = self.facts.claims[reader] = self.group.reserved[reader.id] = end + CLAIM

    def _settle(self, reader: Reader, low: int, high: int) -> None:
        """A unit settles ``low <= seq < high``."""
        self.group.settled.setdefault(reader.id, []).append((low, high))
        for follower in reader.followers:
            for first, end in follower.free(low, high):
                self.group.settled.setdefault(follower.id, []).append((first, end))
                self.followed.append((follower, first, end))


def merged(ranges: list[Range]) -> list[Range]:
    """The same numbers in fewer ranges, in order."""
    fewer: list[Range] = []
    for low, high in sorted(ranges):
        if fewer and low <= fewer[-1][1]:
            fewer[-1] = (fewer[-1][0], max(high, fewer[-1][1]))
        else:
            fewer.append((low, high))
    return fewer
