"""Policies: what a queue does with its messages unless the message itself wishes otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a queue. Durations are milliseconds, sizes bytes; 0 means "no limit" where not said otherwise."""

    #: The length of a loan made over HTTP, where no message, binding or consumer says otherwise. Linger's 30 s.
    lease: int = 30_000
    #: The longest a message may wait.
    ttl: int = 0
    #: How long a message waits before it may be delivered, where it says nothing itself.
    delay: int = 0
    #: The longest a message may wish to wait; a longer wish is shortened.
    max_ttl: int = 0
    #: Failed deliveries before a message is given up.
    max_attempts: int = 0
    #: The queue to which goes what has failed ``max_attempts`` times or was rejected; empty: it is dropped.
    dead_letter: str = ""
    #: The queue to which goes what has waited too long; empty: it is dropped.
    expire_to: str = ""
    #: How long a message is hidden after its first, second, ... failed delivery; the last holds for all further ones.
    backoff: tuple[int, ...] = ()
    #: Nothing is delivered while it is set; publishes go on.
    paused: bool = False
    #: After how long an empty queue without consumers and bindings goes; looked at every 15 s, from a minute on.
    max_idle: int = 0
    #: Messages on loan at a time, to all consumers together.
    max_on_loan: int = 0
    #: Only the oldest subscription gets messages; the next takes over when it goes.
    exclusive: bool = False
    #: Messages a queue holds, on loan or waiting, before publishes to it are refused (Linger's high-level mark).
    max_messages: int = 0
    #: The largest body a publish may have.
    max_message_size: int = 16 * 1024 * 1024


class Rule(msgspec.Struct, frozen=True):
    """What holds for the queues whose name matches a pattern: ``*`` is any run of characters, ``?`` any one."""

    pattern: str
    #: Fields of `Policy` with their values; the others are as a less specific rule or the default says.
    says: dict[str, Any]

    @property
    def specificity(self) -> int:
        """How many characters the pattern names; of two rules that match, the one with more wins."""
        return sum(character not in "*?" for character in self.pattern)


class Policies:
    """The policy of every queue: the default, and over it each rule that matches, the most specific last."""

    def __init__(self, default: Policy = Policy(), rules: Iterable[Rule] = ()) -> None:  # noqa: B008 - frozen
        self.default = default
        self.rules = sorted(rules, key=lambda rule: (rule.specificity, rule.pattern))
        self._matchers = [(re.compile(_translated(rule.pattern), re.DOTALL), rule.says) for rule in self.rules]

    def of(self, name: str) -> Policy:
        """The policy of the queue called `name`."""
        policy = self.default
        for matcher, says in self._matchers:
            if matcher.fullmatch(name):
                policy = msgspec.structs.replace(policy, **says)
        return policy


def overlap(first: str, second: str) -> bool:
    """True if some name matches both patterns."""
    ends = {(0, 0)}  # pairs of places up to which both patterns have matched the same name
    seen = set(ends)
    while ends:
        one, other = ends.pop()
        if one == len(first) and other == len(second):
            return True
        a, b = first[one : one + 1], second[other : other + 1]
        following = set()
        if a == "*":
            following.add((one + 1, other))
            if b:
                following.add((one, other + 1))
        if b == "*":
            following.add((one, other + 1))
            if a:
                following.add((one + 1, other))
        if a and b and "*" not in (a, b) and (a == b or "?" in (a, b)):
            following.add((one + 1, other + 1))
        ends |= following - seen
        seen |= following
    return False


def _translated(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)


class BindingPolicy(msgspec.Struct, frozen=True, array_like=True):
    """What a binding says about the messages it brings; None = as the message or the queue says."""

    priority: int | None = None
    lease: int | None = None
    ttl: int | None = None
    max_attempts: int | None = None
