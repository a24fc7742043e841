"""SQLite pools without threads, connections that fail when told, and groups that are quick to write."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from broker.core.destination import Kind
from broker.core.message import Message, unpack
from broker.core.store import DefineDestination, DefineLane, DefineReader, Definition, IStore
from broker.storage.sqlite import SQLiteStore


class InlineReactor(Clock):
    """What a pool asks of a reactor, done at once."""

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        call()

    def callFromThread(self, call: Callable[..., object], *args: object, **kwargs: object) -> None:
        call(*args, **kwargs)

    def addSystemEventTrigger(self, *args: object) -> object:
        return object()

    def removeSystemEventTrigger(self, trigger: object) -> None:
        pass


class InlineThreads:
    """A thread pool that works on the caller's thread: at once, or when `step` is called while `held`."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[Callable[[], None]] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.held = False
        self.step()

    def step(self) -> None:
        """Do what waits."""
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()

    def callInThreadWithCallback(
        self, told: Callable[[bool, object], None], work: Callable[..., object], *args: Any, **kwargs: Any
    ) -> None:
        def run() -> None:
            try:
                result = work(*args, **kwargs)
            except Exception:
                told(False, Failure())
            else:
                told(True, result)

        self.waiting.append(run)
        if not self.held:
            self.step()


class InlinePool(ConnectionPool):
    """An adbapi pool whose work is done when it is asked for."""

    #: Those of the running test. A store that a test lets die keeps its files open, until they are closed here.
    started: ClassVar[list[InlinePool]] = []

    def start(self) -> None:
        self.threadpool = InlineThreads()  # type: ignore[assignment]
        self.running = True
        self.started.append(self)

    @classmethod
    def close_all(cls) -> None:
        """Close the files of all that were started, and forget them."""
        for pool in cls.started:
            for connection in pool.connections.values():
                connection.close()
            pool.connections.clear()
        cls.started.clear()


class FailingConnection(sqlite3.Connection):
    """A connection that fails when told. Class attributes, because the pool makes the object."""

    #: Raised by the next commits, before they happen, or after.
    before: BaseException | None = None
    after: BaseException | None = None
    #: Commits that wrote something.
    commits = 0

    def commit(self) -> None:
        if not self.in_transaction:
            return super().commit()
        if (error := type(self).before) is not None:
            raise error
        super().commit()
        type(self).commits += 1
        if (error := type(self).after) is not None:
            raise error
        return None


def failing_connection() -> type[FailingConnection]:
    """A class of its own, so that tests do not share its switches."""
    return type("FailingConnection", (FailingConnection,), {})


def inline_store(path: Path | str, **kwargs: Any) -> SQLiteStore:
    """A store whose every method is done when it returns. It does not wait for the disk: no test takes power away."""
    defaults = {"pool": InlinePool, "reactor": InlineReactor(), "reserve": 0, "sync": "off"}
    return SQLiteStore(str(path), **{**defaults, **kwargs})


def result(deferred: Deferred[Any]) -> Any:
    """What an inline store's Deferred has, at once; its failure is raised."""
    found: list[Any] = []
    _ = deferred.addBoth(found.append)
    assert found, "not done yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def messages(first: int, count: int, size: int = 10) -> list[Message]:
    """Messages whose stamps and bodies tell their number."""
    return [Message(stamp=1000 + n, body=b"%d." % n + b"x" * size) for n in range(first, first + count)]


def queue_of(id: int, name: str | None = None, *, cursor: int = 0) -> list[Definition]:
    """A queue with its log, one lane and one reader, all with the same id."""
    return [
        DefineDestination(id, Kind.QUEUE, name or f"q{id}"),
        DefineLane(id, id, 0),
        DefineReader(id, id, id, cursor),
    ]


def stored(store: IStore, lane: int, seq: int = 0, max_bytes: int = 1 << 18) -> dict[int, Message]:
    """Every message of a lane from `seq` on, by number, read in steps of `max_bytes`."""
    found: dict[int, Message] = {}
    while batches := result(store.read(lane, seq, max_bytes)):
        for batch in batches:
            assert batch.base + batch.count > seq
            for place, message in enumerate(unpack(batch.count, batch.data)):
                found[batch.base + place] = message
            seq = batch.base + batch.count
    return found
