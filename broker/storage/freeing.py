"""Freeing: batches of which no reader wants anything are deleted, in slices, by what is committed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import islice
from typing import Final, TypeAlias

from broker.core.store import Range
from broker.storage.ledger import Ledger

#: Lanes looked at in one slice: 5 us each.
LANES: Final = 1000

#: Lanes, and the ranges of each of which batches may go; None: the lane is gone, and so is everything in it.
Freeable: TypeAlias = list[tuple[int, list[Range] | None]]


def plan(ledger: Ledger) -> Freeable:
    """What may be freed since it was last tried."""
    ledger.look(LANES)
    lanes: Freeable = [(id, None) for id in islice(ledger.gone, LANES)]
    moved = islice(ledger.moved, LANES - len(lanes))
    return lanes + [(id, ledger.lanes[id].freeable()) for id in moved]


def write(connection: sqlite3.Connection, lanes: Freeable, budget: int) -> tuple[int, int]:
    """Free the batches wholly within each lane's ranges (all of them: None), about `budget` bytes.

    Returns the bytes freed, and with how many of the lanes it is done.
    """
    freed = 0
    for done, (lane, ranges) in enumerate(lanes):
        for lo, hi in [(0, 1 << 62)] if ranges is None else ranges:
            # length() does not load the blob; substr() would.
            rows = connection.execute(
                "SELECT base, length(data) FROM batch WHERE lane = ? AND base >= ? AND base < ? AND base + n <= ? "
                "ORDER BY base",
                (lane, lo, hi, hi),
            )
            last = None
            with closing(rows):
                for base, length in rows:
                    if freed >= budget:
                        break
                    last = base
                    freed += length
            if last is not None:
                connection.execute("DELETE FROM batch WHERE lane = ? AND base BETWEEN ? AND ?", (lane, lo, last))
            if freed >= budget:
                return freed, done  # perhaps there is more in this one: it is looked at again
        if ranges is None:
            connection.execute("DELETE FROM lane WHERE id = ? AND destination IS NULL", (lane,))
    return freed, len(lanes)


def apply(ledger: Ledger, lanes: Freeable) -> None:
    """`write` is done with these lanes."""
    for id, ranges in lanes:
        if ranges is None:
            ledger.gone.discard(id)
        else:
            ledger.moved.discard(id)
            lane = ledger.lanes[id]
            lane.low = max(lane.low, lane.unwanted)
        if ledger.changes is not None:
            ledger.changes.lanes.add(id)
