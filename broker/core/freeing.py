"""Freeing: asks the store to let go of what every reader has settled, in slices, some time after commits."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.retention import Retention
from broker.core.store import IStore
from broker.errors import BrokerError

#: Seconds after a commit until the store is asked; a queue that keeps up is freed once a second.
_DELAY = 1.0
#: Seconds between two slices where there is much to free: at most a fifth of the writer's time (10 ms a slice).
_PAUSE = 0.04
#: A slice of this many bytes says so. Consumers that work off a backlog at 15,000 messages a second leave 80 KB a
#: pause: each slice would be a commit for a batch or two.
_MUCH = 128 * 1024
#: Seconds until it is looked again at what is retained: it gets old without a commit.
_RETAINED = 5.0
#: Bytes a slice.
_SLICE = 1024 * 1024


class Freeing:
    """Calls `IStore.trim` until there is nothing left to free."""

    _log = Logger()

    def __init__(self, store: IStore, clock: IReactorTime, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._under_way: Deferred[None] | None = None
        self._stopped = False

    def wake(self) -> None:
        """There was a commit."""
        if self._call is not None and self._call.getTime() > self._clock.seconds() + _DELAY:
            self._call.reset(_DELAY)
        elif self._call is None and self._under_way is None and not self._stopped:
            self._call = self._clock.callLater(_DELAY, self._trim)

    async def stop(self) -> None:
        """Ask no more; wait for the slice under way."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._under_way is not None:
            await self._under_way

    def _trim(self) -> None:
        self._call = None
        self._under_way = Deferred()
        _ = Deferred.fromCoroutine(self._slice()).addErrback(
            lambda failure: self._log.failure("while freeing settled messages", failure)
        )

    async def _slice(self) -> None:
        freed = 0
        try:
            freed = await self._store.trim(_SLICE, await self._retention.marks())
        except BrokerError as error:
            self._log.warn("cannot free settled messages: {reason}", reason=error.reason)
        finally:
            done, self._under_way = self._under_way, None
            if (freed or self._retention) and not self._stopped:
                self._call = self._clock.callLater(_pause(freed), self._trim)
            if done is not None:
                done.callback(None)


def _pause(freed: int) -> float:
    """Seconds until the next slice, after one of so many bytes."""
    if freed >= _MUCH:
        return _PAUSE
    return _DELAY if freed else _RETAINED
