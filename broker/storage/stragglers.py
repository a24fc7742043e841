"""Stragglers: what a reader has left far behind is kept apart, so that its cursor moves and the log can be freed.

One message that nobody settles (a consumer holds it, or it fails and is retried) would otherwise keep everything after
it in the file. Chunk by chunk from the cursor on, while at most `MOST` of its 4,096 numbers are not settled, these are
copied to the table ``exc`` with their messages. They stay where they are in the queue: `IStore.read` finds them.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from broker.core.bits import CHUNK
from broker.storage import ledger as ledgers
from broker.storage.ledger import Ledger
from broker.storage.reading import part_data
from broker.storage.record import split
from broker.storage.tables import write_checkpoint
from broker.storage.unfolded import Place, Unfolded

#: Numbers of a chunk that may be stragglers.
MOST: Final = 16
#: Stragglers of a reader: their numbers are in memory.
TOTAL: Final = 4096
#: Messages copied in one commit, and their bytes: commits wait for it, about 0.1 ms a message.
SLICE: Final = 64
SLICE_BYTES: Final = 1024 * 1024


class Plan(msgspec.Struct):
    """Of one reader: the chunks to be passed, each with its stragglers and where they are if not in a batch."""

    reader: int
    lane: int
    chunks: list[tuple[int, list[tuple[int, Place | None]]]]


def plan(ledger: Ledger, unfolded: Unfolded) -> list[Plan]:
    """What can be passed over now. Readers that have nothing of the kind are no longer `Ledger.lagging`."""
    plans: list[Plan] = []
    left = SLICE
    for id in list(ledger.lagging):
        reader = ledger.readers.get(id)
        found = Plan(id, 0, [])
        if reader is not None and reader.settled.count >= ledgers.FAR:
            settled, found.lane = reader.settled, reader.lane
            kept = len(settled.stragglers)
            end = (ledger.lanes[reader.lane].next - ledgers.FAR) // CHUNK
            for number in range(settled.cursor // CHUNK, end):
                numbers = settled.open_in(number, min(MOST, left, TOTAL - kept))
                if numbers is None:
                    break
                left -= len(numbers)
                kept += len(numbers)
                places = (unfolded.from_number(reader.lane, seq, 1)[0] for seq in numbers)
                some = zip(numbers, (next(iter(place), None) for place in places), strict=True)
                found.chunks.append((number, list(some)))
        if found.chunks:
            plans.append(found)
        elif left >= MOST:
            ledger.lagging.discard(id)
        if left < MOST:
            break
    return plans


def mark(ledger: Ledger, plans: list[Plan]) -> None:
    """Have the next checkpoint write all that `write` may change: if it fails, nobody knows whether it did."""
    changes = ledger.changes
    assert changes is not None
    for one in plans:
        changes.readers.add(one.reader)
        changes.chunks.update((one.reader, number) for number, _ in one.chunks)
        changes.failures.update((one.reader, seq) for _, some in one.chunks for seq, _ in some)


def write(connection: sqlite3.Connection, plans: list[Plan], ledger: Ledger, last: int) -> list[int]:
    """Bring the tables to the state after record `last`, and copy stragglers; how many chunks of each plan passed."""
    if ledger.changes is not None:
        write_checkpoint(connection, ledger, ledger.changes, last)
    budget = SLICE_BYTES
    passed = []
    for one in plans:
        done = 0
        for number, seqs in one.chunks:
            rows = []
            for seq, place in seqs:
                body = _message(connection, one.lane, seq, place)
                if body is None:
                    break
                rows.append((one.reader, seq, body))
                budget -= len(body)
            if len(rows) < len(seqs) or budget < 0:
                break
            connection.executemany(
                "INSERT INTO exc (reader, seq, attempts, due, reason, body) VALUES (?, ?, 0, 0, '', ?) "
                "ON CONFLICT (reader, seq) DO UPDATE SET body = excluded.body",
                rows,
            )
            connection.execute("DELETE FROM bits WHERE reader = ? AND chunk = ?", (one.reader, number))
            done += 1
        if done:
            cursor = (one.chunks[done - 1][0] + 1) * CHUNK
            connection.execute("UPDATE reader SET cursor = ? WHERE id = ?", (cursor, one.reader))
        passed.append(done)
    return passed


def _message(connection: sqlite3.Connection, lane: int, seq: int, place: Place | None) -> bytes | None:
    """One packed message; None: it cannot be found or read, or is too large to be copied."""
    row = connection.execute(
        "SELECT id, base, n, length(data) FROM batch WHERE lane = ? AND base <= ? ORDER BY base DESC LIMIT 1",
        (lane, seq),
    ).fetchone()
    if row is not None and seq < row[1] + row[2]:
        id, base, count, size = row
        if size > SLICE_BYTES:
            return None
        data = connection.execute("SELECT data FROM batch WHERE id = ?", (id,)).fetchone()[0]
    elif place is not None and place.part.base <= seq < place.part.base + place.part.count:
        base, count = place.part.base, place.part.count
        data = part_data(connection, place)
    else:
        return None
    try:
        return None if data is None else bytes(split(count, data)[seq - base])
    except (msgspec.DecodeError, IndexError):
        return None


def apply(ledger: Ledger, plans: list[Plan], passed: list[int]) -> None:
    """What `write` has done is on disk: move the cursors."""
    for one, done in zip(plans, passed, strict=True):
        if not done:
            ledger.lagging.discard(one.reader)
            continue
        settled = ledger.readers[one.reader].settled
        seqs = [seq for _, some in one.chunks[:done] for seq, _ in some]
        cursor = (one.chunks[done - 1][0] + 1) * CHUNK
        settled.pass_over(seqs, cursor)
        ledger.moved.add(one.lane)
        if settled.cursor > cursor and ledger.changes is not None:
            over = range(cursor // CHUNK, settled.cursor // CHUNK + 1)
            ledger.changes.chunks.update((one.reader, number) for number in over)
            ledger.changes.readers.add(one.reader)
        if settled.count < ledgers.FAR:
            ledger.lagging.discard(one.reader)
