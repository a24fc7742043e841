"""The server's status: what the broker does at the moment, as an operator says over any front; kept over a restart.

It is Kestrel's, for all fronts. The core keeps to it (`broker.core.status`); here it is changed, which may take time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.level import Level
from broker.errors import Blocked, ConfigError, StoreUnavailable


class StatusFile:
    """Where the status is kept over a restart: a word in a file. Its methods block."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> Level:
        """What it says; `UP` if there is none. Raises `ConfigError`."""
        try:
            with open(self._path, "rb") as file:
                return Level[file.read(100).decode().strip()]
        except FileNotFoundError:
            return Level.UP
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} holds no status: {error}; without that file it is UP") from None

    def write(self, level: Level) -> None:
        """Keep it. Raises `StoreUnavailable`, and what was kept is kept still."""
        beside = f"{self._path}.new"
        try:
            with open(beside, "w") as file:
                file.write(f"{level.name}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(beside)
            raise StoreUnavailable(f"the status cannot be kept: {error}") from None


class ServerStatus:
    """The status that all listeners tell. A stricter one is told at once, and holds after `grace` seconds.

    While it is waited for, a further stricter one is ignored; a less strict one ends the wait and holds at once. It is
    `level` at first; `keep` has it kept, and what cannot be kept does not come true. `enforce` is told what holds.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        grace: float = 0.0,
        level: Level = Level.UP,
        keep: Callable[[Level], Deferred[None]] = lambda level: succeed(None),
        enforce: Callable[[Level], None] = lambda level: None,
    ) -> None:
        self._clock = clock
        self._grace = grace
        self._keep = keep
        self._turn = DeferredLock()
        #: What is told.
        self.level = level
        self._tell = enforce
        self._enforced = level
        enforce(level)
        self._call: IDelayedCall | None = None

    @property
    def holds(self) -> Level:
        """What is enforced."""
        return self._enforced

    async def change(self, level: Level, asked: str, *, at_once: bool = False) -> None:
        """An operator says so; the log names who `asked`. `at_once`: there is no grace."""
        await self._turn.acquire()
        try:
            if level.value <= self.level.value or self._call is None or at_once:
                await self._keep(level)
                self._change(level, at_once)
                self._log.info("{asked}: the server's status is {status}", asked=asked, status=level.name)
        finally:
            self._turn.release()

    def _change(self, level: Level, at_once: bool) -> None:
        if at_once or level.value <= self.level.value:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            self._enforce(level)
        elif self._grace:
            self.level = level
            self._call = self._clock.callLater(self._grace, self._over)
        else:
            self._enforce(level)

    def stop(self) -> None:
        """The broker stops: nothing is waited for any more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def check_write(self) -> None:
        """Raise `Blocked` where nothing may be stored, deleted or flushed."""
        # asked for every message: UP first, because an Enum's value takes as long as all else here
        if self._enforced is not Level.UP and self._enforced.value >= Level.READONLY.value:
            raise Blocked(f"the server's status is {self._enforced.name}")

    def check_read(self) -> None:
        """Raise `Blocked` where nothing may be read."""
        if self._enforced is not Level.UP and self._enforced.value >= Level.QUIESCENT.value:
            raise Blocked(f"the server's status is {self._enforced.name}")

    def _over(self) -> None:
        self._call = None
        self._enforce(self.level)

    def _enforce(self, level: Level) -> None:
        self.level = self._enforced = level
        self._tell(level)
