"""What a broker's users know, and what the policies say follows from it.

The model knows only what clients know: what was confirmed, what was delivered to whom, which acks were answered.
"""

from __future__ import annotations

from math import inf
from typing import Any

import attrs
from hypothesis import strategies as st

from broker.core.delivery import Delivery
from broker.core.destination import Destination, Kind, topic
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule

#: Seconds by which stamps may be ahead of the clock: of messages that come at once each is a microsecond later.
STAMPS = 0.001
#: The third reads what is published to the first, from its first use on.
QUEUES = ("a", "b", "a+c")
#: Where the policies move messages to.
DEAD = "dead"
TOPICS = (topic("t.a"), topic("t.b"))
#: What queues are bound to, with the filters; a binding to the second topic brings its more urgent messages only.
SOURCES = {TOPICS[0]: "", TOPICS[1]: "priority < 2", topic("t.#"): ""}

#: What the policies of queues a and b say: something of every line.
SAID: tuple[tuple[dict[str, Any], ...], ...] = (
    (
        {},
        {"max_messages": 3},
        {"max_bytes": 1_000},
        *({"max_messages": 3, "overflow": overflow} for overflow in ("drop_oldest", "drop_new", "wait")),
    ),
    ({}, {"ttl": 10_000}, {"ttl": 10_000, "expire_to": DEAD}, {"max_ttl": 10_000}, {"delay": 5_000}),
    ({}, {"max_attempts": 2}, {"max_attempts": 2, "dead_letter": DEAD, "backoff": (1_000,)}),
    (
        {},
        {"groups": True},
        {"groups": True, "max_on_loan": 2},
        {"exclusive": True},
        {"rate": 1},
        {"scheduler": "random"},
    ),
    (
        {},
        {"durable": False},
        {"retain": 60_000},
        {"dedup_window": 60_000},
        {"fanout_only": True},
        {"priority": "off"},
        {"paused": True},
    ),
)
# Most lines say nothing in most runs: policies in one another's way show less than one alone.
_said = st.tuples(*(st.sampled_from([{}, *line]) for line in SAID)).map(
    lambda lines: {key: value for line in lines for key, value in line.items()}
)
policies = st.builds(
    lambda a, b, dead: Policies(Policy(), [Rule("a", a), Rule("b", b), Rule(DEAD, dead)]),
    # What is put in together goes to queues that nothing is said of.
    _said | st.just({}),
    _said | st.just({}),
    st.sampled_from([{}, {"max_messages": 1}]),
)


@attrs.define(eq=False)
class Sent:
    """One queue's copy of a message, as its producer knows it."""

    number: int
    home: str
    priority: int
    group: str
    #: When it was sent; when it may be delivered at the earliest, and when not any more (s).
    at: float
    earliest: float
    ends: float
    confirmed: bool = False
    #: Its producer was told that it is not stored.
    refused: bool = False
    #: In which run of the broker it was delivered, each time.
    delivered: list[int] = attrs.field(factory=list)
    #: It went to the dead letters.
    moved: bool = False
    #: Its place among others is not that of its number.
    unordered: bool = False
    #: Deliveries that failed, or may have.
    failed: int = 0
    #: An ack was asked for, in which run; it was answered.
    acked: bool = False
    asked: int = -1
    answered: bool = False
    #: It may be gone: purged, given up, or dropped as the policy says.
    forgone: bool = False


@attrs.define(eq=False)
class Held:
    """A message in a client's hands."""

    sent: Sent
    delivery: Delivery
    #: Whoever has it.
    holder: object


@attrs.define
class Model:
    """All copies, and what was delivered of them."""

    policies: Policies
    sent: dict[tuple[int, str], Sent] = attrs.field(factory=dict)
    posts: int = 0
    #: The policies hold no more.
    draining: bool = False
    #: What clients have in hand in this run.
    hands: list[Held] = attrs.field(factory=list)
    #: Group and priority, in a queue: the last one delivered for the first time in this run.
    _last: dict[tuple[str, str, int], int] = attrs.field(factory=dict)

    def of(self, home: str) -> Policy:
        """A queue's policy."""
        return self.policies.of(home)

    # -- in

    def post(self, to: Destination, message: Message, sources: dict[str, list[Destination]], now: float) -> list[Sent]:
        """A message is about to be sent: the copies that come of it. `sources`: what queues read, beside themselves."""
        number, self.posts = self.posts, self.posts + 1
        own = self.of(to.name) if to.kind is Kind.QUEUE else Policy()
        copies = []
        for home, read in sources.items():
            is_own = to == Destination(Kind.QUEUE, home)
            bindings = [source for source in read if source == to or (to in TOPICS and source.name == "t.#")]
            if is_own and not own.fanout_only:
                sure = True
            elif bindings:
                sure = len(bindings) == 1
                if sure and SOURCES.get(bindings[0]) and message.priority >= 2:
                    continue
            elif message.delay or own.delay:
                sure = False  # it may be bound when the message is due
            else:
                continue
            copies.append(self._copy(number, home, message, own, now, sure, is_own))
        return copies

    def _copy(
        self, number: int, home: str, message: Message, own: Policy, now: float, sure: bool, is_own: bool
    ) -> Sent:
        policy = self.of(home)
        delay = message.delay or own.delay
        lives = [policy.ttl, message.ttl]
        if message.ttl:
            lives += [policy.max_ttl, own.max_ttl]
        life = min((life for life in lives if life), default=0)
        copy = Sent(
            number,
            home,
            0 if "off" in (policy.priority, own.priority) else message.priority,
            message.group,
            now,
            now + delay / 1000,
            now + (delay + life) / 1000 if life else inf,
        )
        bounded = policy.max_messages or policy.max_bytes
        # Who is bound to something full goes without.
        copy.forgone = not sure or policy.overflow.startswith("drop") or bool(not is_own and (bounded or delay))
        copy.unordered = bool(delay) or policy.overflow == "wait" or policy.priority != own.priority
        self.sent[number, home] = copy
        return copy

    def bound(self, home: str) -> None:
        """This queue reads more from now on: of what is on its way to others, it may get copies."""
        for (number, _), sent in list(self.sent.items()):
            if not sent.confirmed and (number, home) not in self.sent:
                # Nothing has happened to it yet, whatever happened to the one it is a copy of.
                self.sent[number, home] = Sent(
                    number, home, sent.priority, sent.group, sent.at, sent.earliest, inf, unordered=True, forgone=True
                )

    def used(self, home: str) -> None:
        """Somebody is about to read this queue: its name may say what it reads from its first use on."""
        if "+" in home:
            self.bound(home)

    def forgo(self, home: str) -> None:
        """What is in this queue may be gone."""
        for sent in self.sent.values():
            if sent.home == home:
                sent.forgone = True

    # -- out

    def got(self, delivery: Delivery, run: int, now: float, holder: object) -> Held:
        """A message came into a client's hands."""
        moved = delivery.message.headers.get("original-destination")
        home = moved.removeprefix("/queue/") if moved else delivery.queue
        sent = self.sent.get((int(delivery.message.body), home))
        assert sent is not None, f"{delivery.queue} had {delivery.message.body!r}, which is not for it"
        assert not sent.refused, f"{sent} was refused, and is here"
        assert not sent.answered, f"{sent} came back after its ack was answered"
        assert now >= sent.earliest, f"{sent} is too early"
        if moved and not sent.moved:
            sent.moved = True  # a new life in another queue
            sent.delivered.clear()
        assert delivery.queue == (DEAD if sent.moved else home)
        if any(earlier != run for earlier in sent.delivered):
            assert delivery.redelivered, f"{sent} was delivered before, and is not marked"
        held = Held(sent, delivery, holder)
        if not (sent.moved or self.draining):
            self._as_the_policy_says(held, now)
        sent.delivered.append(run)
        return held

    def _as_the_policy_says(self, held: Held, now: float) -> None:
        sent, policy = held.sent, self.of(held.sent.home)
        # Its time begins when it is accepted, or was found to be due: perhaps after a restart.
        waits = "wait" in (policy.overflow, self.of(sent.home.partition("+")[0]).overflow)
        if not waits and sent.earliest == sent.at:
            assert now < sent.ends + STAMPS, f"{sent} is too late"
        assert not policy.paused, f"{sent} came from a queue that is paused"
        beside = [h for h in self.hands if h.delivery.on_loan and h.delivery.queue == sent.home]
        if policy.max_on_loan:
            assert len(beside) < policy.max_on_loan, f"{sent} is one too many on loan"
        if policy.groups and sent.group:
            others = [h.sent for h in beside if h.sent.group == sent.group and h.holder is not held.holder]
            assert not others, f"{sent} is on loan while others of its group are: {others}"
            if not sent.delivered and not sent.unordered:
                place = sent.home, sent.group, sent.priority
                assert sent.number > self._last.get(place, -1), f"{sent} comes after {self._last[place]} of its group"
                self._last[place] = sent.number

    def failed(self, held: Held, times: int = 1) -> None:
        """A delivery failed, or may fail."""
        sent, policy = held.sent, self.of(held.sent.home)
        if held.delivery.queue == sent.home:
            sent.failed += times
            limit = policy.max_attempts or inf
            sent.forgone |= not policy.dead_letter and sent.failed >= limit

    def crashed(self) -> None:
        """The broker is gone, with what it had in memory only."""
        self.hands.clear()
        self._last.clear()
        for home in QUEUES:
            if not self.of(home).durable:
                self.forgo(home)

    # -- in the end

    def judge(self, drained: dict[str, list[Sent]], now: float) -> None:
        """Everything confirmed is there, in order, once; nothing else was ever true."""
        found = [sent for sents in drained.values() for sent in sents]
        assert len(set(map(id, found))) == len(found), "delivered twice"
        for sents in drained.values():
            places = [(sent.priority, sent.number) for sent in sents if not (sent.unordered or sent.moved)]
            assert places == sorted(places), f"out of order: {places}"
        kept = [sent for sent in self.sent.values() if sent.confirmed and not (sent.acked or sent.forgone)]
        gone = {id(sent) for sent in kept if now + STAMPS >= sent.ends and not self.of(sent.home).expire_to}
        lost = [sent for sent in kept if id(sent) not in gone | set(map(id, found))]
        assert not lost, f"lost: {lost}"
