"""The temporary queues and topics of a session, and how they go.

A temporary queue is a queue like any other, with a name that nobody can guess. It goes with its session; what a crash
has left goes when a listener opens again. While the session lasts, a subscription without credit keeps the queue there,
so that whoever replies can be told apart from who comes too late.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from broker.core.broker import Broker
from broker.core.consumers import Subscription
from broker.core.destination import Destination, Kind
from broker.stomp.destinations import Form, Names, Target
from broker.stomp.errors import Refused

_log = Logger()
_PREFIX = "temp-queue/"
#: Temporary queues a session may have, those included that a replay needs.
MAX_TEMPORARY = 1000


def start_of(broker: Broker) -> str:
    """What tells the temporary destinations of one start of the broker from those of another."""
    return f"{int(broker.stats.started * 1000):x}"


class Temporaries:
    """One session's."""

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._made: dict[Destination, Subscription] = {}
        self._replays = 0

    def make(self, target: Target) -> None:
        """Have a temporary destination of this session be there."""
        if target.form is Form.TEMPORARY and target.destination.kind is Kind.QUEUE:
            self._keep(target.destination)

    def private(self) -> Destination:
        """A further queue of this session, for nobody else."""
        self._replays += 1
        destination = Destination(Kind.QUEUE, f"{_PREFIX}{self._names.owner}.replay.{self._replays}")
        self._keep(destination)
        return destination

    def _keep(self, destination: Destination) -> None:
        if destination in self._made:
            return
        if len(self._made) >= MAX_TEMPORARY:
            raise Refused("Too many subscriptions", f"at most {MAX_TEMPORARY} temporary queues in a session")
        self._made[destination] = self._broker.subscribe(destination, lambda delivery: None, prefetch=0)

    def drop(self, destination: Destination) -> None:
        """One of them is needed no more."""
        self._broker.unsubscribe(self._made.pop(destination))
        _delete(self._broker, destination.name)

    def end(self) -> None:
        """The session is over."""
        for destination in list(self._made):
            self.drop(destination)


def forget_leftovers(broker: Broker) -> None:
    """Delete what sessions have left that ended with an earlier process."""
    ours = f"{_PREFIX}{start_of(broker)}."
    for name in broker.queues():
        if name.startswith(_PREFIX) and not name.startswith(ours):
            _delete(broker, name)


def _delete(broker: Broker, name: str) -> None:
    _ = Deferred.fromCoroutine(broker.delete(name)).addErrback(
        lambda failure: _log.warn("{queue} is not deleted: {error}", queue=name, error=failure.getErrorMessage())
    )
