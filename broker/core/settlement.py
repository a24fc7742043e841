"""Settlement: how loans end. Every ack, nack, release, lapse, touch, purge and drop goes through here.

What is true in memory at once rides to the disk with the next group; only a transaction waits for the disk first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.delivery import Delivery
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.leases import Leases
from broker.core.message import Message, unpack
from broker.core.queue import Queue
from broker.core.reader import UNLOADED, Reader
from broker.core.stats import BrokerStats
from broker.core.store import Failure, Inventory, IStore
from broker.core.supply import Supply
from broker.core.transaction import Nack, Transaction
from broker.core.unit import Unit
from broker.errors import NotFound

#: Loans given back in one reactor turn; a connection that is lost may leave 65,536.
_MAX_GIVEN_BACK = 1_000


@attrs.define(eq=False)
class Settlement:
    """The end of loans, for all queues."""

    _log = Logger()

    _store: IStore
    _clock: IReactorTime
    _now: Callable[[], int]
    _directory: Directory
    _journal: Journal
    _supply: Supply
    _stats: BrokerStats
    #: Still to be given back, in later reactor turns.
    _returning: deque[tuple[Delivery, bool]] = attrs.field(factory=deque, init=False)
    _return: IDelayedCall | None = attrs.field(default=None, init=False)
    _leases: Leases = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._leases = self._supply.leases
        self._leases.lapsed = self._lapsed
        self._supply.usage.unused = self._unused

    async def restore(self, inventory: Inventory) -> None:
        """Take up the loans that a restart keeps: those with a deadline."""
        for state in [state for state in inventory.readers if state.failures]:
            reader = self._directory.readers[state.id]
            for seq, failure in state.failures.items():
                if failure.due <= 0:
                    reader.remember(seq, failure.reason, 0)
                if failure.due:
                    loan = Delivery(reader, seq, UNLOADED, failure.attempts, True, None, abs(failure.due))
                    loan.delayed = failure.due < 0
                    loan.token = "" if loan.delayed else failure.reason
                    if reader.queue.groups is not None and (message := await self.message(reader, seq)) is not None:
                        loan.message = message
                        reader.queue.group_taken(loan)
                    reader.on_loan[seq] = loan
                    self._leases.ends(loan)

    async def message(self, reader: Reader, seq: int) -> Message | None:
        """Message `seq`, which waits or is on loan; None if it cannot be had."""
        if not reader.lane.durable:
            return reader.window.at(seq)
        batches = await self._store.read(reader.lane.id, seq, 1)
        if not batches or not batches[0].base <= seq < batches[0].base + batches[0].count:
            return None
        return unpack(batches[0].count, batches[0].data)[seq - batches[0].base]

    # -- the consumers' words

    def ack(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """`Broker.ack`."""
        acked = self._held(deliveries)
        for delivery in acked:
            self._acked(delivery)
            self._journal.note(delivery.reader, delivery.seq, delivery.seq + 1)
        self._changed(_queues(acked))
        return self._journal.durable()

    def release(self, deliveries: Iterable[Delivery], *, lost: bool = False) -> None:
        """`Broker.release`, and (`lost`) `Broker.lost`."""
        self._returning.extend((delivery, lost) for delivery in deliveries)
        if self._return is None:
            self._give_back_some()

    def _give_back_some(self) -> None:
        self._return = None
        self._give_back_first(_MAX_GIVEN_BACK)
        if self._returning:
            self._return = self._clock.callLater(0, self._give_back_some)

    def _give_back_first(self, count: int) -> None:
        first = [self._returning.popleft() for _ in range(min(count, len(self._returning)))]
        for lost, some in groupby(first, key=lambda one: one[1]):
            self.give_back([delivery for delivery, _ in some], counted=lost, reason="connection lost" if lost else "")

    def stop(self) -> None:
        """What is still to be given back is, at once: the store is to know."""
        if self._return is not None:
            self._return.cancel()
            self._return = None
        self._give_back_first(len(self._returning))

    def give_back(
        self, deliveries: Iterable[Delivery], *, counted: bool, reason: str = "", delay: int | None = None
    ) -> None:
        """`Broker.nack`, and what `release` does piece by piece."""
        given = []
        for delivery in deliveries:
            if not delivery.on_loan:
                continue
            if delivery.claimed:
                delivery.orphaned = True  # its transaction's outcome decides
                continue
            reader, had_deadline = delivery.reader, bool(delivery.due)
            until = self._given_back(delivery, counted, delay)
            if (counted or had_deadline) and delivery.seq not in reader.bits:
                self._journal.fail(reader, delivery.seq, Failure(delivery.attempts, -until, reason))
                reader.remember(delivery.seq, reason, self._now())
            given.append(delivery)
        self._given(_queues(given))

    def reject(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """`Broker.reject`."""
        rejected = self._held(deliveries)
        for delivery in rejected:
            self._rejected(delivery)
            if delivery.seq not in delivery.reader.bits:
                self._journal.fail(delivery.reader, delivery.seq, Failure(delivery.attempts, 0, "rejected"))
        self._given(_queues(rejected))
        return self._journal.durable()

    def _held(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        held = list(deliveries)
        for delivery in held:
            if delivery.claimed or not delivery.on_loan:
                raise NotFound(f"message {delivery.message_id} is not on loan")
        return held

    def _given(self, queues: Iterable[Queue]) -> None:
        """Loans of these queues ended otherwise than well."""
        for queue in queues:
            self._supply.flush(queue)
            if queue.wanted:
                self._supply.pump_soon(queue)

    def settle(self, delivery_id: int) -> Deferred[None]:
        """`Broker.settle`."""
        reader, seq = self._locate(delivery_id)
        delivery = reader.on_loan.get(seq)
        if delivery is not None:
            self._acked(delivery)
        else:
            reader.settle(seq)
            reader.queue.counts.settled += 1
            self._stats.settled += 1
        self._journal.settle(reader, seq, seq + 1)
        self._changed({reader.queue})
        return self._journal.durable()

    async def touch(self, delivery_id: int, lease: int) -> None:
        """`Broker.touch`."""
        reader, seq = self._locate(delivery_id)
        delivery = reader.on_loan.get(seq)
        waits = delivery is None
        if delivery is None or delivery.message is UNLOADED:
            message = await self.message(reader, seq)
            reader, seq = self._locate(delivery_id)
            if message is None:
                raise NotFound("message not found")
            delivery = reader.on_loan.get(seq) or reader.queue.touched(reader, seq, message)
            delivery.lease = delivery.lease or reader.queue.lease_of(reader, seq, message)
        self._stats.touched += 1
        if delivery.due or waits:  # else it lasts as long as its connection
            delivery.due = self._now() + (lease or delivery.lease) * 1000
            self._leases.begin(delivery)
        await self._journal.durable()

    def limit(self, delivery: Delivery, lease: int) -> None:
        """`Broker.limit`. The store need not know: with the broker the connection ends, and the loan."""
        delivery.lease, delivery.due = lease, self._now() + lease * 1000
        self._leases.ends(delivery)

    # -- transactions

    def add(self, unit: Unit, transaction: Transaction) -> None:
        """What the transaction settles and gives back goes into its unit."""
        for delivery in transaction.acks:
            if delivery.reader.lane.durable:
                unit.acks.append(delivery)
        for delivery in (*transaction.nacks, *transaction.rejects):
            if not delivery.reader.lane.durable:
                continue
            attempts, limit = delivery.attempts + 1, delivery.max_attempts
            over = delivery in transaction.rejects or (limit and attempts >= limit)
            if over and not delivery.reader.queue.policy.dead_letter:
                unit.acks.append(delivery)
            else:
                delay = transaction.nacks.get(delivery, Nack()).delay
                until = self._now() + delay * 1000 if delay else 0
                unit.nacks.append((delivery, Failure(attempts, -until, transaction.reason(delivery))))
        for delivery in transaction.releases:
            if delivery.reader.lane.durable:
                unit.nacks.append((delivery, Failure(delivery.attempts)))
        for delivery, lease in transaction.touches.items():
            if delivery.due and delivery.reader.lane.durable:
                due = self._now() + (lease or delivery.lease) * 1000
                unit.nacks.append((delivery, Failure(delivery.attempts, due, delivery.token)))

    def outcome(self, transaction: Transaction, committed: bool) -> None:
        """The transaction is committed, or nothing of it happened."""
        transaction.free()
        if committed:
            for delivery in transaction.acks:
                if delivery.on_loan:
                    self._acked(delivery)
            for delivery, nack in transaction.nacks.items():
                if delivery.on_loan:
                    self._given_back(delivery, counted=True, delay=nack.delay)
                    delivery.reader.remember(delivery.seq, nack.reason, self._now())
            for delivery in transaction.releases:
                if delivery.on_loan:
                    self._given_back(delivery, counted=False)
            for delivery, lease in transaction.touches.items():
                if delivery.on_loan and delivery.due:
                    self._stats.touched += 1
                    delivery.due = self._now() + (lease or delivery.lease) * 1000
                    self._leases.ends(delivery)
            for delivery in transaction.rejects:
                if delivery.on_loan:
                    self._rejected(delivery)
        orphans = [delivery for delivery in transaction.deliveries if delivery.orphaned]
        for delivery in orphans:
            delivery.orphaned = False
        if committed:
            orphans = [delivery for delivery in orphans if not (delivery.due and delivery in transaction.touches)]
        self.give_back(orphans, counted=True, reason="connection lost")
        self._given(_queues(transaction.deliveries))

    # -- whole queues

    async def purge(self, queue: Queue, on_loan: bool) -> int:
        """`Broker.purge`."""
        before = queue.waiting
        if on_loan:
            self._end_loans(queue)
        for reader in queue.readers:
            for low, high in reader.purge(keep_loans=not on_loan):
                self._journal.settle(reader, low, high)
        purged = before - queue.waiting
        self._stats.purged += purged
        await self._journal.durable()
        return purged

    def _unused(self, queue: Queue) -> None:
        self._stats.queues_deleted += 1
        self._stats.queues_expired += 1
        _ = Deferred.fromCoroutine(self.drop(queue)).addErrback(
            lambda failure: self._log.warn(
                "{queue} is unused; not dropped yet: {error}", queue=queue.name, error=failure.getErrorMessage()
            )
        )

    async def drop(self, queue: Queue) -> None:
        """Remove a queue; its subscriptions move to the new one of that name."""
        self._stats.purged += queue.waiting
        self._end_loans(queue)
        for reader in queue.readers:
            reader.on_loan.clear()
            for follower in reader.followers:
                for low, high in follower.follow(reader.bits.cursor, reader.lane.next):
                    self._journal.note(follower, low, high)
        self._directory.drop(queue)
        moved = list(queue.subscriptions)
        if moved:
            following = self._directory.queue(queue.name)
            for subscription in moved:
                subscription.queue = following
                following.attach(subscription)
            self._supply.usage.use(following)
        await self._journal.durable()
        for subscription in moved:
            if subscription.deleted is not None and not subscription.closed:
                subscription.deleted()

    # -- parts

    def _locate(self, delivery_id: int) -> tuple[Reader, int]:
        located = self._directory.locate(delivery_id)
        if located is None:
            raise NotFound("message not found")
        return located

    def _changed(self, queues: Iterable[Queue]) -> None:
        for queue in queues:
            self._supply.changed(queue)

    def _acked(self, delivery: Delivery) -> None:
        self._leases.ended(delivery)
        delivery.reader.queue.acked(delivery)
        self._stats.settled += 1

    def _rejected(self, delivery: Delivery) -> None:
        self._leases.ended(delivery)
        delivery.reader.queue.rejected(delivery)
        self._stats.failed += 1

    def _given_back(self, delivery: Delivery, counted: bool, delay: int | None = None) -> int:
        """End a loan that did not end well; until when the message is hidden (us), 0 if it is not."""
        queue, reader = delivery.reader.queue, delivery.reader
        self._leases.ended(delivery)
        wait = 0
        if counted:
            self._stats.failed += 1
            wait = queue.backoff(delivery.attempts + 1) if delay is None else delay
        else:
            self._stats.released += 1
        until = self._now() + wait * 1000 if wait else 0
        queue.failed(delivery, counted=counted, hidden_until=until)
        hidden = reader.on_loan.get(delivery.seq)
        if hidden is None or not hidden.delayed:
            return 0
        self._leases.ends(hidden)
        return until

    def _end_loans(self, queue: Queue) -> None:
        for delivery in queue.loans():
            self._leases.ended(delivery)
            queue.unlink(delivery)

    def _lapsed(self, deliveries: list[Delivery]) -> None:
        lapsed = [delivery for delivery in deliveries if not delivery.delayed]
        self._stats.lapsed += len(lapsed)
        self.give_back(lapsed, counted=True, reason="lease over")
        shown = [delivery for delivery in deliveries if delivery.delayed]
        for delivery in shown:
            delivery.reader.queue.shown(delivery)
        self._given(_queues(shown))


def _queues(deliveries: Iterable[Delivery]) -> dict[Queue, None]:
    """Where something may be delivered now that these loans are over: what somebody has credit for may be elsewhere."""
    queues: dict[Queue, None] = {}  # in the order of the loans
    for delivery in deliveries:
        queues[delivery.reader.queue] = None
        if delivery.subscription is not None and delivery.subscription.siblings:
            queues.update((sibling.queue, None) for sibling in delivery.subscription.siblings)
    return queues
