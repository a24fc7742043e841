"""The tables beside records and batches: the ledger as of a checkpoint, written by folds and read at start-up."""

from __future__ import annotations

import sqlite3
from array import array
from contextlib import suppress
from typing import Final

import msgspec

from broker.core.bits import CHUNK
from broker.core.destination import Kind
from broker.core.policy import BindingPolicy
from broker.core.store import BindingState, DefineBinding, DefineDestination, Failure, PublishKey
from broker.errors import ConfigError
from broker.storage import quarantine, record
from broker.storage.lane import Lane, Reader
from broker.storage.ledger import FAR, ID_SORTS, Changes, Ledger, take_keys
from broker.storage.record import Row
from broker.storage.settled import Settled
from broker.storage.unfolded import Unfolded

_INSERT_BATCH: Final = (
    "INSERT INTO batch (lane, base, n, before, next_expiry, max_expiry, t0, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_pack_marks = msgspec.msgpack.Encoder().encode
_unpack_marks = msgspec.msgpack.Decoder(dict[int, int]).decode
_unpack_past = msgspec.msgpack.Decoder(dict[int, tuple[int, str]]).decode
#: Keys of publishers in a row of ``dedup``: about 50 KB.
KEYS: Final = 1024
_encode_keys = msgspec.msgpack.Encoder().encode
decode_keys = msgspec.msgpack.Decoder(list[PublishKey]).decode


def insert_batches(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Write batches."""
    connection.executemany(
        _INSERT_BATCH,
        ((x.lane, x.base, x.count, x.before, x.next_expiry, x.max_expiry, x.t0, x.data) for x in rows),
    )


def write_checkpoint(connection: sqlite3.Connection, ledger: Ledger, changes: Changes, checkpoint: int) -> None:
    """Bring the tables to the ledger's state: that after record `checkpoint`. Deletions first: names may be reused."""
    many = connection.executemany

    def gone(ids: set[int], kept: dict[int, object]) -> list[tuple[int]]:
        return [(id,) for id in sorted(ids) if id not in kept]

    readers = gone(changes.readers, ledger.readers)  # type: ignore[arg-type]
    many("DELETE FROM reader WHERE id = ?", readers)
    many("DELETE FROM bits WHERE reader = ?", readers)
    many("DELETE FROM exc WHERE reader = ?", readers)
    many("DELETE FROM binding WHERE id = ?", gone(changes.bindings, ledger.bindings))  # type: ignore[arg-type]
    lanes = gone(changes.lanes, ledger.lanes)  # type: ignore[arg-type]
    many("DELETE FROM lane WHERE id = ?", lanes)
    many("INSERT INTO lane VALUES (?, NULL, 0, 0, 0, 0, 0, NULL)", [lane for lane in lanes if lane[0] in ledger.gone])
    many("DELETE FROM destination WHERE id = ?", gone(changes.destinations, ledger.destinations))  # type: ignore[arg-type]

    many(
        "INSERT OR REPLACE INTO destination VALUES (?, ?, ?)",
        [
            (id, ledger.destinations[id].kind.value, ledger.destinations[id].name)
            for id in sorted(changes.destinations)
            if id in ledger.destinations
        ],
    )
    many(
        "INSERT INTO lane VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "next = excluded.next, low = excluded.low, bytes = excluded.bytes, keep = excluded.keep",
        [
            (x.id, x.destination, x.priority, x.run, x.next, x.low, x.bytes, x.keep)
            for x in map(ledger.lanes.get, sorted(changes.lanes))
            if x is not None
        ],
    )
    many(
        "INSERT INTO reader VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET cursor = excluded.cursor, reserved = excluded.reserved",
        [
            (x.id, x.queue, x.lane, x.settled.cursor, x.reserved)
            for x in map(ledger.readers.get, sorted(changes.readers))
            if x is not None
        ],
    )
    _write_bits(connection, ledger, changes)
    _write_failures(connection, ledger, changes)
    many(
        "INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_binding_row(ledger.bindings[id]) for id in sorted(changes.bindings) if id in ledger.bindings],
    )
    _write_keys(connection, ledger)
    many(
        "UPDATE meta SET value = ? WHERE key = ?",
        [
            (ledger.last_stamp, "last_stamp"),
            (checkpoint, "checkpoint"),
            *((ledger.last_ids[sort], f"last_{sort}") for sort in ID_SORTS),
        ],
    )


def _write_bits(connection: sqlite3.Connection, ledger: Ledger, changes: Changes) -> None:
    stored, dropped = [], []
    for id, chunk in sorted(changes.chunks):
        reader = ledger.readers.get(id)
        if reader is not None:
            bits = reader.settled.chunk(chunk)
            if bits:
                stored.append((id, chunk, bits.to_bytes(CHUNK // 8, "little")))
            else:
                dropped.append((id, chunk))
    connection.executemany("DELETE FROM bits WHERE reader = ? AND chunk = ?", dropped)
    connection.executemany("INSERT OR REPLACE INTO bits VALUES (?, ?, ?)", stored)


def _write_failures(connection: sqlite3.Connection, ledger: Ledger, changes: Changes) -> None:
    stored, dropped = [], []
    for id, seq in sorted(changes.failures):
        reader = ledger.readers.get(id)
        if reader is not None:
            failure = (reader.failures or {}).get(seq)
            if failure is None and (seq >= reader.settled.cursor or seq in reader.settled):
                dropped.append((id, seq))
            else:
                failure = failure or Failure()
                stored.append((id, seq, failure.attempts, failure.due, failure.reason))
    connection.executemany("DELETE FROM exc WHERE reader = ? AND seq = ?", dropped)
    connection.executemany(
        "INSERT INTO exc (reader, seq, attempts, due, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT (reader, seq) "
        "DO UPDATE SET attempts = excluded.attempts, due = excluded.due, reason = excluded.reason",
        stored,
    )


def _write_keys(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """Write the new keys, and delete rows in which all may be forgotten: always more of them than are written."""
    connection.execute(
        "DELETE FROM dedup WHERE id IN (SELECT id FROM dedup WHERE until <= ? ORDER BY until LIMIT ?)",
        (ledger.last_stamp, 64 + 2 * len(ledger.keys) // KEYS),
    )
    keys = sorted(ledger.lasting(ledger.keys), key=lambda key: key.until)
    connection.executemany(
        "INSERT INTO dedup (until, keys) VALUES (?, ?)",
        [
            (some[-1].until, _encode_keys(some))
            for some in (keys[first : first + KEYS] for first in range(0, len(keys), KEYS))
        ],
    )


def load_keys(connection: sqlite3.Connection, ledger: Ledger) -> list[PublishKey]:
    """All keys that are not to be forgotten yet.

    Rows that cannot be read are left out: better that a message could come twice than that none can come.
    """
    keys: dict[tuple[int, str], PublishKey] = {}
    for (packed,) in connection.execute("SELECT keys FROM dedup ORDER BY id"):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            take_keys(keys, decode_keys(packed))
    take_keys(keys, ledger.keys.values())
    return ledger.lasting(keys)


def _binding_row(binding: BindingState) -> tuple[object, ...]:
    define, until = binding.define, binding.until
    policy = define.policy
    return (
        define.id,
        define.queue,
        define.source,
        _pack_marks(define.start),
        None if until is None else _pack_marks(until),
        policy.priority,
        policy.lease,
        policy.ttl,
        policy.max_attempts,
        define.filter_name,
        define.filter_text,
        int(define.follows),
        define.of,
        _pack_marks(define.past),
    )


def load(connection: sqlite3.Connection) -> tuple[Ledger, Unfolded, int]:
    """The ledger and the index of the records, and the last record's number. Reads no message."""
    ledger, unfolded = Ledger(track=True), Unfolded()
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    ledger.last_stamp = meta["last_stamp"]
    ledger.last_ids = {sort: meta[f"last_{sort}"] for sort in ID_SORTS}
    kinds = {kind.value: kind for kind in Kind}
    for id, kind, name in connection.execute("SELECT id, kind, name FROM destination ORDER BY id"):
        ledger.destinations[id] = DefineDestination(id, kinds[kind], name)
    # Ids are the same numbers over and over, and every number read is an object of its own: 100,000 queues save 16 MB.
    same = {id: id for id in ledger.destinations}
    for id, destination, *rest in connection.execute(
        "SELECT id, destination, priority, run, next, low, bytes, keep FROM lane ORDER BY id"
    ):
        if destination is None:
            ledger.gone.add(id)
        else:
            ledger.add_lane(Lane(same.setdefault(id, id), same[destination], *rest))
            if rest[-1] is not None:
                ledger.retained.add(id)
    for id, queue, lane, cursor, reserved in connection.execute(
        "SELECT id, queue, lane, cursor, reserved FROM reader ORDER BY id"
    ):
        ledger.add_reader(Reader(same.setdefault(id, id), same[queue], same[lane], Settled(cursor), reserved))
    for id, chunk, bits in connection.execute("SELECT reader, chunk, bits FROM bits"):
        ledger.readers[id].settled.load(chunk, int.from_bytes(bits, "little"))
    cursors = {id: reader.settled.cursor for id, reader in ledger.readers.items() if reader.settled.count}
    moved = [id for id in cursors if ledger.readers[id].settled.loaded()]
    behind: dict[int, list[int]] = {}
    for id, seq, attempts, due, reason in connection.execute(
        "SELECT reader, seq, attempts, due, reason FROM exc ORDER BY reader, seq"
    ):
        reader = ledger.readers[id]
        if seq < reader.settled.cursor:
            behind.setdefault(id, []).append(seq)
        if attempts or due:
            if reader.failures is None:
                reader.failures = {}
            reader.failures[seq] = Failure(attempts, due, reason)
    for id, seqs in behind.items():
        ledger.readers[id].settled.keep_apart(seqs)
    for row in connection.execute("SELECT * FROM binding ORDER BY id"):
        id, queue, source, start, until, *policy, filter_name, filter_text, follows, pattern, past = row
        define = DefineBinding(
            id,
            queue,
            source,
            _unpack_marks(start),
            BindingPolicy(*policy),
            filter_name,
            filter_text,
            bool(follows),
            pattern,
            _unpack_past(past),
        )
        ledger.add_binding(BindingState(define, None if until is None else _unpack_marks(until)))
    changes = ledger.changes = Changes()
    for id in moved:
        changes.readers.add(id)
        over = range(cursors[id] // CHUNK, ledger.readers[id].settled.cursor // CHUNK + 1)
        changes.chunks.update((id, chunk) for chunk in over)
    last = meta["checkpoint"]
    for cid, directory, size in connection.execute("SELECT cid, dir, length(data) FROM rec ORDER BY cid"):
        try:
            said = record.decode(directory)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"record {cid} of the data file is damaged ({error}); see 'broker check'") from error
        if cid > meta["checkpoint"]:
            ledger.apply(said)
        unfolded.add(cid, size, size + len(directory), said)
        last = max(last, cid)
    quarantine.load(connection, ledger)
    # What was to be freed is not written down: look once at every lane that ever held something.
    ledger.unlooked = array("q", (lane.id for lane in ledger.lanes.values() if lane.next))
    ledger.lagging.update(reader.id for reader in ledger.readers.values() if reader.settled.count >= FAR)
    return ledger, unfolded, last
