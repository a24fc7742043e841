"""Moving: what cannot be delivered goes to another queue, with its reason, in the commit that settles it here.

A message on its way is on loan to nobody. If its target is full or paused, or the store does not commit, it stays
where it is, its queue says why (`Queue.blocked`), and it is tried again.
"""

from __future__ import annotations

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
from broker.errors import QueueFull
from broker.core.unit import Unit

#: Seconds until what could not be moved is tried again.
RETRY_AFTER = 1.0
#: Moves begun in one reactor turn.
MAX_PER_TURN = 500


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
        self._waiting: list[Move] = []
        self._call: IDelayedCall | None = None
        self._stopped = False

    def move(self, moves: list[Move]) -> None:
        """Begin to move these; each is on loan to nobody until it is gone."""
        self._waiting += moves
        self._begin()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _begin(self) -> None:
        """Begin what can be moved now; look again later at what cannot."""
        if self._stopped:
            return
        waiting, self._waiting = self._waiting[:MAX_PER_TURN], self._waiting[MAX_PER_TURN:]
        blocked = [move for move in waiting if not self._begun(move)]
        # More at once only while it goes on: what is blocked is looked at once a second, however much it is.
        later = 0.0 if self._waiting and len(blocked) < len(waiting) else RETRY_AFTER
        self._waiting += blocked
        if self._waiting and (self._call is None or not self._call.active()):
            self._call = self._clock.callLater(later, self._begin)

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
            route = self._publishing.route(destination, message)
        except QueueFull:
            source.blocked = f"{move.target} is full"
            return False
        source.blocked = ""
        appends = [route.append] if route.append is not None else []
        settles = [(delivery.reader, delivery.seq)] if delivery.reader.lane.durable else []
        unit = Unit(appends, message.size, settles=[*settles, *route.settles])

        def ended(committed: bool) -> None:
            self._publishing.ended(route, committed)
            if not committed:
                source.blocked = "the store does not commit"
                self.move([move])
                return
            source.leaving -= 1
            if delivery.on_loan:
                delivery.reader.settle(delivery.seq, delivery.message)
                source.counts.moved += 1
                self._stats.moved += 1
            self._gone(source)

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
