"""Transactions: publishes and settlements that are committed as one unit of one group, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from twisted.internet.defer import Deferred

from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.route import Published
from broker.errors import NotFound

#: What an action is counted with beside its message's size (bytes).
_ACTION = 64


@attrs.frozen
class Nack:
    """What is said of a delivery that failed."""

    reason: str = ""
    #: How long the message is hidden (ms); None: the policy's ``backoff``.
    delay: int | None = None


class Transaction:
    """Actions that wait for `commit`. What it acks or nacks stays on loan until then."""

    def __init__(
        self,
        check: Callable[[Destination, Message], None],
        commit: Callable[[Transaction], Deferred[None]],
    ) -> None:
        self._check = check
        self._commit = commit
        self.publishes: list[tuple[Destination, Message]] = []
        self.acks: list[Delivery] = []
        self.nacks: dict[Delivery, Nack] = {}
        self.rejects: list[Delivery] = []
        self.releases: list[Delivery] = []
        #: Loans that begin anew, with their new length (ms); 0: the old one.
        self.touches: dict[Delivery, int] = {}
        #: What became of each publish, once it is committed.
        self.published: list[Published] = []
        #: Bytes it holds.
        self.size = 0
        #: Actions in it.
        self.count = 0
        #: True once it was committed or aborted.
        self.ended = False

    def publish(self, destination: Destination, message: Message) -> None:
        """Publish at commit; refused now for what `Broker.publish` refuses at once."""
        self._open()
        self._check(destination, message)
        self.publishes.append((destination, message))
        self.size += message.size
        self.count += 1

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Settle at commit; `NotFound` if one is not on loan, or in a transaction already."""
        self.acks += self._claim(deliveries)

    def nack(self, deliveries: Iterable[Delivery], *, reason: str = "", delay: int | None = None) -> None:
        """Give back at commit as failed, as `Broker.nack` does; `NotFound` as for `ack`."""
        self.nacks |= dict.fromkeys(self._claim(deliveries), Nack(reason, delay))

    def reject(self, deliveries: Iterable[Delivery]) -> None:
        """Never deliver again, from the commit on; `NotFound` as for `ack`."""
        self.rejects += self._claim(deliveries)

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Give back at commit without counting as failed; `NotFound` as for `ack`."""
        self.releases += self._claim(deliveries)

    def touch(self, deliveries: Iterable[Delivery], lease: int = 0) -> None:
        """Begin these loans anew at commit, for `lease` ms or their own length; `NotFound` as for `ack`."""
        self.touches |= dict.fromkeys(self._claim(deliveries), lease)

    def reason(self, delivery: Delivery) -> str:
        """Why a delivery failed that it nacks or rejects."""
        nack = self.nacks.get(delivery)
        return nack.reason if nack is not None else "rejected"

    @property
    def deliveries(self) -> list[Delivery]:
        """Everything on loan that it concerns."""
        return [*self.acks, *self.nacks, *self.rejects, *self.releases, *self.touches]

    def commit(self) -> Deferred[None]:
        """Make all of it durable and true; fires then. Fails: nothing of it happened, and the transaction is over."""
        self._open()
        self.ended = True
        return self._commit(self)

    def abort(self) -> None:
        """Forget all of it; what it had acked or nacked is on loan as before."""
        self.ended = True
        self.free()
        self.publishes.clear()

    def free(self) -> None:
        """Its deliveries belong to no transaction any more."""
        for delivery in self.deliveries:
            delivery.claimed = False

    def _claim(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        self._open()
        claimed = list(deliveries)
        for delivery in claimed:
            if delivery.claimed or not delivery.on_loan:
                raise NotFound(f"message {delivery.message_id} is not on loan")
        for delivery in claimed:
            delivery.claimed = True
        self.size += _ACTION * len(claimed)
        self.count += len(claimed)
        return claimed

    def _open(self) -> None:
        if self.ended:
            raise NotFound("the transaction is over")
