"""Writing MESSAGEs: numbers, what is not wanted, who settles, and who must wait."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.core.browsing import Seen
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.topic import Live, Tell
from broker.outbox import Outbox
from broker.stomp.consumer import AckMode, Consumer
from broker.stomp.destinations import Names
from broker.stomp.dialect import Dialect
from broker.stomp.messages import Tails


class Delivering:
    """The deliveries of one session.

    Whoever wants to stop a consumer's deliveries for a while holds it for a reason of his own; it goes on when all have
    freed it. `full` is called when the client does not take what is written.
    """

    _log = Logger()

    def __init__(
        self,
        broker: Broker,
        outbox: Outbox,
        tails: Tails,
        dialect: Dialect,
        names: Names,
        session: str,
        full: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._outbox = outbox
        self._tails = tails
        self._dialect = dialect
        self._names = names
        self._session = session
        self._full = full
        #: Deliveries made so far: the next one's number.
        self._numbered = 0
        #: Of `auto` subscriptions: written, but not known to have left our send buffer.
        self._unsent: list[Delivery] = []
        #: Delivered and not wanted by their selector; settled in the next reactor turn.
        self._unwanted: list[Delivery] = []

    def to(self, consumer: Consumer) -> Callable[[Delivery], None]:
        """What the core calls with each delivery to this consumer."""
        is_auto, filters = consumer.mode is AckMode.AUTO, consumer.filters
        outbox, tails, dialect, names = self._outbox, self._tails, self._dialect, self._names

        def deliver(delivery: Delivery) -> None:
            if filters and not consumer.wants(delivery.message, self._session):
                self._pass_over(delivery)
                return
            self._numbered += 1
            outbox.write(consumer.lend(self._numbered, delivery) + tails.of(delivery, dialect, names))
            if is_auto:
                if not self._unsent:
                    outbox.when_sent(self._sent)
                self._unsent.append(delivery)
            elif consumer.choked:
                self.hold(consumer, "window")
            if outbox.full:
                self._full()

        return deliver

    def tell(self, consumer: Consumer) -> Tell | None:
        """What the core calls with a topic's messages that nobody will settle; None: each is to be delivered."""
        if consumer.mode is not AckMode.AUTO or consumer.filters:
            return None
        outbox, tails, dialect, names, head = self._outbox, self._tails, self._dialect, self._names, consumer.head()

        def tell(lives: list[Live]) -> bool:
            if outbox.full:
                return False
            outbox.write(head + head.join(tails.of_all(lives, dialect, names)))
            if outbox.full:
                self._full()
            return True

        return tell

    # -- showing

    async def room(self, consumer: Consumer) -> None:
        """Come back when nobody holds the consumer; at the earliest in the next reactor turn."""
        await deferLater(self._broker.clock, 0)
        if consumer.holds and not consumer.closed:
            consumer.freed = Deferred()
            await consumer.freed

    def show(self, consumer: Consumer, seen: Seen) -> None:
        """Write a message that is not taken."""
        self._outbox.write(
            consumer.head(redelivered=seen.attempts > 0, attempts=seen.attempts)
            + self._tails.of(seen, self._dialect, self._names)
        )
        if self._outbox.full:
            self._full()

    def shown(self, consumer: Consumer, queue: Destination) -> None:
        """Write that this was all."""
        headers = {"destination": str(queue), "message-id": "0", "browser": "end"}
        self._outbox.write(consumer.head() + self._tails.last(headers, self._dialect))

    # -- settling by ourselves

    def _pass_over(self, delivery: Delivery) -> None:
        if not self._unwanted:  # not at once: the queue is being pumped
            self._broker.clock.callLater(0, self._settle_unwanted)
        self._unwanted.append(delivery)

    def _settle_unwanted(self) -> None:
        unwanted, self._unwanted = self._unwanted, []
        self._settle(unwanted)

    def _sent(self) -> None:
        """What was delivered to `auto` subscriptions has left our send buffer."""
        sent, self._unsent = self._unsent, []
        self._settle(sent)

    def _settle(self, deliveries: list[Delivery]) -> None:
        settled = self._broker.ack([delivery for delivery in deliveries if delivery.on_loan])
        _ = settled.addErrback(self._not_settled)

    def _not_settled(self, failure: Failure) -> None:
        self._log.warn(
            "{session}: automatic settlement is not on disk: {error}",
            session=self._session,
            error=failure.getErrorMessage(),
        )

    @property
    def unsent(self) -> bool:
        """True if deliveries would go back to their queues only because their bytes are still in our send buffer."""
        return bool(self._unsent)

    # -- waiting

    def hold(self, consumer: Consumer, reason: str) -> None:
        """Deliver nothing more to it."""
        consumer.holds.add(reason)
        for subscription in consumer.subscriptions:
            self._broker.pause(subscription)

    def free(self, consumer: Consumer, reason: str) -> None:
        """Go on, unless somebody else holds it."""
        if reason not in consumer.holds:
            return
        consumer.holds.discard(reason)
        for subscription in consumer.subscriptions:
            if consumer.holds:
                return  # what is delivered meanwhile may fill our send buffer
            self._broker.resume(subscription)
        if not consumer.holds:
            consumer.wake()

    def settled(self, consumer: Consumer) -> None:
        """Something of it was settled, or is about to be."""
        if not consumer.choked:
            self.free(consumer, "window")

    def end(self) -> list[Delivery]:
        """What is written and not sent, to be given back."""
        if self._unwanted:
            self._settle_unwanted()
        left, self._unsent = self._unsent, []
        return left
