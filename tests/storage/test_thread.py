"""The pool of one thread that the store's connections have."""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from broker.storage.thread import OneThread, Pool
from tests.support import tx


def test_work_is_done_in_order_in_one_thread_and_stop_waits_for_it() -> None:
    one = OneThread()
    told: list[tuple[bool, Any]] = []
    for number in range(3):  # what comes before it begins waits

        def work(by: int, *, of: int = number) -> tuple[int, int, str]:
            return of, by, threading.current_thread().name

        one.callInThreadWithCallback(lambda done, found: told.append((done, found)), work, 7)
    one.start()
    one.callInThreadWithCallback(lambda done, found: told.append((done, found)), divmod, 7, 2)
    one.stop()
    assert told == [*((True, (number, 7, "broker-store")) for number in range(3)), (True, (3, 1))]


def test_what_fails_is_told_and_the_next_is_done() -> None:
    one = OneThread()
    told: list[Any] = []
    one.start()
    one.callInThreadWithCallback(lambda done, found: told.append((done, found)), int, "x")
    one.callInThreadWithCallback(lambda done, found: told.append((done, found)), int, "1")
    one.stop()
    (failed, failure), done = told
    assert not failed
    assert isinstance(failure, Failure)
    assert failure.check(ValueError)
    assert done == (True, 1)


def test_nothing_of_what_is_done_is_kept() -> None:
    class Group:
        pass

    one, group, done = OneThread(), Group(), threading.Event()
    left = weakref.ref(group)
    one.start()
    one.callInThreadWithCallback(lambda *_: None, id, group)
    del group
    one.callInThreadWithCallback(lambda *_: done.set(), int)
    assert done.wait(60)
    gc.disable()
    try:
        assert left() is None
    finally:
        gc.enable()
        one.stop()


@tx()
async def test_adbapi_uses_it(tmp_path: Path) -> None:
    from twisted.internet import reactor

    before = set(threading.enumerate())
    pool = Pool("sqlite3", str(tmp_path / "f"), cp_min=1, cp_max=1, cp_reactor=reactor, check_same_thread=False)
    try:
        await pool.runOperation("CREATE TABLE t (n)")
        await pool.runOperation("INSERT INTO t VALUES (?)", (5,))
        assert await pool.runQuery("SELECT n FROM t") == [(5,)]
        with pytest.raises(sqlite3.OperationalError):
            await pool.runQuery("SELECT nothing")
        (ours,) = (one for one in set(threading.enumerate()) - before if one.name == "broker-store")
        assert isinstance(pool.threadpool, OneThread)
    finally:
        pool.close()
    assert not ours.is_alive()
