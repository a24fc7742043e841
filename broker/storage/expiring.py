"""Finding what has expired: by the columns of a run where they say all of it or nothing, else by reading it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec

from broker.core.message import Message, unpack
from broker.core.store import Expired, Range
from broker.storage.quarantine import Unreadable, flaw
from broker.storage.reading import batch_data, part_data, straggler
from broker.storage.unfolded import Place

#: Runs looked at in one call: 2 us each where nothing is read.
RUNS: Final = 1000
#: `Run.next_expiry` of a run of which nothing is known before it is read.
_UNKNOWN: Final = 1


class Run(msgspec.Struct, gc=False):
    """Stored messages with consecutive numbers; the fields as in `record.Row`."""

    base: int
    count: int
    next_expiry: int
    max_expiry: int
    #: 0: not known.
    t0: int
    #: Reads them; None: they cannot be read.
    fetch: Callable[[], bytes | None]
    #: The row of ``batch`` it is in.
    batch: int = 0


def look(
    lane: int, runs: Iterable[Run], seq: int, end: int, now: int, max_bytes: int
) -> tuple[Expired, list[Unreadable]]:
    """What `IStore.expired` gives for these runs, in order, which are all there are from `seq` to `end`; and what of
    them cannot be read, which is passed over."""
    ranges: list[Range] = []
    unreadable: list[Unreadable] = []
    following = stamp = size = 0
    for number, run in enumerate(runs):
        first, stop = max(run.base, seq), run.base + run.count
        if number == RUNS:
            end = run.base
            break
        over = 0 < run.max_expiry <= now
        unsure = 0 < run.next_expiry <= now and not over
        if unsure or (not stamp and (run.base < seq or not run.t0)):
            if size and size >= max_bytes:
                end = run.base
                break
            data = run.fetch()
            wrong = flaw(run.count, data)
            if data is None or wrong:
                unreadable.append(Unreadable(lane, run.base, run.count, wrong, run.batch, data))
                continue
            size += len(data)
            messages = unpack(run.count, data)[first - run.base :]
            stamp = stamp or messages[0].stamp
        stamp = stamp or run.t0
        if unsure:
            for place, message in enumerate(messages, first):
                if 0 < message.expires <= now:
                    _join(ranges, place, place + 1)
            soonest = _soonest(messages, now)
        else:
            soonest = 0 if over else run.next_expiry
        if over:
            _join(ranges, first, stop)
        if soonest and (not following or soonest < following):
            following = soonest
    return Expired(ranges, end, following, stamp), unreadable


def _join(ranges: list[Range], low: int, high: int) -> None:
    if ranges and ranges[-1][1] == low:
        low = ranges.pop()[0]
    ranges.append((low, high))


def _soonest(messages: list[Message], now: int) -> int:
    return min((message.expires for message in messages if message.expires > now), default=0)


def find(
    connection: sqlite3.Connection,
    lane: int,
    seq: int,
    end: int,
    now: int,
    max_bytes: int,
    places: list[Place],
    more: bool,
    behind: list[Range],
) -> tuple[Expired, list[Unreadable]]:
    """See `IStore.expired` and `reading.read_lane`."""
    connection.execute("BEGIN")
    if more:
        end = places[-1].part.base + places[-1].part.count
    row = connection.execute("SELECT max(base) FROM batch WHERE lane = ? AND base <= ?", (lane, seq)).fetchone()
    rows = connection.execute(
        "SELECT base, n, next_expiry, max_expiry, t0, id FROM batch WHERE lane = ? AND base >= ? AND base < ? "
        "AND base + n > ? ORDER BY base LIMIT ?",
        (lane, seq if row[0] is None else row[0], end, seq, RUNS + 1),
    ).fetchall()
    if len(rows) > RUNS:
        end = rows.pop()[0]
    runs = [
        Run(base, count, soonest, latest, t0, partial(batch_data, connection, id), id)
        for base, count, soonest, latest, t0, id in rows
    ]
    # What is not among the records any more is in batches now, or was not wanted.
    oldest = connection.execute("SELECT min(cid) FROM rec").fetchone()[0]
    for place in places:
        part = place.part
        if oldest is not None and place.cid >= oldest and part.base < end:
            fetch = partial(part_data, connection, place)
            runs.append(Run(part.base, part.count, part.next_expiry, part.max_expiry, part.t0, fetch))
    if behind:
        covered = {number for run in runs for number in range(run.base, run.base + run.count)}
        for number, reader in behind:
            if number < end and number not in covered and straggler(connection, reader, number) is not None:
                runs.append(Run(number, 1, _UNKNOWN, 0, 0, partial(straggler, connection, reader, number)))
    runs.sort(key=lambda run: run.base)
    found, unreadable = look(lane, runs, seq, end, now, max_bytes)
    if any(one.data is None for one in unreadable):
        connection.rollback()  # a transaction that has seen damage cannot be committed
    return found, unreadable
