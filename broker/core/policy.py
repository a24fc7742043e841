"""Policies: what a queue does with its messages unless the message itself wishes otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec

from broker.core.destination import Destination

Overflow = Literal["reject", "drop_oldest", "drop_new", "wait"]
Scheduler = Literal["round_robin", "random", "favour_reliable"]
#: ``max_bytes`` of a queue that is kept in memory only and says nothing itself: the process must not grow for ever.
VOLATILE_BYTES = 64 * 1024 * 1024


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a queue. Durations are milliseconds, sizes bytes; 0 means "no limit" where not said otherwise."""

    #: The length of a loan made over HTTP, where no message, binding or consumer says otherwise. Linger's 30 s.
    lease: int = 30_000
    #: The longest a message may wait.
    ttl: int = 0
    #: How long a message waits before it may be delivered, where it says nothing itself. Its ``ttl`` begins after that.
    delay: int = 0
    #: The longest a message may wish to wait; a longer wish is shortened.
    max_ttl: int = 0
    #: Whether a message's priority counts; "off": all are delivered in the order in which they came.
    priority: Literal["on", "off"] = "on"
    #: Failed deliveries before a message is given up.
    max_attempts: int = 0
    #: The queue to which goes what has failed ``max_attempts`` times or was rejected; empty: it is dropped.
    dead_letter: str = ""
    #: Deaths after which a message that was sent home from a dead letter queue is not sent home again.
    redrive_max: int = 0
    #: The queue to which goes what has waited too long; empty: it is dropped.
    expire_to: str = ""
    #: How long a message is hidden after its first, second, ... failed delivery; the last holds for all further ones.
    backoff: tuple[int, ...] = ()
    #: Per cent by which such a time is made longer or shorter at random, so that what failed together is not tried
    #: together.
    jitter: int = 0
    #: Nothing is delivered while it is set; publishes go on.
    paused: bool = False
    #: After how long an empty queue without consumers and bindings goes; looked at every 15 s, from a minute on.
    max_idle: int = 0
    #: Messages on loan at a time, to all consumers together.
    max_on_loan: int = 0
    #: Messages a memcache connection may hold open (``get queue/open``) of the queue; 1 is Kestrel's default.
    max_open: int = 1
    #: The longest a memcache connection may hold a message open; then it is back at its old place, as failed.
    open_timeout: int = 0
    #: Deliveries a second, to all consumers together; up to a second's worth at once.
    rate: int = 0
    #: Only the oldest subscription gets messages; the next takes over when it goes.
    exclusive: bool = False
    #: Messages with the same group go to one consumer at a time, in order.
    groups: bool = False
    #: Who of those that may take a message gets it: each in turn, anyone, or first those that ack what they get.
    scheduler: Scheduler = "round_robin"
    #: Messages that nobody present may take which a search for one that somebody may take passes over (at most).
    max_scan: int = 100_000
    #: When a message is settled whose consumer does not ack (``get``, ``ack:auto``): "after" it was sent, so that a
    #: crash may repeat it, or "before", so that a crash may lose it.
    get_settles: Literal["after", "before"] = "after"
    #: Messages a queue holds, on loan or waiting (Linger's high-level mark).
    max_messages: int = 0
    #: Bytes of memory that what it holds would take. 0 means 64 MiB for a queue that is not durable.
    max_bytes: int = 0
    #: What happens to a publish that meets a full queue: it is refused; the oldest waiting message makes room; the new
    #: one is dropped and confirmed all the same; or it waits for room, up to half a minute, and is refused then.
    overflow: Overflow = "reject"
    #: The largest body a publish may have.
    max_message_size: int = 16 * 1024 * 1024
    #: False: its messages are kept in memory only and are gone when the broker ends.
    durable: bool = True
    #: How long a message stays readable after it was published, settled or not: the past that can be replayed.
    retain: int = 0
    #: The same, as bytes of the log's end. With both, what either keeps is kept.
    retain_bytes: int = 0
    #: How long the key of a publish is remembered, so that the same publish sent again is answered, not repeated.
    dedup_window: int = 0
    #: Publishes go to the queues bound to it; it keeps none itself.
    fanout_only: bool = False

    @property
    def most_bytes(self) -> int:
        """``max_bytes`` as it holds; 0 = no limit."""
        return self.max_bytes or (0 if self.durable else VOLATILE_BYTES)

    @property
    def tended(self) -> bool:
        """True if there is something to do about a queue that nobody uses, as time goes by."""
        return bool(self.max_idle or self.retain or self.retain_bytes)


class TopicPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a topic. Durations are milliseconds, sizes bytes."""

    #: The largest body a publish may have.
    max_message_size: int = 16 * 1024 * 1024
    #: Bytes of memory that what waits for one live subscriber may take. One larger message is always taken.
    max_bytes: int = 16 * 1024 * 1024
    #: What happens when a live subscriber's buffer is full: the oldest message in it is dropped, or the subscriber's
    #: connection is closed.
    overflow: Literal["drop_oldest", "disconnect"] = "drop_oldest"
    #: How long a message stays readable after it was published: the past that a new binding or a replay may begin in.
    retain: int = 0
    #: The same, as bytes of the log's end. With both, what either keeps is kept.
    retain_bytes: int = 0
    #: How long the key of a publish is remembered, so that the same publish sent again is answered, not repeated.
    dedup_window: int = 0

    @property
    def retained(self) -> bool:
        """True if messages are kept although no queue reads them."""
        return bool(self.retain or self.retain_bytes)


class Rule(msgspec.Struct, frozen=True):
    """What holds for the destinations whose name matches a pattern: ``*`` is any run of characters, ``?`` any one."""

    pattern: str
    #: Fields of `Policy` or `TopicPolicy` with their values; the others are as a less specific rule or default says.
    says: dict[str, Any]

    @property
    def specificity(self) -> tuple[bool, int]:
        """Of two rules that match, a whole name wins, then the pattern that names more characters."""
        named = sum(character not in "*?" for character in self.pattern)
        return named == len(self.pattern), named


#: Names whose policy is remembered: it is asked for with every publish to a topic.
_KNOWN = 10_000

P = TypeVar("P", Policy, TopicPolicy)


class Ruled(Generic[P]):
    """A default, and over it each rule whose pattern matches, the most specific last."""

    def __init__(self, default: P, rules: Iterable[Rule]) -> None:
        self.default: P = default
        self.rules = sorted(rules, key=lambda rule: (rule.specificity, rule.pattern))
        self._matchers = [(re.compile(_translated(rule.pattern), re.DOTALL), rule) for rule in self.rules]
        self._known: dict[str, P] = {}

    def of(self, name: str) -> P:
        """The policy of what is called `name`."""
        if not self.rules:
            return self.default
        policy = self._known.get(name)
        if policy is None:
            policy = self.default
            for rule in self.speaking(name):
                policy = msgspec.structs.replace(policy, **rule.says)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[name] = policy
        return policy

    def speaking(self, name: str) -> list[Rule]:
        """The rules that match `name`; a later one has the last word."""
        return [rule for matcher, rule in self._matchers if matcher.fullmatch(name)]


class Policies:
    """The policy of every queue and topic, and the aliases: names that stand for other destinations."""

    def __init__(
        self,
        default: Policy = Policy(),  # noqa: B008 - frozen
        rules: Iterable[Rule] = (),
        *,
        topic_default: TopicPolicy = TopicPolicy(),  # noqa: B008 - frozen
        topic_rules: Iterable[Rule] = (),
        aliases: Mapping[str, tuple[Destination, ...]] | None = None,
    ) -> None:
        self.queues: Ruled[Policy] = Ruled(default, rules)
        self.topics: Ruled[TopicPolicy] = Ruled(topic_default, topic_rules)
        #: A queue's name that stands for others: what is published to it goes to each of them.
        self.aliases = dict(aliases or {})

    def with_rules(self, queues: Iterable[Rule], topics: Iterable[Rule]) -> Policies:
        """The same with further rules; of two for one pattern these have the last word."""
        return Policies(
            self.queues.default,
            _merged(self.queues.rules, queues),
            topic_default=self.topics.default,
            topic_rules=_merged(self.topics.rules, topics),
            aliases=self.aliases,
        )

    def speaks_of(self, *keys: str) -> bool:
        """True if one of these keys has a value, other than 0 or none, for some queue or topic."""
        said = [msgspec.structs.asdict(ruled.default) for ruled in (self.queues, self.topics)]
        said += [rule.says for rule in (*self.queues.rules, *self.topics.rules)]
        return any(says.get(key) for says in said for key in keys)

    @property
    def default(self) -> Policy:
        """What holds for a queue that no rule speaks of."""
        return self.queues.default

    def of(self, name: str) -> Policy:
        """The policy of the queue called `name`."""
        return self.queues.of(name)

    def of_topic(self, name: str) -> TopicPolicy:
        """The policy of the topic called `name`."""
        return self.topics.of(name)


def _merged(rules: Iterable[Rule], more: Iterable[Rule]) -> list[Rule]:
    """One rule for each pattern, `more` over `rules`."""
    found: dict[str, dict[str, Any]] = {}
    for rule in (*rules, *more):
        found[rule.pattern] = found.get(rule.pattern, {}) | rule.says
    return [Rule(pattern, says) for pattern, says in found.items()]


def _translated(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)


class BindingPolicy(msgspec.Struct, frozen=True, array_like=True):
    """What a binding says about the messages it brings; None = as the message or the queue says."""

    priority: int | None = None
    lease: int | None = None
    ttl: int | None = None
    max_attempts: int | None = None
