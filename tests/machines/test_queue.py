"""A queue over three lanes, against a model of plain lists: nothing lost, nothing doubled, order, nobody idle."""

from __future__ import annotations

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.core.message import Message, pack
from broker.core.policy import Policy
from broker.core.queue import Queue, Subscription
from broker.core.reader import Lane, Reader
from broker.core.window import Budget

_OWN = Destination(Kind.QUEUE, "q")
#: Failed deliveries after which a message is given up.
_ATTEMPTS = 3


@attrs.define(eq=False)
class Known:
    """A message as the model knows it."""

    priority: int
    stamp: int
    expires: int
    failed: int = 0
    delivery: Delivery | None = None


class QueueMachine(RuleBasedStateMachine):
    """Messages in, consumers coming and going, loans ending in every way, messages leaving memory."""

    def __init__(self) -> None:
        super().__init__()
        budget = Budget()
        self.queue = Queue("q", _OWN, Policy(max_attempts=_ATTEMPTS))
        for number, priority in enumerate((0, 5, 0)):
            lane = Lane(number, _OWN, priority)
            reader = Reader(number + 1, self.queue, lane, budget)
            reader.reserved = 1 << 40
            lane.readers.append(reader)
            self.queue.readers.append(reader)
        self.stored: dict[int, list[Message]] = {0: [], 1: [], 2: []}
        self.now = 0
        self.waiting: dict[int, Known] = {}
        self.subscriptions: list[Subscription] = []

    # -- what the broker would do

    def pump(self) -> None:
        while True:
            while (delivery := self.queue.pair(self.now)) is not None:
                self.check(delivery)
            if not self.queue.lacks:
                break
            for reader in list(self.queue.lacks):
                start = max(reader.window.end, reader.pointer)
                reader.window.end = start
                messages = self.stored[reader.lane.id][start : start + 2]
                reader.window.load(start, len(messages), pack(messages))
        for reader, seq, reason in self.queue.settled:
            if reason != "expired":
                continue  # `end` has seen to it
            gone = self.waiting.pop(self.stored[reader.lane.id][seq].stamp)
            assert 0 < gone.expires <= self.now
        self.queue.settled.clear()

    def check(self, delivery: Delivery) -> None:
        known = self.waiting[delivery.message.stamp]
        assert known.delivery is None, "delivered twice"
        assert not known.expires or self.now < known.expires
        assert delivery.attempts == known.failed
        before = [
            other
            for other in self.waiting.values()
            if other.delivery is None and (not other.expires or self.now < other.expires)
        ]
        assert (known.priority, known.stamp) == min((other.priority, other.stamp) for other in before)
        known.delivery = delivery

    @property
    def on_loan(self) -> list[Known]:
        return [known for known in self.waiting.values() if known.delivery is not None]

    # -- steps

    @rule(lane=st.sampled_from([0, 0, 1, 2]), ttl=st.sampled_from([0, 0, 3]), cached=st.booleans())
    def publish(self, lane: int, ttl: int, cached: bool) -> None:
        self.now += 1
        reader = self.queue.readers[lane]
        message = Message(stamp=self.now, priority=reader.lane.priority, expires=self.now + ttl if ttl else 0)
        self.stored[lane].append(message)
        base, reader.lane.next = reader.lane.next, reader.lane.next + 1
        reader.appended(base, [message], 1, allowance=1000 if cached else 0)
        self.waiting[self.now] = Known(message.priority, self.now, message.expires)
        self.pump()

    @rule(prefetch=st.integers(1, 3))
    def subscribe(self, prefetch: int) -> None:
        subscription = Subscription(self.queue, _OWN, lambda delivery: None, prefetch)
        self.subscriptions.append(subscription)
        self.queue.attach(subscription)
        self.pump()

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.subscriptions))
        self.subscriptions.remove(gone)
        self.queue.detach(gone)
        for delivery in list(gone.unsettled):
            self.end(self.waiting[delivery.message.stamp], counted=True)
        self.pump()

    @precondition(lambda self: self.on_loan)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.on_loan))
        assert known.delivery is not None
        self.queue.acked(known.delivery)
        del self.waiting[known.stamp]
        self.pump()

    @precondition(lambda self: self.on_loan)
    @rule(data=st.data(), counted=st.booleans())
    def give_back(self, data: st.DataObject, counted: bool) -> None:
        self.end(data.draw(st.sampled_from(self.on_loan)), counted)
        self.pump()

    @rule()
    def forget_what_is_in_memory(self) -> None:
        for reader in self.queue.readers:
            reader.evict()
        self.pump()

    @rule()
    def time_passes(self) -> None:
        self.now += 2
        self.pump()

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def pause_or_resume(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(self.subscriptions))
        subscription.paused = not subscription.paused
        self.queue.credited(subscription)
        self.pump()

    def end(self, known: Known, counted: bool) -> None:
        assert known.delivery is not None
        delivery, known.delivery = known.delivery, None
        known.failed += counted
        kept = self.queue.failed(delivery, counted=counted)
        assert kept is not (counted and known.failed >= _ATTEMPTS)
        if not kept:
            del self.waiting[known.stamp]

    # -- what always holds

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.on_loan == len(self.on_loan)

    @invariant()
    def nobody_idle_while_work_waits(self) -> None:
        free = [k for k in self.waiting.values() if k.delivery is None and (not k.expires or self.now < k.expires)]
        assert not free or all(subscription.credit <= 0 for subscription in self.subscriptions)

    @invariant()
    def prefetch_is_kept(self) -> None:
        assert all(len(subscription.unsettled) <= subscription.prefetch for subscription in self.subscriptions)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
