"""A broker that can kill itself at a named point of a commit; the crash tests run it as a process of its own.

It says on standard output which reactor it runs on (``reactor lean``), where its fronts are (``memcache 40001``), then
``ready``. SIGUSR1: from now on passes of the fail-point count (``armed``), and at the last of them it says ``killed at
POINT`` and is gone. SIGTERM: a clean stop. It does not outlive whoever started it, who holds the other end of its
standard input.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import threading
from typing import Any, cast

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from broker.config import from_dict
from broker.core.store import Committed, Group
from broker.reactor import install
from broker.running import IBrokerReactor
from broker.service import build
from broker.storage import unfolded
from broker.storage.sqlite import SQLiteStore
from tests.crash.places import CONFIGURATION

#: Where it may be killed, in the order in which a commit passes them; the second only when a fold rides in it.
POINTS = ("before insert", "in fold", "after insert", "after commit")
#: And where one that lies may be.
TORN = "between the halves of a transaction"
#: Records after which a fold is due, instead of 4,000: some folds in every load.
FOLD_RECORDS = 60


def say(line: str) -> None:
    """Write a line to whoever started this process, at once."""
    os.write(1, f"{line}\n".encode())


class FatalConnection(sqlite3.Connection):
    """A write connection that ends its process in the middle of a commit."""

    #: The point, and how often it is passed until it kills; 0: it does not.
    point = ""
    left = 0
    armed = False

    _inserted = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run `sql`; a commit is one INSERT INTO rec, and a fold in it deletes the records it took."""
        is_record = sql.startswith("INSERT INTO rec ")
        if is_record:
            self.passed("before insert")
        cursor = super().execute(sql, parameters)
        if is_record:
            self._inserted = True
            self.passed("after insert")
        elif sql.startswith("DELETE FROM rec "):
            self.passed("in fold")
        return cursor

    def commit(self) -> None:
        """Commit; what was written is durable when "after commit" is passed, and nobody was told of it."""
        super().commit()
        inserted, self._inserted = self._inserted, False
        if inserted:
            self.passed("after commit")

    @staticmethod
    def passed(point: str) -> None:
        """Kill this process if it is time to."""
        fatal = FatalConnection
        if fatal.armed and point == fatal.point:
            fatal.left -= 1
            if not fatal.left:
                say(f"killed at {point}")
                os.kill(os.getpid(), signal.SIGKILL)


class HastyStore(SQLiteStore):
    """A store that says a group is durable before it is. The test that finds nothing wrong here is no test."""

    def commit(self, group: Group) -> Deferred[Committed]:
        """Begin to commit, and say that it is done."""
        _ = super().commit(group)
        return succeed(Committed({}))


class ForgetfulStore(SQLiteStore):
    """A store that forgets one group's settlements in ten."""

    _groups = 0

    def commit(self, group: Group) -> Deferred[Committed]:
        """Commit without them."""
        self._groups += 1
        return super().commit(group if self._groups % 10 else msgspec.structs.replace(group, settled={}))


class TornStore(SQLiteStore):
    """A store that commits a group's settlements after its messages, and may be killed in between."""

    def commit(self, group: Group) -> Deferred[Committed]:
        """Commit twice."""
        return Deferred.fromCoroutine(self._torn(group))

    async def _torn(self, group: Group) -> Committed:
        committed = await super().commit(msgspec.structs.replace(group, settled={}))
        if group.settled and len(group.parts) > 3:  # there may be a transaction in it
            FatalConnection.passed(TORN)
        await super().commit(Group(last_stamp=group.last_stamp, settled=group.settled))
        return committed


STORES = {"honest": SQLiteStore, "hasty": HastyStore, "forgetful": ForgetfulStore, "torn": TornStore}


def end_with_parent() -> None:
    """Wait for the end of standard input."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Serve until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--point", choices=(*POINTS, TORN), default="")
    parser.add_argument("--passes", type=int, default=0)
    parser.add_argument("--store", choices=STORES, default="honest")
    arguments = parser.parse_args()
    FatalConnection.point, FatalConnection.left = arguments.point, arguments.passes
    vars(unfolded).update(FOLD_RECORDS=FOLD_RECORDS)

    stock = install()  # as twistd does it: with BROKER_STOCK_REACTOR=1, Twisted's own
    from twisted.internet import reactor as installed

    reactor = cast(IBrokerReactor, installed)
    store = STORES[arguments.store](arguments.data, sync="full", connection=FatalConnection, reactor=reactor)
    listeners = {front: ["127.0.0.1:0"] for front in ("memcache", "stomp", "http")}
    config = from_dict(listeners | CONFIGURATION)
    with open(f"{arguments.data}.log", "a") as log:
        observer = FilteringLogObserver(textFileLogObserver(log), [LogLevelFilterPredicate(LogLevel.info)])
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
        service = build(config, reactor=reactor, store=store, tell=lambda line: None)
        service.on_failure = lambda: reactor.callWhenRunning(reactor.stop)

        def opened(_result: None) -> None:
            say(f"reactor {'stock' if stock else 'lean'}")
            for front in service.fronts:
                say(f"{front.name} {front.way.name.rpartition(':')[2]}")
            say("ready")

        def arm(*_: object) -> None:
            FatalConnection.armed = True
            say("armed")

        threading.Thread(target=end_with_parent, daemon=True).start()
        signal.signal(signal.SIGUSR1, arm)
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        service.startService()
        _ = service.opening.addCallback(opened)
        reactor.run()


if __name__ == "__main__":
    main()
