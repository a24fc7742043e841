"""A broker over a memory store, with a clock of its own: what the core's tests stand on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.core.message import Message
from broker.core.policy import Policy
from broker.core.store import IStore
from broker.storage.memory import MemoryStore

T = TypeVar("T")

#: The wall clock's first second.
EPOCH = 1_700_000_000


def start(coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Run a coroutine as far as it goes."""
    return Deferred.fromCoroutine(coroutine)


def result(deferred: Deferred[T]) -> T:
    """What the Deferred has fired with; raises what it failed with."""
    results: list[T | Failure] = []
    _ = deferred.addBoth(results.append)
    if not results:
        raise AssertionError("the Deferred has not fired")
    outcome = results[0]
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return outcome


class Bench:
    """A broker on the bench: its store, its clock, and one start after the other."""

    def __init__(self, store: IStore | None = None, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        self.memory = MemoryStore()
        self.store: IStore = store or self.memory
        self.policy = policy
        self.passed = 0.0
        self.boot()

    def boot(self) -> None:
        """Start a broker over the store as it is; an earlier one is left as if it had been killed."""
        hold, self.memory.hold = self.memory.hold, False
        self.clock = Clock()
        self.clock.advance(self.passed)
        self.broker = Broker(self.store, self.clock, policy=self.policy, wall=self._wall(self.clock))
        result(start(self.broker.start()))
        self.memory.hold = hold

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and every call that is due then be made."""
        self.clock.advance(seconds)
        self.passed += seconds
        for _ in range(100):
            if not any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
                return
            self.clock.advance(0)
        raise AssertionError("the broker never comes to rest")

    def body(self, queue: str) -> bytes | None:
        """Take a message now, settle it, and say what was in it."""
        delivery = result(start(self.broker.take(queue)))
        if delivery is None:
            return None
        result(self.broker.ack([delivery]))
        return delivery.message.body

    @staticmethod
    def _wall(clock: Clock) -> Any:
        return lambda: EPOCH + clock.seconds()


def text(body: str, **fields: Any) -> Message:
    """A message with this body."""
    return Message(body=body.encode(), **fields)
