"""What cannot be read: set aside in a table of its own, so that the rest is served.

Numbers and bytes stay there for whoever wants to look; for the readers of the lane they are settled.
"""

from __future__ import annotations

import sqlite3

import msgspec
from twisted.logger import Logger

from broker.core.message import unpack
from broker.storage.ledger import Ledger


class Unreadable(msgspec.Struct, frozen=True):
    """A run of a lane's messages that cannot be decoded."""

    lane: int
    base: int
    count: int
    reason: str
    #: The row of ``batch`` it is in; 0: it is in a record, which a fold will delete.
    batch: int = 0
    data: bytes | None = None


def flaw(count: int, data: bytes | None) -> str:
    """What is wrong with the packed messages of a run; empty: nothing."""
    if data is None:
        return "the data file is damaged there"
    try:
        unpack(count, data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    return ""


class Flaws:
    """What was found to be unreadable since the start."""

    _log = Logger()

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] = set()

    def report(self, unreadable: list[Unreadable], ledger: Ledger) -> list[Unreadable]:
        """Say once what it is; what is new of it."""
        new = [one for one in unreadable if (one.lane, one.base) not in self._known]
        for one in new:
            self._known.add((one.lane, one.base))
            lane = ledger.lanes.get(one.lane)
            destination = ledger.destinations.get(lane.destination) if lane is not None else None
            self._log.error(
                "messages {first} to {last} of lane {lane}, {kind} {name}, cannot be read, and are skipped: {reason}",
                first=one.base,
                last=one.base + one.count - 1,
                lane=one.lane,
                kind=destination.kind.value if destination else "",
                name=destination.name if destination else "deleted",
                reason=one.reason,
            )
        return new


def write(connection: sqlite3.Connection, some: list[Unreadable]) -> None:
    """Set these aside, unless they are."""
    for one in some:
        connection.execute(
            "INSERT INTO quarantine (lane, base, n, reason, data) SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM quarantine WHERE lane = ? AND base = ?)",
            (one.lane, one.base, one.count, one.reason, one.data, one.lane, one.base),
        )
        if one.batch:
            connection.execute("DELETE FROM batch WHERE id = ?", (one.batch,))


def load(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """At the start: pass over what was set aside, also where a crash came between the two."""
    for lane, base, count in connection.execute("SELECT lane, base, n FROM quarantine"):
        ledger.pass_over(lane, base, base + count)
