"""Replays in any order, paused, undone, and killed with a commit under way: nothing comes twice, nothing is lost."""

from __future__ import annotations

from typing import Any

import attrs
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

from broker.core.destination import queue, topic
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.core.replay import Plan, State
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, Holding, result, start
from tests.core.test_replays import bodies, cancel, change, job, put

NEWS, WORK = topic("news"), queue("work")
_picks = st.integers(0, 5)


@attrs.define
class Asked:
    """A replay as it was asked for. Each has a target of its own."""

    move: bool
    #: What there was to put in when it began.
    wanted: list[str]
    undone: bool = False
    taken: list[str] = attrs.field(factory=list)


class ReplayMachine(RuleBasedStateMachine):
    """Replays out of a topic's past and out of a queue."""

    @initialize(limit=st.sampled_from([0, 4]))
    def begin(self, limit: int) -> None:
        memory = MemoryStore()
        self.store = Holding(lambda: memory)
        rules = [Rule("to-*", {"max_messages": limit})]
        topics = TopicPolicy(retain=3_600_000)
        self.on = Bench(self.store, Policies(Policy(), rules, topic_default=topics))
        self.asked: dict[int, Asked] = {}
        self.count = 0
        #: Bodies that were published to the topic, and to the queue; and those that a consumer took out of the queue.
        self.past: list[str] = []
        self.worked: list[str] = []
        self.taken: list[str] = []

    # -- what happens

    @rule(number=st.integers(1, 6), to_queue=st.booleans())
    def publish(self, number: int, to_queue: bool) -> None:
        for _ in range(number):
            self.count += 1
            put(self.on, WORK if to_queue else NEWS, str(self.count))
            (self.worked if to_queue else self.past).append(str(self.count))

    @precondition(lambda self: self.past and self.worked and len(self.asked) < 4)
    @rule(move=st.booleans(), rate=st.sampled_from([0, 2, 10]), odd=st.booleans())
    def replay(self, move: bool, rate: int, odd: bool) -> None:
        id = len(self.asked) + 1
        there = bodies(self.on, "work") if move else self.past
        wanted = [body for body in there if not odd or body[-1] in "13579"]
        plan: dict[str, Any] = {"source": WORK, "waiting": True, "move": True} if move else {"source": NEWS}
        match = "body like '%1' or body like '%3' or body like '%5' or body like '%7' or body like '%9'" if odd else ""
        creating = start(self.on.broker.replays.create(Plan(target=queue(f"to-{id}"), rate=rate, match=match, **plan)))
        self.on.turn()
        assert result(creating).id == id
        self.asked[id] = Asked(move, wanted)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.on.turn(seconds)

    @rule(happened=st.booleans())
    def crash(self, happened: bool) -> None:
        self.store.hold = True
        self.on.turn(0.3)
        if self.store.held is not None and happened:
            self.store.release_commit()
        self.on.boot()
        self.store.hold = False
        self.on.turn()

    @precondition(lambda self: self.asked)
    @rule(pick=_picks, paused=st.booleans())
    def pause_or_resume(self, pick: int, paused: bool) -> None:
        id = self._pick(pick)
        if not job(self.on, id).state.over:
            assert change(self.on, id, paused=paused).state is (State.PAUSED if paused else State.RUNNING)

    @precondition(lambda self: self.asked)
    @rule(pick=_picks, undo=st.booleans())
    def end(self, pick: int, undo: bool) -> None:
        id = self._pick(pick)
        assert cancel(self.on, id, undo=undo).state.over
        if undo:
            self.asked[id].undone = True

    @precondition(lambda self: self.asked)
    @rule(pick=_picks)
    def take(self, pick: int) -> None:
        id = self._pick(pick)
        body = self.on.body(f"to-{id}")
        if body is not None:
            self.asked[id].taken.append(body.decode())

    @rule()
    def take_from_the_queue(self) -> None:
        body = self.on.body("work")
        if body is not None:
            self.taken.append(body.decode())

    def _pick(self, pick: int) -> int:
        return sorted(self.asked)[pick % len(self.asked)]

    # -- what holds

    @invariant()
    def nothing_comes_twice_or_out_of_order(self) -> None:
        for id, asked in self.asked.items():
            waiting = bodies(self.on, f"to-{id}")
            got = asked.taken + waiting
            places = [asked.wanted.index(body) for body in got]
            assert places == sorted(set(places)), f"replay {id}: {got} of {asked.wanted}"
            if asked.undone:
                assert waiting == []

    @invariant()
    def what_is_moved_is_somewhere_once(self) -> None:
        found = self.taken + bodies(self.on, "work")
        for id, asked in self.asked.items():
            if asked.move:
                found += asked.taken + bodies(self.on, f"to-{id}")
        assert sorted(found, key=int) == self.worked

    def teardown(self) -> None:
        """In the end everything that was asked for, and not ended, is there."""
        self.store.hold = False
        for id in self.asked:
            if job(self.on, id).state is State.PAUSED:
                change(self.on, id, paused=False)
        for _ in range(200):
            if all(one.job.state.over for one in self.on.broker.replays.all()):
                break
            for pick in range(len(self.asked)):
                self.take(pick)
            self.on.turn(0.6)
        for id, asked in self.asked.items():
            state = job(self.on, id).state
            assert state in (State.DONE, State.CANCELLED)
            if state is State.DONE and not (asked.move or asked.undone):
                assert asked.taken + bodies(self.on, f"to-{id}") == asked.wanted
        if hasattr(self, "asked"):
            self.nothing_comes_twice_or_out_of_order()
            self.what_is_moved_is_somewhere_once()


def test_replays_keep_their_promises_whenever_the_broker_is_killed() -> None:
    run_state_machine_as_test(ReplayMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
