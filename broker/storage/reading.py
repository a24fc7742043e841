"""Reading messages: what runs on the read connection, each call in one transaction of its own."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from typing import Final

from broker.core.message import unpack
from broker.core.store import Batch
from broker.errors import StoreUnavailable
from broker.storage.fold import Folding, Keep, cut
from broker.storage.quarantine import Unreadable, flaw
from broker.storage.unfolded import Place

#: Up to this size a record is read whole to get at one part of it: cheaper than opening its blob.
WHOLE: Final = 32 * 1024


def part_data(connection: sqlite3.Connection, place: Place) -> bytes | None:
    """The packed messages of one part; None: its record was folded."""
    part = place.part
    if place.size <= WHOLE:
        row = connection.execute("SELECT data FROM rec WHERE cid = ?", (place.cid,)).fetchone()
        return None if row is None else row[0][part.offset : part.offset + part.length]
    # Not substr(data): that would load the whole blob first.
    try:
        blob = connection.blobopen("rec", "data", place.cid, readonly=True)
    except sqlite3.OperationalError:
        if connection.execute("SELECT 1 FROM rec WHERE cid = ?", (place.cid,)).fetchone() is None:
            return None
        raise
    with blob:
        blob.seek(part.offset)
        return blob.read(part.length)


def read_lane(
    connection: sqlite3.Connection,
    lane: int,
    seq: int,
    end: int,
    max_bytes: int,
    places: list[Place],
    more: bool,
    behind: list[tuple[int, int]],
) -> tuple[list[Batch], int | None, list[Unreadable]]:
    """The batches of `lane` from `seq` up to `end`, where to go on if none of what was looked at is still there, and
    what cannot be read, which is passed over.

    `places` are the unfolded parts as known when the read was asked for, `more` if there were further ones. A fold
    that has happened since has moved them to batches, which this snapshot shows, or found them settled. `behind` are
    the stragglers from `seq` on: their batches may be gone.
    """
    connection.execute("BEGIN")
    stop = places[-1].part.base + places[-1].part.count if more else end
    found: list[Batch] = []
    unreadable: list[Unreadable] = []
    ids: dict[int, int] = {}
    row = connection.execute("SELECT max(base) FROM batch WHERE lane = ? AND base <= ?", (lane, seq)).fetchone()
    size = 0
    rows = connection.execute(
        "SELECT id, base, n, length(data) FROM batch WHERE lane = ? AND base >= ? AND base < ? ORDER BY base",
        (lane, seq if row[0] is None else row[0], stop),
    )
    for id, base, count, length in rows:
        if base + count <= seq:
            continue
        if found and size + length > max_bytes:
            stop = base
            break
        ids[base] = id
        data = batch_data(connection, id)
        if data is None:
            unreadable.append(Unreadable(lane, base, count, flaw(count, data), id))
            continue
        found.append(Batch(lane, base, count, data))
        size += length
    rows.close()
    # Parts lie behind most batches: none of them is read for nothing.
    for place in places:
        if place.part.base >= stop:
            break
        packed = part_data(connection, place)
        if packed is not None:
            found.append(Batch(lane, place.part.base, place.part.count, packed))
    if behind:
        found += _stragglers(connection, lane, behind, stop, max_bytes, found)
    found.sort(key=lambda batch: batch.base)
    size = 0
    for place_in_row, batch in enumerate(found):
        size += len(batch.data)
        if place_in_row and size > max_bytes:
            del found[place_in_row:]
            break
    readable = []
    for batch in found:
        if wrong := flaw(batch.count, batch.data):
            lost = Unreadable(lane, batch.base, batch.count, wrong, ids.get(batch.base, 0), batch.data)
            unreadable.append(lost)
        else:
            readable.append(batch)
    if any(one.data is None for one in unreadable):
        connection.rollback()  # a transaction that has seen damage cannot be committed
    if found and not readable:
        return [], found[-1].base + found[-1].count, unreadable
    return readable, stop if not found and more else None, unreadable


def batch_data(connection: sqlite3.Connection, id: int) -> bytes | None:
    """A batch's messages; None: the pages they are on are damaged."""
    try:
        return connection.execute("SELECT data FROM batch WHERE id = ?", (id,)).fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return None


def _stragglers(
    connection: sqlite3.Connection,
    lane: int,
    behind: list[tuple[int, int]],
    stop: int,
    max_bytes: int,
    found: list[Batch],
) -> list[Batch]:
    """The stragglers below `stop` that are not in what was found, each a batch of its own.

    Those beyond `max_bytes` may be left out: what lies behind them will be, too.
    """
    covered = {seq for batch in found for seq in range(batch.base, batch.base + batch.count)}
    added: list[Batch] = []
    size = 0
    for seq, reader in behind:
        if seq >= stop:
            break
        if seq in covered:
            continue
        body = straggler(connection, reader, seq)
        if body is not None:
            added.append(Batch(lane, seq, 1, body))
            size += len(body)
            if size > max_bytes:
                break
    return added


def straggler(connection: sqlite3.Connection, reader: int, seq: int) -> bytes | None:
    """The packed message of a straggler."""
    row = connection.execute("SELECT body FROM exc WHERE reader = ? AND seq = ?", (reader, seq)).fetchone()
    return None if row is None else row[0]


def seek_lane(
    connection: sqlite3.Connection,
    lane: int,
    stamp: int,
    end: int,
    place: Place | None,
    after: int | None,
    behind: list[tuple[int, int]],
) -> int:
    """The first number of `lane` below `end` with this stamp or a later one; else `end`.

    `place` is the last unfolded part that begins before `stamp`, `after` the first number of the one behind it.
    """
    connection.execute("BEGIN")
    lo, following = _split(connection, lane, "t0", stamp, end)
    answer = min(following, end if after is None else after)
    row = connection.execute(
        "SELECT base, n, data FROM batch WHERE lane = ? AND base < ? ORDER BY base DESC LIMIT 1", (lane, lo)
    ).fetchone()
    if place is not None and (row is None or place.part.base > row[0]):
        packed = part_data(connection, place)
        if packed is not None:
            row = place.part.base, place.part.count, packed
    if row is not None and flaw(row[1], row[2]):
        answer = row[0]
    elif row is not None:
        stamps = [message.stamp for message in unpack(row[1], row[2])]
        if stamps[-1] >= stamp:
            answer = row[0] + bisect_left(stamps, stamp)
    return min(answer, _first_straggler(connection, stamp, behind, end))


def seek_byte(
    connection: sqlite3.Connection, lane: int, byte: int, end: int, place: Place | None, after: int | None
) -> int:
    """The first number of the run that holds that byte of `lane`, or of the first run behind it; else `end`.

    `place` is the last unfolded part that begins at or before it, `after` the first number of the one behind it.
    """
    connection.execute("BEGIN")
    lo, following = _split(connection, lane, "before", byte + 1, end)
    row = connection.execute(
        "SELECT base, before + length(data) FROM batch WHERE lane = ? AND base < ? ORDER BY base DESC LIMIT 1",
        (lane, lo),
    ).fetchone()
    if place is not None and (row is None or place.part.base > row[0]):
        row = place.part.base, place.part.before + place.part.length
    if row is not None and row[1] > byte:
        return row[0]
    return min(following, end if after is None else after)


def _split(connection: sqlite3.Connection, lane: int, column: str, value: int, end: int) -> tuple[int, int]:
    """Where a lane's batches, up to `end`, stop to have less than `value` in a column that only increases.

    Those with a lower base than the first number have less; the second is the base of the first that has not, or `end`.
    """
    first = f"SELECT base, {column} FROM batch WHERE lane = ? AND base >= ? ORDER BY base LIMIT 1"  # nosec B608  # ours
    lo, hi = 0, end
    while lo < hi:
        middle = (lo + hi) // 2
        row = connection.execute(first, (lane, middle)).fetchone()
        if row is not None and row[0] < hi and row[1] < value:
            lo = row[0] + 1
        else:
            hi = middle
    row = connection.execute(first, (lane, lo)).fetchone()
    return lo, end if row is None else min(end, row[0])


def _first_straggler(connection: sqlite3.Connection, stamp: int, behind: list[tuple[int, int]], end: int) -> int:
    """The first straggler with this stamp or a later one; else `end`."""

    def stamp_of(one: tuple[int, int]) -> int:
        body = straggler(connection, one[1], one[0])
        return 0 if body is None else unpack(1, body)[0].stamp

    place = bisect_left(behind, stamp, key=stamp_of)
    return behind[place][0] if place < len(behind) else end


def fetch(connection: sqlite3.Connection, keeps: list[Keep], folding: Folding) -> None:
    """Copy what a fold keeps of some records.

    Raises `StoreUnavailable` for one that is neither there nor folded: it must not go for what was not seen.
    """
    connection.execute("BEGIN")
    folded = connection.execute("SELECT value FROM meta WHERE key = 'checkpoint'").fetchone()[0]
    cid, row = -1, None
    for keep in keeps:
        part = keep.place.part
        if keep.place.cid != cid:
            cid = keep.place.cid
            row = connection.execute("SELECT data FROM rec WHERE cid = ?", (cid,)).fetchone()
        if row is None and cid <= folded:
            continue  # by a commit that was taken for failed
        if row is None:
            raise StoreUnavailable(f"record {cid} of the data file is missing")
        data = row[0][part.offset : part.offset + part.length]
        # Joined with others, a part that cannot be read would take them along.
        if wrong := flaw(part.count, data):
            folding.unreadable.append(Unreadable(part.lane, part.base, part.count, wrong, 0, data))
        else:
            folding.add(cut(part, keep.first, keep.end, data))


def find(connection: sqlite3.Connection, cid: int) -> tuple[bytes, int] | None:
    """Record `cid`'s directory and the size of its data, if it is there."""
    row = connection.execute("SELECT dir, length(data) FROM rec WHERE cid = ?", (cid,)).fetchone()
    return None if row is None else (row[0], row[1])


def pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """The bytes of a page, the file's pages, and how many of them are free."""
    numbers = [
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    ]
    return numbers[0], numbers[1], numbers[2]
