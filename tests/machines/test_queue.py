"""A queue over three lanes, against a model of plain lists: nothing lost, nothing doubled, order, nobody idle.

With message groups, selectors, consumers of different ranks, and a rate at which messages are looked at.
"""

from __future__ import annotations

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core.consumers import Line, Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind
from broker.core.message import Message, pack
from broker.core.policy import Policy
from broker.core.queue import Queue
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
    group: str = ""
    failed: int = 0
    delivery: Delivery | None = None


class QueueMachine(RuleBasedStateMachine):
    """Messages in, consumers coming and going, loans ending in every way, messages leaving memory."""

    def __init__(self) -> None:
        super().__init__()
        budget = Budget()
        self.queue = Queue("q", _OWN, Policy(max_attempts=_ATTEMPTS))
        self.groups = False
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
            for scan in list(self.queue.lacks):
                window, start = scan.wanted
                window.end = start
                messages = self.stored[scan.reader.lane.id][start : start + 2]
                window.load(start, len(messages), pack(messages))
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
        taker = delivery.subscription
        assert taker is not None
        before = [other for other in self.free if self.may(taker, other)]
        assert (known.priority, known.stamp) == min((other.priority, other.stamp) for other in before)
        if not self.groups:
            ranks = [s.priority for s in self.subscriptions if s is not taker and s.credit > 0 and self.may(s, known)]
            assert taker.priority >= max(ranks, default=taker.priority)
        known.delivery = delivery

    @property
    def free(self) -> list[Known]:
        return [k for k in self.waiting.values() if k.delivery is None and (not k.expires or self.now < k.expires)]

    def may(self, subscription: Subscription, known: Known) -> bool:
        """True if this consumer may get that message now."""
        if subscription.line is not None and known.stamp % 3:
            return False
        if not self.groups or not known.group:
            return True
        holders = {other.delivery.subscription for other in self.on_loan if other.group == known.group}  # type: ignore[union-attr]
        return holders <= {subscription}

    @property
    def on_loan(self) -> list[Known]:
        return [known for known in self.waiting.values() if known.delivery is not None]

    # -- steps

    @initialize(groups=st.booleans())
    def begin(self, groups: bool) -> None:
        self.groups = groups
        self.queue.follow(Policy(max_attempts=_ATTEMPTS, groups=groups))

    @rule(
        lane=st.sampled_from([0, 0, 1, 2]),
        ttl=st.sampled_from([0, 0, 3]),
        cached=st.booleans(),
        group=st.sampled_from(["", "a", "a", "b"]),
    )
    def publish(self, lane: int, ttl: int, cached: bool, group: str) -> None:
        self.now += 1
        reader = self.queue.readers[lane]
        expires = self.now + ttl if ttl else 0
        message = Message(stamp=self.now, priority=reader.lane.priority, expires=expires, group=group)
        self.stored[lane].append(message)
        base, reader.lane.next = reader.lane.next, reader.lane.next + 1
        reader.appended(base, [message], 1, allowance=1000 if cached else 0)
        self.waiting[self.now] = Known(message.priority, self.now, message.expires, group)
        self.pump()

    @rule(prefetch=st.integers(1, 3), selects=st.sampled_from([False, False, True]), priority=st.integers(0, 1))
    def subscribe(self, prefetch: int, selects: bool, priority: int) -> None:
        subscription = Subscription(self.queue, _OWN, lambda delivery: None, prefetch, priority=priority)
        if selects:
            subscription.line = Line(lambda message: message.stamp % 3 == 0)
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
        for subscription in self.subscriptions:
            if subscription.credit > 0:
                assert not [known for known in self.free if self.may(subscription, known)]

    @invariant()
    def a_group_is_worked_on_by_one_at_a_time(self) -> None:
        for group in ("a", "b") if self.groups else ():
            holders = [known.delivery.subscription for known in self.on_loan if known.group == group]  # type: ignore[union-attr]
            assert len(set(holders)) <= 1

    @invariant()
    def prefetch_is_kept(self) -> None:
        assert all(len(subscription.unsettled) <= subscription.prefetch for subscription in self.subscriptions)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
