"""Watching a queue: what comes in, is delivered and is settled is told to whoever looks for the cause of something.

It costs nothing while nobody does: the readers of a queue that is watched are of another class meanwhile, and the one
method where loans begin is replaced. Nothing else knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.core.delivery import Delivery
from broker.core.destination import Kind
from broker.core.directory import Directory
from broker.core.message import Message
from broker.core.reader import UNLOADED, Reader
from broker.core.supply import Supply
from broker.core.usage import KEEP


class Tell(Protocol):
    """Is told what happened, to which message; it must not raise."""

    def __call__(self, event: str, /, **said: Any) -> None: ...


class Watching:
    """The queues that are watched."""

    def __init__(self, clock: IReactorTime, directory: Directory, supply: Supply) -> None:
        self._clock = clock
        self._directory = directory
        self._supply = supply
        self._tells: dict[str, list[Tell]] = {}
        self._classes: dict[str, type[Reader]] = {}
        self._call: IDelayedCall | None = None

    def watch(self, name: str, tell: Tell) -> Callable[[], None]:
        """Tell from now on what becomes of the messages of this queue, if need be one that is not there yet.

        What is given ends it; it may be called twice.
        """
        tells = self._tells.setdefault(name, [])
        tells.append(tell)
        if len(tells) == 1:
            self._begin(name)

        def end() -> None:
            if tell in tells:
                tells.remove(tell)
                if not tells:
                    self._end(name)

        return end

    def _begin(self, name: str) -> None:
        self._classes[name] = _class(partial(self._told, name))
        self._directory.attached = self._attached
        vars(self._supply)["lent"] = self._lent
        queue = self._directory.find(name)
        for reader in queue.readers if queue is not None else ():
            self._attached(reader)
        if self._call is None:
            self._keep()

    def _end(self, name: str) -> None:
        del self._tells[name], self._classes[name]
        queue = self._directory.find(name)
        for reader in queue.readers if queue is not None else ():
            reader.__class__ = Reader
        if not self._tells:
            self._directory.attached = None
            vars(self._supply).pop("lent", None)
            if self._call is not None:
                self._call.cancel()
                self._call = None

    def _keep(self) -> None:
        """A queue that is in nobody's memory would tell nothing."""
        for name in self._tells:
            queue = self._directory.find(name)
            if queue is not None:
                self._supply.usage.use(queue)
        self._call = self._clock.callLater(KEEP / 2, self._keep)

    def _attached(self, reader: Reader) -> None:
        queue = reader.queue
        if queue.destination.kind is Kind.QUEUE and queue.name in self._classes and type(reader) is Reader:
            reader.__class__ = self._classes[queue.name]
            self._supply.usage.use(queue)

    def _lent(self, delivery: Delivery) -> None:
        queue = delivery.reader.queue
        if queue.name in self._tells and queue.destination.kind is Kind.QUEUE:
            said = {"attempts": delivery.attempts, "redelivered": delivery.redelivered}
            self._told(queue.name, "deliver", **_named(delivery.reader, delivery.seq, delivery.message), **said)
        Supply.lent(self._supply, delivery)

    def _told(self, name: str, event: str, /, **said: Any) -> None:
        for tell in list(self._tells.get(name, ())):
            tell(event, **said)


def _named(reader: Reader, seq: int, message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"id": reader.delivery_id(seq), "message": reader.message_id(seq)}
    if message is UNLOADED:
        return said
    return said | {"size": len(message.body), "headers": message.headers, "body": message.body}


def _class(tell: Tell) -> type[Reader]:
    """What the readers of one queue are while it is watched; it must have no fields of its own."""

    class Watched(Reader):
        __slots__ = ()

        def appended(self, base: int, messages: list[Message], size: int, allowance: int) -> None:
            for seq, message in enumerate(messages, base):
                tell("publish", **_named(self, seq, message))
            super().appended(base, messages, size, allowance)

        def give_back(self, delivery: Delivery, attempts: int) -> None:
            tell("give back", **_named(self, delivery.seq, UNLOADED), attempts=attempts)
            super().give_back(delivery, attempts)

        def hide(self, delivery: Delivery, until: int) -> Delivery:
            tell("give back", **_named(self, delivery.seq, UNLOADED), attempts=delivery.attempts, hidden_until=until)
            return super().hide(delivery, until)

        def settle(self, seq: int, message: Message = UNLOADED) -> bool:
            said = _named(self, seq, UNLOADED)
            on_loan = seq in self.on_loan
            settled = super().settle(seq, message)
            if settled:
                tell("settle", **said, on_loan=on_loan)
            return settled

        def settle_range(self, low: int, high: int) -> list[tuple[int, int]]:
            ranges = super().settle_range(low, high)
            for first, end in ranges:
                tell("settle", id=self.delivery_id(first), count=end - first, on_loan=False)
            return ranges

    return Watched
