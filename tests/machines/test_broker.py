"""A broker under any policies, whose store may crash between any two steps, against what its users were told."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.core.burst import Burst
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination, queue
from broker.core.journal import RETRY_AFTER
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.errors import BrokerError
from broker.storage import unfolded
from broker.storage.memory import MemoryStore
from broker.storage.sqlite import SQLiteStore
from tests.core.support import Bench, Holding, result, start
from tests.machines.model import DEAD, QUEUES, SOURCES, TOPICS, Held, Model, Sent, policies
from tests.storage.support import inline_store

_queues = st.sampled_from(QUEUES)
_destinations = st.sampled_from([queue("a"), queue("a"), queue("b"), *TOPICS])
_messages = st.builds(
    Message,
    priority=st.sampled_from([0, 0, 0, 3]),
    group=st.sampled_from(["", "x", "x", "y"]),
    ttl=st.sampled_from([0, 0, 0, 0, 8_000, 30_000]),
    delay=st.sampled_from([*[0] * 9, 1, 5_000, 15_000]),
)
#: What nothing is wished for, several of which are put in together.
_plain = st.just(Message())
#: Called once a message is confirmed, and if it is refused.
Outcome: TypeAlias = tuple[Callable[[object], None], Callable[[object], None]]
#: What follows a publish at once.
_afterwards = st.sampled_from([*["settle"] * 4, *["go on"] * 3, "crash"])
#: At least this share of the runs has a crash in it, not counting the one in the end of each.
CRASHES = 0.3


class BrokerMachine(RuleBasedStateMachine):
    """Publishes, consumers and crashes in any order."""

    #: Runs, and those with a crash.
    runs: ClassVar[int] = 0
    crashes: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.run = 0
        self.subscriptions: list[Subscription] = []
        #: What broke a promise where nobody looks.
        self.wrong: list[AssertionError] = []
        #: What was published with a key, and when: first, and last.
        self.keys: dict[Destination, tuple[Message, list[Sent], float, float] | None] = {}

    @initialize(policies=policies, emptied=st.sampled_from([*[False] * 7, True]))
    def begin(self, policies: Policies, emptied: bool) -> None:
        #: Queues are purged and deleted; where they are, little can be lost.
        self.emptied = emptied
        self.model = Model(policies)
        self.bench = Bench(self.store(), policies)
        self.bench.memory.hold = True

    def store(self) -> MemoryStore | Holding:
        return MemoryStore()

    # -- helpers

    @property
    def broker(self) -> Any:
        return self.bench.broker

    @property
    def now(self) -> float:
        return self.bench.passed

    def got(self, delivery: Delivery, holder: object) -> Held:
        return self.model.got(delivery, self.run, self.now, holder)

    def crash(self) -> None:
        self.run += 1
        self.subscriptions.clear()
        self.model.crashed()
        for to in list(self.keys):
            if not self.model.of(to.name).durable:
                del self.keys[to]
        self.bench.boot()

    def settle_down(self) -> None:
        """Let every commit happen until nothing moves."""
        for _ in range(200):
            self.bench.turn(RETRY_AFTER if self.broker.trouble else 0)
            if self.bench.memory.held is None:
                return
            self.bench.memory.release_commit()
        raise AssertionError("commits without end")

    def post(self, to: Destination, message: Message) -> tuple[Message, list[Sent]]:
        """What is about to be published: with its number, and as the copies that come of it."""
        number = self.model.posts
        sources = {name: self.broker.sources(name) for name in QUEUES}
        copies = self.model.post(to, message, sources, self.now)
        fields = {name: getattr(message, name) for name in ("priority", "group", "ttl", "delay", "key")}
        return Message(body=b"%d" % number, **fields), copies

    def outcome(self, message: Message, copies: list[Sent]) -> Outcome:
        """What is to be called once they are confirmed, and if they are refused."""
        run = self.run

        def confirmed(_: object) -> None:
            if run == self.run:
                for sent in copies:
                    sent.confirmed = True

        def refused(_: object) -> None:
            if run == self.run and not message.key:
                for sent in copies:
                    sent.refused = True

        return confirmed, refused

    def publish_copies(self, to: Destination, message: Message, copies: list[Sent]) -> None:
        confirmed, refused = self.outcome(message, copies)
        try:
            _ = self.broker.publish(to, message).addCallbacks(confirmed, refused)
        except BrokerError:
            refused(None)

    def put_in(self, gathered: list[tuple[Burst, Outcome]]) -> None:
        """Bursts, each with its outcome, as one."""
        some = gathered[:]
        gathered.clear()

        def told(error: BrokerError | None) -> None:
            for _, (confirmed, refused) in some:
                (refused if error else confirmed)(error)

        if some:
            self.broker.put([burst for burst, _ in some], told)

    # -- producers

    @rule(sends=st.lists(st.tuples(_destinations, _plain | _messages), min_size=1, max_size=5), then=_afterwards)
    def publish(self, sends: list[tuple[Destination, Message]], then: str) -> None:
        """As fronts do: what is plain is put in together."""
        gathered: list[tuple[Burst, Outcome]] = []
        for to, wished in sends:
            message, copies = self.post(to, wished)
            burst = self.broker.burst(to)
            if burst is None or not burst.takes(message):
                self.put_in(gathered)
                self.publish_copies(to, message, copies)
                continue
            if gathered and (burst.alone or gathered[-1][0].alone):
                self.put_in(gathered)
            burst.add(message)
            gathered.append((burst, self.outcome(message, copies)))
        self.put_in(gathered)
        if then == "settle":
            self.settle_down()
        elif then == "crash":
            self.crash()

    @rule(to=st.sampled_from([queue("a"), queue("b")]), message=_messages)
    def publish_with_a_key(self, to: Destination, message: Message) -> None:
        """The same message again while its key is known: it is there once."""
        window = self.model.of(to.name).dedup_window / 1000
        if not window or (to in self.keys and self.keys[to] is None):
            return
        known = self.keys.get(to)
        if known is None or self.now > known[3] + window:
            message, copies = self.post(to, Message(priority=message.priority, group=message.group, key="k"))
            for sent in copies:
                sent.forgone |= sent.home != to.name  # when it is sent again, others may be bound
                sent.unordered = True  # and it may be behind what was sent meanwhile
            known = message, copies, self.now, self.now
        elif self.now >= known[2] + window:
            return  # it may be known still, or not any more
        for sent in known[1]:
            if not sent.confirmed and sent.ends < inf:
                # If this is the first time that it is stored, its life begins now; nobody knows.
                sent.ends, sent.forgone = sent.ends + self.now - sent.at, True
        self.keys[to] = (*known[:3], self.now)
        self.publish_copies(to, known[0], known[1])

    @rule(name=_queues, source=st.sampled_from(list(SOURCES)), bound=st.sampled_from([True, True, False]))
    def bind(self, name: str, source: Destination, bound: bool) -> None:
        if bound:
            self.model.bound(name)
            _ = start(self.broker.bind(name, source, match=SOURCES[source])).addErrback(lambda _: None)
        else:
            _ = start(self.broker.unbind(name, source)).addErrback(lambda _: None)
            self.settle_down()  # what is published meanwhile may ride in its commit, and come all the same

    # -- consumers

    @rule(name=_queues, leased=st.booleans(), times=st.integers(1, 3), most=st.integers(1, 4))
    def take(self, name: str, leased: bool, times: int, most: int) -> None:
        for _ in range(times):
            self.take_some(name, leased, most)

    def take_some(self, name: str, leased: bool, most: int = 1) -> None:
        taken: list[Any] = []
        run = self.run
        self.model.used(name)

        async def take() -> list[Delivery]:
            delivery = await self.broker.take(name, leased=leased, lease=3_000)
            return self.broker.with_share(delivery, most, 1 << 20, leased=leased, lease=3_000) if delivery else []

        _ = start(take()).addBoth(taken.append)
        for _ in range(5):
            if not taken and self.bench.memory.held is not None:
                self.bench.memory.release_commit()
        assert run == self.run
        for delivery in taken[0] if taken and isinstance(taken[0], list) else ():
            held = self.got(delivery, object())
            self.model.hands.append(held)
            if leased:
                self.model.failed(held)  # it may lapse

    @rule(name=st.sampled_from([*QUEUES, DEAD]), prefetch=st.integers(1, 3))
    def subscribe(self, name: str, prefetch: int) -> None:
        run = self.run
        self.model.used(name)

        def deliver(delivery: Delivery) -> None:
            if run != self.run:
                return
            try:
                self.model.hands.append(self.got(delivery, subscription))
                same = [other for other in self.subscriptions if other.queue is subscription.queue]
                assert same[0] is subscription or not self.model.of(name).exclusive, "another has the queue"
            except AssertionError as error:
                self.wrong.append(error)  # the broker would log it, and go on

        subscription: Subscription = self.broker.subscribe(queue(name), deliver, prefetch=prefetch)
        self.subscriptions.append(subscription)

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.subscriptions))
        self.subscriptions.remove(gone)
        self.broker.unsubscribe(gone)
        for held in self.model.hands:
            if held.holder is gone:
                self.model.failed(held)
        self.broker.nack(list(gone.unsettled), reason="connection lost")

    def hand(self, data: st.DataObject) -> Held:
        held = data.draw(st.sampled_from(self.model.hands))
        self.model.hands.remove(held)
        return held

    @precondition(lambda self: self.model.hands)
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

    @precondition(lambda self: self.model.hands)
    @rule(data=st.data(), counted=st.booleans(), delay=st.sampled_from([None, 0, 3_000]))
    def give_back(self, data: st.DataObject, counted: bool, delay: int | None) -> None:
        held = self.hand(data)
        if counted:
            self.model.failed(held)
            self.broker.nack([held.delivery], delay=delay)
        else:
            self.broker.release([held.delivery])

    @precondition(lambda self: self.model.hands)
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        held = self.hand(data)
        if held.delivery.on_loan and not held.delivery.claimed:
            self.model.failed(held, times=100)
            policy = self.model.of(held.delivery.queue)
            held.sent.forgone |= not policy.dead_letter
            _ = self.broker.reject([held.delivery]).addErrback(lambda _: None)

    @rule(name=st.sampled_from(["a", "b"]), settled=st.booleans())
    def fail_twice(self, name: str, settled: bool) -> None:
        """Often enough for a message to die."""
        for _ in range(2):
            self.take_some(name, False)
            for held in [held for held in self.model.hands if held.delivery.queue == name]:
                self.model.hands.remove(held)
                self.model.failed(held)
                self.broker.nack([held.delivery])
            self.bench.turn(1.1)
        if settled:
            self.settle_down()

    @precondition(lambda self: self.model.hands)
    @rule(data=st.data(), to=st.lists(_destinations, min_size=1, max_size=3), message=_messages, commit=st.booleans())
    def move_in_a_transaction(self, data: st.DataObject, to: list[Destination], message: Message, commit: bool) -> None:
        first = self.hand(data)
        if not first.delivery.on_loan or first.delivery.claimed:
            return
        transaction = self.broker.begin()
        copies: list[Sent] = []
        try:
            for destination in to:
                numbered, sents = self.post(destination, message)
                copies += sents
                transaction.publish(destination, numbered)
        except BrokerError:
            commit = False
        transaction.ack([first.delivery])
        if not commit:
            transaction.abort()
            assert first.delivery.on_loan
            for sent in copies:
                sent.refused = True
            self.broker.release([first.delivery])
            return
        first.sent.acked = True
        run = first.sent.asked = self.run

        def committed(_: object) -> None:
            if run == self.run:
                for sent in (*copies, first.sent):
                    sent.confirmed = True
                first.sent.answered = True

        def failed(_: object) -> None:
            if run == self.run:
                first.sent.acked = False
                for sent in copies:
                    sent.refused = True
                self.broker.release([first.delivery])

        transaction.commit().addCallbacks(committed, failed)

    # -- whole queues

    @precondition(lambda self: self.emptied)
    @rule(name=_queues)
    def purge(self, name: str) -> None:
        self.model.forgo(name)
        _ = start(self.broker.purge(name)).addErrback(lambda _: None)

    @precondition(lambda self: self.emptied)
    @rule(name=_queues)
    def delete(self, name: str) -> None:
        if self.broker.bound(queue(name)):
            return
        self.model.forgo(name)
        self.keys[queue(name)] = None  # whether it is known from now on is nobody's business
        _ = start(self.broker.delete(name)).addErrback(lambda _: None)

    # -- the store

    @precondition(lambda self: self.bench.memory.held is not None)
    @rule(times=st.integers(1, 5))
    def commit(self, times: int) -> None:
        for _ in range(times):
            if self.bench.memory.held is not None:
                self.bench.memory.release_commit()

    @precondition(lambda self: self.bench.memory.held is not None)
    @rule()
    def fail(self) -> None:
        self.bench.memory.fail_commit()

    @rule(seconds=st.sampled_from([0, 1.1, 6, 20, 100]))
    def time_passes(self, seconds: float) -> None:
        self.bench.turn(seconds)

    @rule(how=st.sampled_from(["before the commit", "after the commit", "stopped"]))
    def crash_and_start(self, how: str) -> None:
        memory, old = self.bench.memory, self.run
        if how == "after the commit" and memory.held is not None:
            # On disk, and nobody was told: the old broker's answers do not count.
            self.run = -1
            memory.release_commit()
            self.run = old
        elif how == "stopped":
            stopped = start(self.broker.stop())
            self.settle_down()
            result(stopped)
        self.crash()

    # -- what always holds

    @rule()
    def everything_is_answered(self) -> None:
        """Once the store commits again, everybody has an answer."""
        self.settle_down()
        assert all(sent.answered for sent in self.model.sent.values() if sent.acked and sent.asked == self.run)

    @invariant()
    def nothing_is_wrong(self) -> None:
        if self.wrong:
            raise self.wrong[0]

    @invariant()
    def nobody_idle_while_work_waits(self) -> None:
        if self.bench.memory.held is None:
            self.bench.turn()
        if self.bench.memory.held is not None or self.broker.trouble:
            return
        for subscription in self.subscriptions:
            policy = self.model.of(subscription.destination.name)
            if policy.paused or policy.rate or policy.exclusive or policy.groups or policy.max_on_loan:
                continue
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

    def teardown(self) -> None:
        """Everything confirmed is there, in order; nothing whose ack was answered."""
        if not hasattr(self, "bench"):
            return
        type(self).runs += 1
        type(self).crashes += self.run > 0
        # What is in the queues is to be seen, without its policies.
        kept = [Rule(name, {"expire_to": self.model.of(name).expire_to}) for name in ("a", "b")]
        self.bench.policy, self.model.draining = Policies(Policy(), kept), True
        self.crash()
        self.settle_down()
        self.bench.turn(40)  # every lease is over: after two crashes what is on loan holds up the others
        self.settle_down()
        drained: dict[str, list[Sent]] = {name: [] for name in (*QUEUES, DEAD)}
        for name, sents in drained.items():
            before = None
            while True:
                taken: list[Any] = []
                _ = start(self.broker.take(name)).addBoth(taken.append)
                self.settle_down()
                if taken[0] is None:
                    # After two crashes one that expires, and is on its way elsewhere, holds up what follows.
                    waiting = self.broker.queue_stats(name).ready
                    if waiting in (0, before):
                        break
                    before = waiting
                    continue
                sents.append(self.got(taken[0], self).sent)
                _ = self.broker.ack([taken[0]]).addErrback(lambda _: None)
        self.model.judge(drained, self.now)


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


@pytest.mark.parametrize(("machine", "examples"), [(BrokerMachine, 300), (SQLiteMachine, 50)])
def test_a_broker_keeps_its_promises_whenever_it_crashes(machine: type[BrokerMachine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
    assert machine.crashes >= CRASHES * machine.runs > 0, f"{machine.crashes} of {machine.runs} runs had a crash"
