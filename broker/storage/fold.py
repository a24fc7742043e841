"""Folding: what is still wanted moves out of old records into batches of its lane.

A fold has two phases. First it is planned and prepared: what some reader has not settled is copied, on the read
connection, and joined to batches. Then a later commit takes it along: the batches go in, the records go out, and the
tables are brought to the state after the commit before. A crash sees both or neither. What every reader had settled by
the time of the plan is never written a second time, unless it is retained.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.message import Message
from broker.storage.ledger import Ledger
from broker.storage.quarantine import Unreadable
from broker.storage.record import BATCH_BYTES, BATCH_COUNT, Part, Row, expiry, split
from broker.storage.unfolded import Place, Unfolded

#: What one read of a preparation fetches: windows wait no longer than for another window.
READ_BYTES: Final = 256 * 1024

_decode = msgspec.msgpack.Decoder(Message).decode


class Keep(msgspec.Struct, gc=False):
    """A part of which ``first <= n < end`` is wanted."""

    place: Place
    first: int
    end: int


def plan(ledger: Ledger, unfolded: Unfolded, upto: int) -> list[Keep]:
    """What is wanted of the records up to `upto`, in the order of the records."""
    keeps: list[Keep] = []
    for id, places in unfolded.lanes.items():
        lane = ledger.lanes.get(id)
        if lane is None:
            continue
        floor, kept = lane.floor, lane.kept
        marked = any(reader.settled.count for reader in lane.readers)
        for place in places:
            if place.cid > upto:
                break
            first, end = place.part.base, place.part.base + place.part.count
            if end <= kept:  # else some of it is retained: it is folded whole
                if end <= floor:
                    continue
                if marked or first < floor:
                    first, end = lane.wanted(max(first, floor), end)
            if first < end:
                keeps.append(Keep(place, first, end))
    keeps.sort(key=lambda keep: keep.place.cid)
    return keeps


def slices(keeps: list[Keep]) -> list[list[Keep]]:
    """The keeps in runs that need about `READ_BYTES` of records each; a record is read once."""
    out: list[list[Keep]] = []
    size, cid = READ_BYTES, -1
    for keep in keeps:
        if keep.place.cid != cid:
            if size >= READ_BYTES:
                out.append([])
                size = 0
            cid = keep.place.cid
            size += keep.place.size
        out[-1].append(keep)
    return out


def cut(part: Part, first: int, end: int, data: bytes) -> Row:
    """The messages ``first <= n < end`` of a part whose packed messages are `data`."""
    if (first, end) == (part.base, part.base + part.count):
        return Row(part.lane, first, part.count, part.before, part.next_expiry, part.max_expiry, part.t0, data)
    pieces = list(map(bytes, split(part.count, data)))
    before = part.before + sum(map(len, pieces[: first - part.base]))
    kept = pieces[first - part.base : end - part.base]
    moments = expiry(list(map(_decode, kept))) if part.next_expiry else (0, 0)
    return Row(part.lane, first, len(kept), before, *moments, _decode(kept[0]).stamp, b"".join(kept))


class Folding:
    """A fold in preparation, and then ready."""

    def __init__(self, upto: int) -> None:
        #: The last record it replaces.
        self.upto = upto
        self.rows: list[Row] = []
        #: Parts that cannot be read.
        self.unreadable: list[Unreadable] = []
        self._open: dict[int, tuple[list[Row], int]] = {}

    def add(self, row: Row) -> None:
        """Take a run; those of a lane come in order. Runs that touch are joined."""
        run, size = self._open.get(row.lane, ([], 0))
        if run:
            count = row.base + row.count - run[0].base
            touching = run[-1].base + run[-1].count == row.base
            if not touching or size + len(row.data) > BATCH_BYTES or count > BATCH_COUNT:
                self._close(run)
                run, size = [], 0
        run.append(row)
        self._open[row.lane] = run, size + len(row.data)

    def finish(self) -> None:
        """Nothing more comes."""
        for run, _ in self._open.values():
            self._close(run)
        self._open.clear()
        self.rows.sort(key=lambda row: (row.lane, row.base))

    def _close(self, run: list[Row]) -> None:
        head = run[0]
        if len(run) > 1:
            soonest = latest = 0
            if some := [row.next_expiry for row in run if row.next_expiry]:
                last = [row.max_expiry for row in run]
                soonest, latest = min(some), max(last) if all(last) else 0
            count = run[-1].base + run[-1].count - head.base
            data = b"".join([row.data for row in run])
            head = Row(head.lane, head.base, count, head.before, soonest, latest, head.t0, data)
        self.rows.append(head)
