"""Writing: what runs on the write connection, each call one transaction, committed by its pool."""

from __future__ import annotations

import gc
import sqlite3
from typing import Final

from broker.core.store import Group, Inventory
from broker.storage import migrate, quarantine, record
from broker.storage.fold import Folding
from broker.storage.ledger import Changes, Ledger
from broker.storage.reading import pages
from broker.storage.record import Directory
from broker.storage.reserve import Reserve
from broker.storage.tables import insert_batches, load, load_keys, write_checkpoint
from broker.storage.unfolded import Unfolded

#: Bytes by which the file is shortened at a time; moving its pages takes up to twice that in the log.
_STEP: Final = 1024 * 1024


def start(connection: sqlite3.Connection, path: str) -> tuple[Ledger, Unfolded, int, Inventory]:
    """Take the file into use: make or upgrade it, read what is in it, and count this start as not yet clean."""
    migrate.upgrade(connection, path)
    collecting = gc.isenabled()
    gc.disable()  # 100,000 queues are half a million objects, none of them garbage: it would double the time
    try:
        ledger, unfolded, last = load(connection)
        unclean = connection.execute("SELECT value FROM meta WHERE key = 'unclean_starts'").fetchone()[0]
        inventory = ledger.inventory(unclean)
        inventory.keys = load_keys(connection, ledger)
    finally:
        if collecting:
            gc.enable()
    connection.execute("UPDATE meta SET value = ? WHERE key = 'unclean_starts'", (unclean + 1,))
    return ledger, unfolded, last, inventory


def write_group(
    connection: sqlite3.Connection,
    group: Group,
    cid: int,
    bases: dict[int, int],
    before: dict[int, int],
    ledger: Ledger,
    folding: Folding | None,
    doubted: bool = False,
) -> tuple[Directory, int, int]:
    """Write a group as record `cid`; its directory, and the bytes of its data and of its directory.

    `doubted`: there may be such a record, which nobody was told of; this one takes its place.
    """
    written = record.build(group, bases, before)
    directory = record.encode(written.directory)
    if doubted:
        forget(connection, cid)
    if folding is not None:
        write_fold(connection, folding, ledger, cid - 1)
    if written.rows:
        insert_batches(connection, written.rows)
    connection.execute("INSERT INTO rec (cid, dir, data) VALUES (?, ?, ?)", (cid, directory, written.data))
    return written.directory, len(written.data), len(directory)


def forget(connection: sqlite3.Connection, cid: int) -> None:
    """Delete record `cid`, if it is there, and the batches that came with it: nobody was told of it."""
    row = connection.execute("SELECT dir FROM rec WHERE cid = ?", (cid,)).fetchone()
    if row is None:
        return
    for part in record.decode(row[0]).parts:
        if part.offset < 0:
            last = part.base + part.count - 1
            connection.execute(
                "DELETE FROM batch WHERE lane = ? AND base BETWEEN ? AND ?", (part.lane, part.base, last)
            )
    connection.execute("DELETE FROM rec WHERE cid = ?", (cid,))


def write_fold(connection: sqlite3.Connection, folding: Folding, ledger: Ledger, last: int) -> None:
    """Put a fold's batches in the place of its records. `ledger` is the state after record `last`."""
    insert_batches(connection, [row for row in folding.rows if row.lane in ledger.lanes])
    quarantine.write(connection, folding.unreadable)
    connection.execute("DELETE FROM rec WHERE cid <= ?", (folding.upto,))
    if ledger.changes is not None:
        write_checkpoint(connection, ledger, ledger.changes, last)


def finish(connection: sqlite3.Connection, ledger: Ledger, last: int, doubted: bool = False) -> None:
    """Before a clean close: the tables say everything, and this start was a clean one.

    `doubted`: there may be a record after the last one, which nobody was told of.
    """
    if doubted:
        forget(connection, last + 1)
    write_checkpoint(connection, ledger, ledger.changes or Changes(), last)
    connection.execute("UPDATE meta SET value = 0 WHERE key = 'unclean_starts'")


def mend(connection: sqlite3.Connection) -> None:
    """After an error: make the connection usable again, by a new one if need be."""
    try:
        if connection.in_transaction:
            connection.rollback()
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.reconnect()  # type: ignore[attr-defined]


def renew(connection: sqlite3.Connection) -> None:
    """Begin again with a new connection."""
    connection.reconnect()  # type: ignore[attr-defined]


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the file as far as that goes without waiting for anybody."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def finish_checkpoint(connection: sqlite3.Connection, mode: str) -> None:
    """Copy the rest of it, so that the next commit begins the log anew (RESTART), or it is empty (TRUNCATE).

    It waits for reads under way: ours are short, and for somebody else's nobody is to wait longer than 0.1 s.
    """
    patience = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout=100").close()
    try:
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout={patience}").close()


def keep_room(connection: sqlite3.Connection, reserve: Reserve) -> bool:
    """Make the reserve again; free pages of the file are given back to the disk for it, a megabyte at a time."""
    size, _, free = pages(connection)
    for _ in range(2 * reserve.size // _STEP if free * size >= 2 * reserve.size else 0):
        # Not execute(): that takes one step of it, which is one page.
        connection.executescript(f"PRAGMA incremental_vacuum({_STEP // size})")
        finish_checkpoint(connection, "TRUNCATE")
    try:
        reserve.make()
    except OSError:
        return False
    return True
