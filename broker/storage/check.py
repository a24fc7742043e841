"""Is a data file whole? Everything in it is read once and compared with everything else; nothing is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import merge
from typing import Final

import attrs
import msgspec

from broker.core.bits import CHUNK
from broker.core.message import Message, unpack
from broker.errors import ConfigError
from broker.storage import record
from broker.storage.lane import Lane
from broker.storage.ledger import Ledger
from broker.storage.quarantine import flaw
from broker.storage.reading import WHOLE, part_data
from broker.storage.record import BATCH_BYTES, MOST_COUNT
from broker.storage.tables import decode_keys, load
from broker.storage.unfolded import Place, Unfolded

#: Problems that are reported one by one; after that they are only counted.
MOST: Final = 1000

_message = msgspec.msgpack.Decoder(Message).decode


@attrs.define
class Report:
    """What was found."""

    destinations: int = 0
    lanes: int = 0
    readers: int = 0
    bindings: int = 0
    records: int = 0
    batches: int = 0
    messages: int = 0
    bytes: int = 0
    #: Messages not settled, each counted for every queue that waits for it.
    unsettled: int = 0
    #: Runs that a broker has set aside.
    quarantined: int = 0
    problems: list[str] = attrs.field(factory=list)
    #: Problems that are not in the list.
    more: int = 0

    def problem(self, text: str) -> None:
        """Something is not as it must be."""
        if len(self.problems) < MOST:
            self.problems.append(text)
        else:
            self.more += 1


def check(connection: sqlite3.Connection) -> Report:
    """Look at all of an open file of the newest version. Raises `sqlite3.Error` where nothing can be read any more."""
    report = Report()
    for (text,) in connection.execute("PRAGMA quick_check(20)"):
        if text != "ok":
            report.problem(f"SQLite: {text}")
    _tables(connection, report)
    _records(connection, report)
    try:
        ledger, unfolded, _ = load(connection)
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = error.reason if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        report.problem(f"a broker could not start with it: {reason}")
        return report
    report.destinations, report.lanes = len(ledger.destinations), len(ledger.lanes)
    report.readers, report.bindings = len(ledger.readers), len(ledger.bindings)
    _state(ledger, report)
    for lane in ledger.lanes.values():
        _lane(connection, ledger, unfolded, lane, report)
    _strays(connection, ledger, report)
    return report


def _tables(connection: sqlite3.Connection, report: Report) -> None:
    """Rows that must belong to one another do."""
    for what, query in (
        ("lane {0} belongs to destination {1}, which is not there", "SELECT id, destination FROM lane WHERE "
         "destination IS NOT NULL AND destination NOT IN (SELECT id FROM destination)"),
        ("reader {0} reads lane {1}, which is not there",
         "SELECT id, lane FROM reader WHERE lane NOT IN (SELECT id FROM lane)"),
        ("reader {0} belongs to queue {1}, which is not there",
         "SELECT id, queue FROM reader WHERE queue NOT IN (SELECT id FROM destination)"),
        ("chunk {1} of settled numbers belongs to reader {0}, which is not there",
         "SELECT reader, chunk FROM bits WHERE reader NOT IN (SELECT id FROM reader)"),
        ("chunk {1} of settled numbers of reader {0} has a wrong length",
         f"SELECT reader, chunk FROM bits WHERE length(bits) != {CHUNK // 8}"),  # nosec B608  # a constant
        ("chunk {1} of settled numbers of reader {0} is below its cursor",
         f"SELECT reader, chunk FROM bits JOIN reader ON id = reader WHERE (chunk + 1) * {CHUNK} <= cursor"),  # nosec B608  # a constant
        ("message {1}, which failed, belongs to reader {0}, which is not there",
         "SELECT reader, seq FROM exc WHERE reader NOT IN (SELECT id FROM reader)"),
        ("message {1}, below the cursor of reader {0}, is not kept",
         "SELECT reader, seq FROM exc JOIN reader ON id = reader WHERE seq < cursor AND body IS NULL"),
        ("binding {0} reads destination {1}, which is not there",
         "SELECT id, source FROM binding WHERE source NOT IN (SELECT id FROM destination)"),
        ("binding {0} belongs to queue {1}, which is not there",
         "SELECT id, queue FROM binding WHERE queue NOT IN (SELECT id FROM destination)"),
    ):  # fmt: skip
        for row in connection.execute(query):
            report.problem(what.format(*row))
    for reader, seq, body in connection.execute("SELECT reader, seq, body FROM exc WHERE body IS NOT NULL"):
        if wrong := flaw(1, body):
            report.problem(f"message {seq} of reader {reader}, kept apart, cannot be read: {wrong}")
    for id, packed in connection.execute("SELECT id, keys FROM dedup"):
        try:
            decode_keys(packed)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            report.problem(f"row {id} of publishers' keys cannot be read: {error}")
    report.quarantined = connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]


def _records(connection: sqlite3.Connection, report: Report) -> None:
    """Every record's directory can be read, and its parts lie in its data."""
    for cid, directory, size in connection.execute("SELECT cid, dir, length(data) FROM rec ORDER BY cid"):
        report.records += 1
        try:
            said = record.decode(directory)
        except (msgspec.MsgspecError, ConfigError) as error:
            report.problem(f"record {cid} cannot be read: {error}")
            continue
        for part in said.parts:
            if part.offset >= 0 and part.offset + part.length > size:
                report.problem(f"record {cid}: the part of lane {part.lane} lies outside of its data")


def _state(ledger: Ledger, report: Report) -> None:
    """Marks are where they can be."""
    for lane in ledger.lanes.values():
        if not 0 <= lane.low <= lane.next:
            report.problem(f"lane {lane.id}: nothing is kept below {lane.low}, but it ends at {lane.next}")
    for reader in ledger.readers.values():
        end, settled = ledger.lanes[reader.lane].next, reader.settled
        highest = max((high for _, high in settled.ranges()), default=0)
        if not 0 <= settled.cursor <= end:
            report.problem(f"reader {reader.id}: its cursor {settled.cursor} is beyond the end of its lane, {end}")
        elif highest > end:
            report.problem(f"reader {reader.id}: {highest - 1} is settled, but its lane ends at {end}")
        else:
            report.unsettled += end - settled.cursor - settled.count + len(settled.stragglers)
        for seq in reader.failures or ():
            if not 0 <= seq < end:
                report.problem(f"reader {reader.id}: message {seq} failed, but its lane ends at {end}")
    if ledger.last_stamp < 0:
        report.problem(f"the last stamp is {ledger.last_stamp}")


def _runs(
    connection: sqlite3.Connection, unfolded: Unfolded, lane: int, report: Report
) -> Iterator[tuple[int, int, str, int, bytes | None]]:
    """The stored runs of a lane by their first number: base, count, name, stamp of the first, data."""

    def batches() -> Iterator[tuple[int, int, str, int, bytes | None]]:
        after = -1
        query = "SELECT id, base, n, t0 FROM batch WHERE lane = ? AND base > ? ORDER BY base LIMIT 1"
        while (row := connection.execute(query, (lane, after)).fetchone()) is not None:
            id, after, count, t0 = row
            report.batches += 1
            try:
                data = connection.execute("SELECT data FROM batch WHERE id = ?", (id,)).fetchone()[0]
            except sqlite3.DatabaseError:
                data = None
            yield after, count, f"batch {id}", t0, data

    def parts() -> Iterator[tuple[int, int, str, int, bytes | None]]:
        for place in unfolded.lanes.get(lane, []):
            part = place.part
            yield part.base, part.count, f"record {place.cid}", part.t0, _part(connection, place)

    return merge(batches(), parts(), key=lambda run: run[0])


def _part(connection: sqlite3.Connection, place: Place) -> bytes | None:
    try:
        if place.size > WHOLE:  # records are small: read whole, a damaged one is found out
            return part_data(connection, place)
        data = connection.execute("SELECT data FROM rec WHERE cid = ?", (place.cid,)).fetchone()[0]
    except sqlite3.DatabaseError:
        return None
    return data[place.part.offset : place.part.offset + place.part.length]


def _lane(connection: sqlite3.Connection, ledger: Ledger, unfolded: Unfolded, lane: Lane, report: Report) -> None:
    """A lane's runs can be read, do not overlap, and hold everything that some reader waits for."""
    end, stamp = 0, -1
    for base, count, name, t0, data in _runs(connection, unfolded, lane.id, report):
        where = f"lane {lane.id}, {name}, messages {base} to {base + count - 1}"
        if base < end:
            report.problem(f"{where}: the run before it ends at {end}")
        elif base > end:
            _hole(ledger, lane, end, base, report)
        if base + count > lane.next:
            report.problem(f"{where}: the lane ends at {lane.next}")
        end = max(end, base + count)
        if wrong := flaw(count, data):
            report.problem(f"{where}: {wrong}")
            continue
        assert data is not None
        if count < 1 or count > MOST_COUNT or (len(data) > BATCH_BYTES and count > 1):
            report.problem(f"{where}: {count} messages in {len(data)} bytes are too many for one run")
        stamps = [message.stamp for message in unpack(count, data)]
        report.messages += count
        report.bytes += len(data)
        if stamps and stamps[0] != t0:
            report.problem(f"{where}: its first stamp is {stamps[0]}, not {t0}")
        for one in stamps:
            if one <= stamp:
                report.problem(f"{where}: stamp {one} comes after {stamp}")
                break
            stamp = one
    if end < lane.next:
        _hole(ledger, lane, end, lane.next, report)


def _hole(ledger: Ledger, lane: Lane, low: int, high: int, report: Report) -> None:
    """Nobody waits for what is not stored."""
    for reader in lane.readers:
        settled = reader.settled
        missing = settled.next_open(max(low, settled.cursor))
        if missing < high:
            report.problem(f"lane {lane.id}: message {missing} is not stored, and reader {reader.id} waits for it")


def _strays(connection: sqlite3.Connection, ledger: Ledger, report: Report) -> None:
    """No batch belongs to a lane that nobody knows."""
    for lane, count in connection.execute("SELECT lane, count(*) FROM batch GROUP BY lane"):
        if lane not in ledger.lanes and lane not in ledger.gone:
            report.problem(f"{count} batches belong to lane {lane}, which is not there")
