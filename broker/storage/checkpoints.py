"""Keeping the write-ahead log short, beside the commits as long as that is possible."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from broker.errors import StoreUnavailable
from broker.storage.file import DataFile


class Checkpoints:
    """Makes a checkpoint when the log is long; `turn` is what commits wait for, `start` lets work run beside them."""

    _log = Logger()

    def __init__(
        self,
        file: DataFile,
        turn: DeferredLock,
        start: Callable[[Coroutine[Deferred[Any], Any, None]], None],
        opened: Callable[[], bool],
    ) -> None:
        self._file = file
        self._turn = turn
        self._start = start
        self._opened = opened
        self._under_way = False
        self._finishing = False

    def watch(self) -> None:
        """There was a commit."""
        if not self._finishing and self._file.wal_is_too_long():
            self._finishing = True
            self._start(self._finish())
        elif not self._under_way and self._file.wal_is_long():
            self._under_way = True
            self._start(self._make())

    async def _make(self) -> None:
        """Without a commit waiting for it."""
        try:
            await self._file.checkpoint()
        except StoreUnavailable as error:
            self._log.warn("cannot make a checkpoint: {reason}", reason=error.reason)
        finally:
            self._under_way = False

    async def _finish(self) -> None:
        """Make commits wait for the checkpoint under way and for the rest of it."""
        await self._turn.acquire()
        try:
            if self._opened():
                await self._file.finish_checkpoint()
        except StoreUnavailable as error:
            self._log.warn("cannot finish a checkpoint: {reason}", reason=error.reason)
        finally:
            self._finishing = False
            self._turn.release()
