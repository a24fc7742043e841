"""A broker over a memory store, with a clock of its own: what the core's tests stand on."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.broker import Broker
from broker.core.message import Message
from broker.core.policy import Policies, Policy
from broker.core.ration import Ration
from broker.core.store import Batch, Committed, Expired, Group, Inventory, IStore, Sizes
from broker.errors import StoreUnavailable
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


@implementer(IStore)
class Holding:
    """A store whose commits can be held, made to happen, and made to fail; opened again, it is what a crash left.

    `after_crash` gives the store as it is found after one.
    """

    def __init__(self, after_crash: Callable[[], IStore]) -> None:
        self.hold = False
        self.commits = 0
        self._after_crash = after_crash
        self._store: IStore | None = None
        self._held: tuple[Group, Deferred[Committed]] | None = None

    def open(self) -> Deferred[Inventory]:
        self._held = None
        self._store = self._after_crash()
        return self._store.open()

    def commit(self, group: Group) -> Deferred[Committed]:
        assert self._store is not None
        assert self._held is None
        if not self.hold:
            self.commits += 1
            return self._store.commit(group)
        held: Deferred[Committed] = Deferred()
        self._held = group, held
        return held

    def read(self, lane: int, seq: int, max_bytes: int) -> Deferred[list[Batch]]:
        assert self._store is not None
        return self._store.read(lane, seq, max_bytes)

    def seek(self, lane: int, stamp: int) -> Deferred[int]:
        assert self._store is not None
        return self._store.seek(lane, stamp)

    def seek_bytes(self, lane: int, size: int) -> Deferred[int]:
        assert self._store is not None
        return self._store.seek_bytes(lane, size)

    def expired(self, lane: int, seq: int, now: int, max_bytes: int) -> Deferred[Expired]:
        assert self._store is not None
        return self._store.expired(lane, seq, now, max_bytes)

    def trim(self, budget: int, keep: Mapping[int, int] = {}) -> Deferred[int]:
        assert self._store is not None
        return self._store.trim(budget, keep)

    def measure(self) -> Deferred[Sizes]:
        assert self._store is not None
        return self._store.measure()

    def close(self) -> Deferred[None]:
        assert self._store is not None
        return self._store.close()

    @property
    def held(self) -> Group | None:
        """The group whose commit is held."""
        return None if self._held is None else self._held[0]

    def release_commit(self) -> None:
        """Let the held commit happen."""
        assert self._store is not None
        assert self._held is not None
        (group, told), self._held = self._held, None
        self.commits += 1
        _ = self._store.commit(group).addCallbacks(told.callback, told.errback)

    def fail_commit(self, error: Exception | None = None) -> None:
        """Let the held commit fail."""
        assert self._held is not None
        (_, told), self._held = self._held, None
        told.errback(error or StoreUnavailable("the commit was made to fail"))


class Bench:
    """A broker on the bench: its store, its clock, and one start after the other."""

    def __init__(self, store: MemoryStore | Holding | None = None, policy: Policy | Policies = Policy()) -> None:  # noqa: B008
        self.memory = store or MemoryStore()
        self.policy: Policy | Policies = policy
        self.passed = 0.0
        self.boot()

    def boot(self) -> None:
        """Start a broker over the store as it is; an earlier one is left as if it had been killed."""
        hold, self.memory.hold = self.memory.hold, False
        self.clock = Clock()
        self.clock.advance(self.passed)
        self.broker = Broker(self.memory, self.clock, policy=self.policy, wall=self._wall(self.clock))
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


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Who counts function calls counts none of the garbage collector's, nor of those who wait for it.

    When it comes depends on all that ran before in this process.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def looked_at_in_each_turn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages all queues looked at in vain, between one ration and the next; the last number still grows."""
    looked = [0]
    take, renew = Ration.take, Ration.renew

    def takes(ration: Ration, size: int) -> bool:
        taken = take(ration, size)
        looked[-1] += taken
        return taken

    def renews(ration: Ration) -> None:
        renew(ration)
        looked.append(0)

    monkeypatch.setattr(Ration, "take", takes)
    monkeypatch.setattr(Ration, "renew", renews)
    return looked
