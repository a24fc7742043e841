"""A broker whose store may crash between any two steps, against what its users were told.

The model knows only what clients know: what was confirmed, what was delivered to whom, which acks were answered.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.journal import RETRY_AFTER
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.storage import unfolded
from broker.storage.memory import MemoryStore
from broker.storage.sqlite import SQLiteStore
from tests.core.support import Bench, Holding, result, start
from tests.storage.support import inline_store

QUEUES = ("a", "b")
_queues = st.sampled_from(QUEUES)


@attrs.define(eq=False)
class Sent:
    """A message as its producer knows it."""

    number: int
    queue: str
    priority: int
    confirmed: bool = False
    #: In which run of the broker it was delivered, each time.
    delivered: list[int] = attrs.field(factory=list)
    #: It went to the dead letter queue.
    moved: bool = False
    #: It was to come later.
    delayed: bool = False
    #: An ack was asked for; it was answered.
    acked: bool = False
    #: In which run.
    asked: int = -1
    answered: bool = False
    #: Purged or exhausted: it may be gone.
    forgone: bool = False


@attrs.define(eq=False)
class Held:
    """A message in a client's hands."""

    run: int
    sent: Sent
    delivery: Delivery


class BrokerMachine(RuleBasedStateMachine):
    """Publishes, consumers and crashes in any order."""

    policies = Policies()
    #: Queue a's dead letters go to b.
    moves = False

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.store(), self.policies)
        self.bench.memory.hold = True
        self.run = 0
        self.sent: list[Sent] = []
        self.subscriptions: list[Subscription] = []
        #: What clients have in hand in this run.
        self.hands: list[Held] = []

    def store(self) -> MemoryStore | Holding:
        return MemoryStore()

    # -- helpers

    @property
    def broker(self) -> Any:
        return self.bench.broker

    def got(self, delivery: Delivery) -> Held:
        """A message came into a client's hands."""
        sent = self.sent[int(delivery.message.body)]
        assert not sent.answered, f"{sent} came back after its ack was answered"
        if "origin" in delivery.message.headers and not sent.moved:
            sent.moved = True  # a new life in another queue
            sent.delivered.clear()
        assert delivery.queue == ("b" if sent.moved else sent.queue)
        if any(run != self.run for run in sent.delivered):
            assert delivery.redelivered, f"{sent} was delivered before, and is not marked"
        sent.delivered.append(self.run)
        return Held(self.run, sent, delivery)

    def crash(self) -> None:
        self.run += 1
        self.subscriptions.clear()
        self.hands.clear()
        self.bench.boot()

    def settle_down(self) -> None:
        """Let every commit happen until nothing moves."""
        for _ in range(200):
            self.bench.turn(RETRY_AFTER if self.broker.trouble else 0)
            if self.bench.memory.held is None:
                return
            self.bench.memory.release_commit()
        raise AssertionError("commits without end")

    # -- producers

    @rule(name=_queues, priority=st.sampled_from([0, 0, 0, 3]))
    def publish(self, name: str, priority: int) -> None:
        sent = Sent(len(self.sent), name, priority)
        self.sent.append(sent)
        message = Message(body=b"%d" % sent.number, priority=priority)
        self._confirm(self.broker.publish(queue(name), message), [sent])

    @rule(name=_queues, delay=st.sampled_from([1, 5_000, 15_000]))
    def publish_for_later(self, name: str, delay: int) -> None:
        sent = Sent(len(self.sent), name, 0, delayed=True)
        self.sent.append(sent)
        self._confirm(self.broker.publish(queue(name), Message(body=b"%d" % sent.number, delay=delay)), [sent])

    @rule(name=_queues)
    def publish_to_topic(self, name: str) -> None:
        """A queue's binding brings it what its topic gets."""
        if topic(f"t-{name}") not in self.broker.sources(name):
            return
        sent = Sent(len(self.sent), name, 0)
        self.sent.append(sent)
        self._confirm(self.broker.publish(topic(f"t-{name}"), Message(body=b"%d" % sent.number)), [sent])

    @rule(name=_queues)
    def bind(self, name: str) -> None:
        _ = start(self.broker.bind(name, topic(f"t-{name}"))).addErrback(lambda _: None)

    def _confirm(self, deferred: Any, sents: list[Sent]) -> None:
        run = self.run

        def confirmed(_: object) -> None:
            if run == self.run:
                for sent in sents:
                    sent.confirmed = True

        deferred.addCallbacks(confirmed, lambda _: None)

    # -- consumers

    @rule(name=_queues)
    def take(self, name: str) -> None:
        taken: list[Any] = []
        run = self.run
        _ = start(self.broker.take(name)).addBoth(taken.append)
        for _ in range(5):
            if not taken and self.bench.memory.held is not None:
                self.bench.memory.release_commit()
        assert run == self.run
        if taken and isinstance(taken[0], Delivery):
            self.hands.append(self.got(taken[0]))

    @rule(name=_queues, prefetch=st.integers(1, 3))
    def subscribe(self, name: str, prefetch: int) -> None:
        run = self.run

        def deliver(delivery: Delivery) -> None:
            if run == self.run:
                self.hands.append(self.got(delivery))

        self.subscriptions.append(self.broker.subscribe(queue(name), deliver, prefetch=prefetch))

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.subscriptions))
        self.subscriptions.remove(gone)
        self.broker.unsubscribe(gone)
        self.broker.nack(list(gone.unsettled), reason="connection lost")

    def hand(self, data: st.DataObject) -> Held:
        held = data.draw(st.sampled_from(self.hands))
        self.hands.remove(held)
        return held

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        held = self.hand(data)
        if not held.delivery.on_loan or held.delivery.claimed:  # claimed: on its way out
            return
        held.sent.acked = True
        run = held.sent.asked = self.run

        def answered(_: object) -> None:
            if run == self.run:
                held.sent.answered = True

        _ = self.broker.ack([held.delivery]).addCallbacks(answered, lambda _: None)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), counted=st.booleans())
    def give_back(self, data: st.DataObject, counted: bool) -> None:
        held = self.hand(data)
        (self.broker.nack if counted else self.broker.release)([held.delivery])

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), name=_queues, commit=st.booleans())
    def move_in_a_transaction(self, data: st.DataObject, name: str, commit: bool) -> None:
        first = self.hand(data)
        if not first.delivery.on_loan or first.delivery.claimed:
            return
        transaction = self.broker.begin()
        sent = Sent(len(self.sent), name, 0)
        self.sent.append(sent)
        transaction.publish(queue(name), Message(body=b"%d" % sent.number))
        transaction.ack([first.delivery])
        if not commit:
            transaction.abort()
            assert first.delivery.on_loan
            self.broker.release([first.delivery])
            return
        first.sent.acked = True
        run = first.sent.asked = self.run

        def committed(_: object) -> None:
            if run == self.run:
                sent.confirmed = first.sent.answered = True

        def failed(_: object) -> None:
            if run == self.run:
                assert first.delivery.on_loan or first.delivery.orphaned
                first.sent.acked = False
                self.broker.release([first.delivery])

        transaction.commit().addCallbacks(committed, failed)

    @rule(name=_queues)
    def purge(self, name: str) -> None:
        if self.moves and name == "b":
            return
        for sent in self.sent:
            if sent.queue == name:
                sent.forgone = True
        _ = start(self.broker.purge(name)).addErrback(lambda _: None)

    @rule(name=_queues)
    def delete(self, name: str) -> None:
        if self.moves and name == "b":
            return
        for sent in self.sent:
            if sent.queue == name:
                sent.forgone = True
        _ = start(self.broker.delete(name)).addErrback(lambda _: None)

    @rule(name=_queues)
    def unbind(self, name: str) -> None:
        _ = start(self.broker.unbind(name, topic(f"t-{name}"))).addErrback(lambda _: None)

    # -- the store

    @precondition(lambda self: self.bench.memory.held is not None)
    @rule()
    def commit(self) -> None:
        self.bench.memory.release_commit()

    @precondition(lambda self: self.bench.memory.held is not None)
    @rule()
    def fail(self) -> None:
        self.bench.memory.fail_commit()

    @rule(seconds=st.sampled_from([0, 0, 1.1, 20, 100]))
    def time_passes(self, seconds: float) -> None:
        self.bench.turn(seconds)

    @rule()
    def crash_before_the_commit(self) -> None:
        self.crash()

    @precondition(lambda self: self.bench.memory.held is not None)
    @rule()
    def crash_after_the_commit(self) -> None:
        """On disk, and nobody was told: the old broker's answers do not count."""
        memory, old = self.bench.memory, self.run
        self.run = -1
        memory.release_commit()
        self.run = old
        self.crash()

    @rule()
    def stop_and_start(self) -> None:
        stopped = start(self.broker.stop())
        self.settle_down()
        result(stopped)
        self.crash()

    # -- what always holds

    @rule()
    def everything_is_answered(self) -> None:
        """Once the store commits again, everybody has an answer."""
        self.settle_down()
        assert all(sent.answered for sent in self.sent if sent.acked and sent.asked == self.run)

    @invariant()
    def nobody_idle_while_work_waits(self) -> None:
        if self.bench.memory.held is None:
            self.bench.turn()
        if self.bench.memory.held is not None or self.broker.trouble:
            return
        for subscription in self.subscriptions:
            if subscription.credit > 0:
                if subscription.queue.cautious and subscription.queue.on_loan:
                    continue  # after two crashes, one at a time
                stats = self.broker.queue_stats(subscription.destination.name)
                assert not stats.ready, f"{stats.ready} wait beside {subscription.credit} credit"

    @invariant()
    def counts_agree(self) -> None:
        for name in QUEUES:
            stats = self.broker.queue_stats(name)
            assert stats.ready >= 0
            assert stats.on_loan >= 0

    @initialize()
    def begin(self) -> None:
        self.settle_down()

    def teardown(self) -> None:
        """Everything confirmed is there, in order; nothing whose ack was answered."""
        self.crash()
        self.settle_down()
        self.bench.turn(20)
        self.settle_down()
        found: list[Sent] = []
        for name in QUEUES:
            drained: list[Sent] = []
            while True:
                taken: list[Any] = []
                _ = start(self.broker.take(name)).addBoth(taken.append)
                self.settle_down()
                if taken[0] is None:
                    break
                drained.append(self.got(taken[0]).sent)
                _ = self.broker.ack([taken[0]]).addErrback(lambda _: None)
            places = [(sent.priority, sent.number) for sent in drained if not (sent.delayed or sent.moved)]
            assert places == sorted(places), f"out of order: {places}"
            found += drained
        there = {sent.number for sent in found}
        assert len(there) == len(found), "delivered twice"
        kept = [sent for sent in self.sent if sent.confirmed and not (sent.acked or sent.forgone)]
        lost = [sent for sent in kept if sent.number not in there]
        assert not lost, f"lost: {lost}"


class PolicyMachine(BrokerMachine):
    """The same where messages leave their queue after two failures, and are hidden for a while after the first."""

    policies = Policies(Policy(), [Rule("a", {"max_attempts": 2, "dead_letter": "b", "backoff": (1000,)})])
    moves = True

    @rule(settled=st.booleans())
    def fail_twice(self, settled: bool) -> None:
        """Often enough for a message to die."""
        for _ in range(2):
            self.take("a")
            for held in [held for held in self.hands if held.delivery.queue == "a"]:
                self.hands.remove(held)
                self.broker.nack([held.delivery])
            self.bench.turn(1.1)
        if settled:
            self.settle_down()


class SQLiteMachine(BrokerMachine):
    """The same over a file, which a crash leaves as it is; a few records are enough for a fold."""

    def store(self) -> Holding:
        self.folder = tempfile.mkdtemp()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(unfolded, "FOLD_RECORDS", 4)
        self.open: SQLiteStore | None = None
        return Holding(self.after_crash)

    def after_crash(self) -> SQLiteStore:
        if self.open is not None:
            self.open._file.close()
        self.open = inline_store(Path(self.folder) / "data.sqlite")
        return self.open

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            assert self.open is not None
            self.open._file.close()
            self.patch.undo()
            shutil.rmtree(self.folder)


TestBrokerOverSQLite = SQLiteMachine.TestCase
TestBrokerOverSQLite.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPolicies = PolicyMachine.TestCase
TestPolicies.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestBroker = BrokerMachine.TestCase
TestBroker.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
