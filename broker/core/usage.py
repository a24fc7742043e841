"""What is kept in memory of queues: those used lately stay, the others come to rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.core.deadlines import Deadlines
from broker.core.directory import Directory
from broker.core.queue import Queue

#: Seconds after its last use until a queue comes to rest.
KEEP = 60.0
#: Queues used lately, at most; those beyond come to rest sooner, the one used longest ago first. One that was read
#: takes 2 to 3 KB beside its window, so that these take 30 MB, however many are used in a minute.
MOST_USED = 10_000
_KEEP_BEYOND = 1.0
#: Queues looked at in one reactor turn: 10 us for each that comes to rest.
_MAX_EVICTED = 1_000


class Usage:
    """When queues were used last.

    Whatever is in `looked_into` keeps what was loaded for it; what is in any of `busy` does not come to rest.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], int],
        directory: Directory,
        looked_into: Container[Queue],
        busy: tuple[Container[Queue], ...],
    ) -> None:
        self._clock = clock
        self._now = now
        self._directory = directory
        self._looked_into = looked_into
        self._busy = busy
        #: Called with a queue that was empty and unused for its ``max_idle``.
        self.unused: Callable[[Queue], None] = lambda queue: None
        #: Queues used lately with the time of their last use (us), the one longest ago first.
        self._used: OrderedDict[Queue, int] = OrderedDict()
        #: Those of the others that wait for the end of their ``max_idle``.
        self._idle: Deadlines[Queue] = Deadlines()
        #: Queues for which something was loaded, the one longest ago first.
        self._held: OrderedDict[Queue, None] = OrderedDict()
        self._sweep: IDelayedCall | None = None
        self._stopped = False

    def use(self, queue: Queue) -> None:
        """The queue is used: it keeps messages in memory and reserves ahead, until it was idle for a while."""
        self.notice(queue)
        queue.used = self._used[queue]

    def notice(self, queue: Queue) -> None:
        """Somebody speaks of the queue: it stays in memory for a while."""
        self._used[queue] = self._now()
        self._used.move_to_end(queue)
        self._idle.discard(queue)
        if self._stopped:
            return
        if self._sweep is None:
            self._sweep = self._clock.callLater(KEEP, self._evict)
        if len(self._used) > MOST_USED and self._sweep.getTime() > self._clock.seconds() + _KEEP_BEYOND:
            self._sweep.reset(_KEEP_BEYOND)

    def loaded(self, queue: Queue) -> None:
        """Messages were loaded for it, which `relieve` may let go."""
        self._held[queue] = None
        self._held.move_to_end(queue)

    def relieve(self) -> None:
        """While windows hold more than they may together, queues that nobody uses now let theirs go."""
        while self._held and self._directory.budget.exceeded:
            queue, _nothing = self._held.popitem(last=False)
            if queue.idle and queue not in self._looked_into:
                for reader in queue.readers:
                    reader.evict()

    def rest(self, queue: Queue) -> bool:
        """Keep no more of the queue in memory than must be; False if it is not at rest."""
        if not self._directory.rest(queue):
            return False
        self._used.pop(queue, None)
        self._held.pop(queue, None)
        return True

    def _evict(self) -> None:
        """Let queues that nobody uses come to rest, and those that are empty go if their policy says so."""
        self._sweep = None
        now = self._now()
        left = _MAX_EVICTED
        while self._used and left:
            queue, used = next(iter(self._used.items()))
            if now - used < (KEEP if len(self._used) <= MOST_USED else _KEEP_BEYOND) * 1e6:
                break
            left -= 1
            if not queue.idle or any(queue in busy for busy in self._busy):
                self._used[queue] = now
                self._used.move_to_end(queue)
            else:
                del self._used[queue]
                self._let_go(queue, used)
        for queue in self._idle.due(now, _MAX_EVICTED):
            if not queue.policy.max_idle:
                self.notice(queue)
            elif queue.waiting or not queue.idle or self._directory.connected(queue):
                self._idle.set(queue, now + int(KEEP / 4 * 1e6))
            else:
                self.unused(queue)
        if self._used or self._idle:
            pause = KEEP if len(self._used) <= MOST_USED else _KEEP_BEYOND
            self._sweep = self._clock.callLater(pause / 4 if left else 0, self._evict)

    def _let_go(self, queue: Queue, used: int) -> None:
        """A queue was not used since `used`, and there is nothing that it waits for."""
        if queue.used:
            queue.used = 0
            for reader in queue.readers:
                reader.evict()
        if queue.policy.max_idle:
            self._idle.set(queue, used + queue.policy.max_idle * 1000)
            return
        self._directory.forget(queue)
        if not self.rest(queue):
            self._used[queue] = self._now()

    def stop(self) -> None:
        """Leave no timer behind."""
        self._stopped = True
        if self._sweep is not None and self._sweep.active():
            self._sweep.cancel()
