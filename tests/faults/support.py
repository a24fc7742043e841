"""Brokers over data files whose disk fails when told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.message import Message
from broker.core.store import Committed, Group
from broker.errors import StoreUnavailable
from broker.storage.sqlite import SQLiteStore

#: Where a commit may fail: nothing is written yet, it is not committed, or it is and nobody hears of it.
PLACES = ("before INSERT", "after INSERT", "before COMMIT", "after COMMIT")


@attrs.define(eq=False)
class Disk:
    """What the connections of a store come upon. It may be changed while they are in use."""

    #: Whether commit number N, counted from 1, fails at this place.
    fails: Callable[[int, str], bool] = lambda number, place: False
    #: Pages the data file may have; 0: any number.
    pages: int = 0
    #: Commits tried so far, and those of which the broker has heard what became.
    tried: int = 0
    ended: int = 0

    def meet(self, place: str) -> None:
        """Fail here, if that is wanted."""
        if self.fails(self.tried, place):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    def breaks(self) -> None:
        """From now on no commit succeeds."""
        self.fails = lambda number, place: place == "before COMMIT"

    def is_back(self) -> None:
        """All goes well again."""
        self.fails = lambda number, place: False
        self.pages = 0

    @property
    def connection(self) -> type[sqlite3.Connection]:
        """The class of connection that comes upon it."""
        disk = self

        class Connection(sqlite3.Connection):
            commits_group = False

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql.startswith("SELECT dir, length(data) FROM rec"):
                    disk.meet("looking what became of it")
                if not sql.startswith("INSERT INTO rec"):
                    return super().execute(sql, *parameters)
                disk.tried += 1
                self._limit()
                disk.meet("before INSERT")
                done = super().execute(sql, *parameters)
                self.commits_group = True
                disk.meet("after INSERT")
                return done

            def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                self._limit()
                return super().executemany(sql, *parameters)

            def _limit(self) -> None:
                super().execute(f"PRAGMA max_page_count={disk.pages or 2**32 - 2}").close()

            def commit(self) -> None:
                commits_group, self.commits_group = self.commits_group, False
                if commits_group:
                    disk.meet("before COMMIT")
                super().commit()
                if commits_group:
                    disk.meet("after COMMIT")

            def rollback(self) -> None:
                self.commits_group = False
                super().rollback()

        return Connection


def store_on(path: Path, disk: Disk) -> SQLiteStore:
    """A store, all of whose connections come upon `disk`."""

    def pool(*args: Any, **options: Any) -> ConnectionPool:
        return ConnectionPool(*args, **{**options, "factory": disk.connection})

    class Store(SQLiteStore):
        def commit(self, group: Group) -> Deferred[Committed]:
            return super().commit(group).addBoth(heard)

    def heard(outcome: Any) -> Any:
        disk.ended += 1
        return outcome

    return Store(str(path), sync="normal", pool=pool)


@contextlib.asynccontextmanager
async def opened(path: Path, disk: Disk | None = None, clock: Clock | None = None) -> AsyncIterator[Broker]:
    """A broker over the file `path`, stopped in the end; it tries again when `clock` is advanced."""
    broker = Broker(store_on(path, disk or Disk()), clock or Clock())
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def put(broker: Broker, body: bytes, name: str = "q") -> str | None:
    """Publish; the message's id, or None: it was refused because of the disk."""
    try:
        return (await broker.publish(queue(name), Message(body=body))).message_id
    except StoreUnavailable:
        return None


async def take(broker: Broker, name: str = "q") -> Delivery:
    """The next message, which is there."""
    delivery = await broker.take(name)
    assert delivery is not None
    return delivery


async def emptied(broker: Broker, name: str = "q") -> list[bytes]:
    """The bodies of all that waits, in order; settled."""
    bodies = []
    while (delivery := await broker.take(name)) is not None:
        bodies.append(delivery.message.body)
        await broker.ack([delivery])
    return bodies


def numbers(message_ids: list[str]) -> list[int]:
    """Where in their lane messages are; they must be in one."""
    places = [message_id.split(".") for message_id in message_ids]
    assert len({lane for lane, _ in places}) == 1
    return [int(seq) for _, seq in places]


async def tried_again(disk: Disk, clock: Clock) -> None:
    """Let the time pass after which the broker tries once more, and the commit have its outcome."""
    before = disk.ended
    while disk.ended == before:
        clock.advance(0.1)
        await deferLater(reactor, 0.001)
