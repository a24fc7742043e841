"""Moving: what cannot be delivered goes to another queue, with its reason, in the commit that settles it here.

A message on its way is on loan to nobody. If its target is full or paused, or the store does not commit, it stays
where it is, its queue says why (`Queue.blocked`), and it is tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.delivery import Move
from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.message import OVERHEAD, Message
from broker.core.publishing import Publishing
from broker.core.queue import Queue
from broker.core.stats import BrokerStats
from broker.core.unit import Unit
from broker.errors import QueueFull

#: Seconds until what could not be moved is tried again.
RETRY_AFTER = 1.0
#: Messages on their way at a time, and bytes of them (one message, if it is larger): all that a reactor turn begins,
#: and all that a commit has of them. Half of what a turn may handle: what becomes of them is told in their headers.
MAX_MESSAGES = 500
MAX_BYTES = 128 * 1024


class Moving:
    """Moves messages between queues."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], int],
        directory: Directory,
        journal: Journal,
        publishing: Publishing,
        stats: BrokerStats,
        gone: Callable[[Queue], None],
    ) -> None:
        self._clock = clock
        self._now = now
        self._directory = directory
        self._journal = journal
        self._publishing = publishing
        self._stats = stats
        self._gone = gone
        self._waiting: deque[Move] = deque()
        #: Those whose target took nothing when it was last asked.
        self._blocked: list[Move] = []
        #: Messages on their way, and bytes of them.
        self._under_way = self._bytes = 0
        #: Queues that something has left and that have not been told.
        self._left: dict[Queue, None] = {}
        self._next: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._stopped = False

    def move(self, moves: list[Move]) -> None:
        """Begin to move these; each is on loan to nobody until it is gone."""
        self._waiting += moves
        if self._next is None and not self._stopped:
            self._begin()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        for call in (self._next, self._retry):
            if call is not None:
                call.cancel()
        self._next = self._retry = None

    def _begin_soon(self) -> None:
        if (self._waiting or self._left) and self._next is None and not self._stopped:
            self._next = self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        """Begin what can be moved now; look again later at what cannot."""
        self._next = None
        left, self._left = self._left, {}
        for queue in left:
            self._gone(queue)
        begun = size = 0
        blocked: list[Move] = []
        while self._waiting and begun < MAX_MESSAGES > self._under_way:
            length = self._waiting[0].delivery.message.size - OVERHEAD
            if (begun and size + length > MAX_BYTES) or (self._under_way and self._bytes + length > MAX_BYTES):
                break
            begun += 1
            size += length
            move = self._waiting.popleft()
            if not self._begun(move):
                blocked.append(move)
        if blocked:
            self._later(blocked)
        if begun:
            self._begin_soon()  # else when something of what is under way has come to an end

    def _later(self, blocked: list[Move]) -> None:
        """Look once a second at what is blocked, however much it is."""
        self._blocked += blocked
        if self._retry is None and not self._stopped:
            self._retry = self._clock.callLater(RETRY_AFTER, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._waiting += self._blocked
        self._blocked = []
        self._begin_soon()

    def _begun(self, move: Move) -> bool:
        """Start one move; False if its target takes nothing now."""
        delivery, source = move.delivery, move.delivery.reader.queue
        if not delivery.on_loan:
            source.leaving -= 1
            return True  # settled or purged meanwhile
        destination = Destination(Kind.QUEUE, move.target)
        message = self._publishing.accept(destination, self._as_moved(move))
        target = self._directory.find(move.target)
        if target is not None and target.policy.paused:
            source.blocked = f"{move.target} is paused"
            return False
        try:
            if target is not None and target.policy.overflow == "drop_new" and target.room.full_for(message):
                raise QueueFull("what comes would be dropped there")
            route = self._publishing.routing.route(destination, message)
        except QueueFull:
            source.blocked = f"{move.target} is full"
            return False
        source.blocked = ""
        appends = [route.append] if route.append is not None else []
        settles = [(delivery.reader, delivery.seq)] if delivery.reader.lane.durable else []
        unit = Unit(appends, message.size, settles=[*settles, *route.settles])

        size = delivery.message.size - OVERHEAD
        self._under_way += 1
        self._bytes += size

        def ended(committed: bool) -> None:
            self._under_way -= 1
            self._bytes -= size
            self._left[source] = None
            self._begin_soon()
            self._publishing.ended(route, committed)
            if not committed:
                source.blocked = "the store does not commit"
                self._later([move])
                return
            source.leaving -= 1
            if delivery.on_loan:
                delivery.reader.settle(delivery.seq, delivery.message)
                source.counts.moved += 1
                self._stats.moved += 1

        unit.ended = ended
        _ = self._journal.append(unit).addCallbacks(
            lambda numbers: self._publishing.told(route, *numbers[:1]),
            lambda _: None,  # `ended` knows, and tries again
        )
        return True

    def _as_moved(self, move: Move) -> Message:
        """The message as its target gets it: a new life, with what became of the old one in its headers."""
        delivery, message = move.delivery, move.delivery.message
        headers = message.headers | {
            "origin": delivery.message_id,
            "original-destination": str(delivery.reader.queue.destination),
            "dead-letter-reason": move.reason,
            "dead-letter-attempts": str(delivery.attempts),
            "dead-letter-count": str(_deaths(message) + (move.reason != "expired")),
            "dead-letter-time": str(self._now() // 1000),
        }
        return msgspec.structs.replace(message, headers=headers, expires=0, ttl=0, max_attempts=0, delay=0, key="")


def _deaths(message: Message) -> int:
    """How often it failed too often, or was rejected, before."""
    said = message.headers.get("dead-letter-count", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0
