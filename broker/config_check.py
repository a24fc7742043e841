"""What a configuration may not say: values out of their range, and sections that contradict each other.

Every function raises `ConfigError`, which names the keys. A contradiction that no file's author can see in one section
is looked for in the policies of names that stand for all: each pattern, which is a name that matches itself, and for
each two patterns with wildcards a name that both match.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator

import msgspec

from broker.core.destination import Destination, Kind, check_name
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.effective import Explained, Value, defaults, explained, section
from broker.errors import BadName, ConfigError

#: What is exact in every client's JSON; and as many milliseconds, counted in microseconds from today, fit 64 bits.
MOST = 2**53 - 1
#: The least and the most an integer may be, where that is not 0 and `MOST`.
RANGES: dict[str, tuple[int, int]] = {
    "jitter": (0, 100),
    "max_open": (1, MOST),
    "max_scan": (1, MOST),
    "max_message_size": (1, MOST),
}
#: Keys that name a queue, or none.
TARGETS = ("dead_letter", "expire_to")


def values(policy: Policy | TopicPolicy, path: str) -> None:
    """That each value by itself may be; `path` names the section."""
    for key, value in msgspec.structs.asdict(policy).items():
        least, most = RANGES.get(key, (0, MOST))
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, int) and not least <= number <= most:
                bound = f"small, it must be {least} or more" if number < least else f"large, it must be {most} or less"
                raise ConfigError(f"{path}.{key}: {number} is too {bound}")
        if key in TARGETS and value:
            _name(value, f"{path}.{key}")


def pattern(text: str, path: str) -> None:
    """That some name may match."""
    _name(text, path)


def _name(name: str, path: str) -> None:
    try:
        check_name(name)
    except BadName as error:
        raise ConfigError(f"{path}: {error.reason}") from None


def together(policies: Policies, said: Collection[str]) -> None:
    """That nothing contradicts anything else; `said` has the keys of ``[defaults]``, with that in front."""
    _aliases(policies)
    for table, rules in (("queue", policies.queues.rules), ("topic", policies.topics.rules)):
        _equals(rules, table)
    _contradictions(defaults(policies, said), "defaults")
    for rule in policies.queues.rules:
        name = Destination(Kind.QUEUE, rule.pattern)
        _contradictions(explained(policies, said, name), section("queue", rule.pattern))
    wild = [rule for rule in policies.queues.rules if _is_wild(rule.pattern)]
    for first, second in itertools.combinations(wild, 2):
        common = common_name(first.pattern, second.pattern)
        if common is not None:
            name = Destination(Kind.QUEUE, common or "x")  # "*" and "**": any name will do
            _contradictions(explained(policies, said, name), "", f"for a queue {name.name}, ")
    _circles(policies, said)


# -- two sections


def _equals(rules: list[Rule], table: str) -> None:
    """That of two sections which say different things of one name one is more specific."""
    for first, second in itertools.combinations(rules, 2):
        if first.specificity != second.specificity or not (_is_wild(first.pattern) or _is_wild(second.pattern)):
            continue
        differing = [key for key in sorted(first.says.keys() & second.says) if first.says[key] != second.says[key]]
        if differing and common_name(first.pattern, second.pattern) is not None:
            one, other = (f"{section(table, rule.pattern)}.{differing[0]}" for rule in (first, second))
            raise ConfigError(f"{one} and {other} differ, and a name can match both, neither being more specific")


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def common_name(first: str, second: str) -> str | None:
    """The shortest name that matches both patterns, which may be empty; None if there is none."""
    start = (0, 0)
    names = {start: ""}  # what both have matched up to there
    ends = deque([start])
    while ends:
        one, other = here = ends.popleft()
        if (one, other) == (len(first), len(second)):
            return names[here]
        for place, character in _following(first[one : one + 1], second[other : other + 1]):
            there = (one + place[0], other + place[1])
            if there not in names:
                names[there] = names[here] + character
                ends.append(there)
    return None


def _following(a: str, b: str) -> Iterator[tuple[tuple[int, int], str]]:
    """How far two patterns, the next of which are these characters, go on together, and with which character."""
    if a == "*":
        yield (1, 0), ""
        if b and b != "*":
            yield (0, 1), "x" if b == "?" else b
    if b == "*":
        yield (0, 1), ""
        if a and a != "*":
            yield (1, 0), "x" if a == "?" else a
    if a and b and "*" not in (a, b) and (a == b or "?" in (a, b)):
        yield (1, 1), "x" if a == b == "?" else b if a == "?" else a


# -- two keys


def _contradictions(found: Explained, at: str, whose: str = "") -> None:
    """That the policy in `found` makes sense, as far as section `at` has to do with it."""
    for check in _CHECKS:
        trouble = check(found, at)
        if trouble:
            raise ConfigError(whose + trouble)


def _shown(value: Value) -> str:
    return f"{value.path} ({msgspec.json.encode(value.value).decode()})"


def _lifetimes(found: Explained, at: str) -> str:
    ttl, longest = found["ttl"], found["max_ttl"]
    return f"{_shown(ttl)} is above {_shown(longest)}" if ttl.value > longest.value > 0 else ""


def _retained(found: Explained, at: str) -> str:
    durable = found["durable"]
    kept = next((found[key] for key in ("retain", "retain_bytes") if found[key].value), None)
    if durable.value or kept is None:
        return ""
    return f"{_shown(kept)} needs a queue that is kept on disk, and {_shown(durable)} says that it is not"


def _overflow(found: Explained, at: str) -> str:
    # Who says it in one section may take the limit away in another, for a queue that is to have none.
    overflow = found["overflow"]
    limited = found["max_messages"].value or found["max_bytes"].value or not found["durable"].value
    if overflow.value == "reject" or limited or overflow.section != at:
        return ""
    return f"{_shown(overflow)} says what a full queue does, but nothing limits it: say max_messages or max_bytes"


_CHECKS: list[Callable[[Explained, str], str]] = [_lifetimes, _retained, _overflow]


# -- ways of messages


def _circles(policies: Policies, said: Collection[str]) -> None:
    """That what dies comes to rest: a queue's own name ends the way, and is what ``[defaults]`` says to its target."""
    ways: dict[str, list[Value]] = {}  # by queue, where what dies there goes
    named = [rule.says.get(key, "") for rule in policies.queues.rules for key in TARGETS]
    waiting = [getattr(policies.default, key) for key in TARGETS] + named
    while waiting:
        name = waiting.pop()
        if name and name not in ways:
            found = explained(policies, said, Destination(Kind.QUEUE, name))
            ways[name] = [found[key] for key in TARGETS if found[key].value not in ("", name)]
            waiting += [value.value for value in ways[name]]
    rest: set[str] = set()
    for name in sorted(ways):
        _rest(name, ways, rest)


def _rest(start: str, ways: dict[str, list[Value]], rest: set[str]) -> None:
    """That from `start` no way leads back to where it came by; `rest` gets what is known to be good."""
    path = [start]
    values: list[Value] = []
    open_ways = [iter(ways[start])]
    while path:
        value = next(open_ways[-1], None)
        if value is None:
            open_ways.pop()
            rest.add(path.pop())
            del values[-1:]
        elif value.value in path:
            at = path.index(value.value)
            keys = " and ".join(dict.fromkeys(one.path for one in [*values[at:], value]))
            circle = " -> ".join([*path[at:], value.value])
            raise ConfigError(f"{keys}: what dies would go round in a circle: {circle}")
        elif value.value not in rest:
            path.append(value.value)
            values.append(value)
            open_ways.append(iter(ways[value.value]))


def _aliases(policies: Policies) -> None:
    """That aliases stand for real destinations, and that nothing which must be one queue is one."""
    for alias, targets in policies.aliases.items():
        path = section("aliases", alias)
        _name(alias, path)
        if alias.startswith(("/queue/", "/topic/")):
            raise ConfigError(f"{path}: an alias is a queue's name: without {alias[:7]}")
        if not targets:
            raise ConfigError(f"{path}: an alias stands for one destination at least")
        for number, target in enumerate(targets):
            if target.kind is Kind.QUEUE and target.name == alias:
                raise ConfigError(f"{path}[{number}]: {alias} stands for itself")
            if target.kind is Kind.QUEUE and target.name in policies.aliases:
                raise ConfigError(f"{path}[{number}]: {target.name} is an alias too: name what it stands for")
            if target in targets[:number]:
                raise ConfigError(f"{path}[{number}]: {target} is there already")
    sections = [("defaults", msgspec.structs.asdict(policies.default))]
    sections += [(section("queue", rule.pattern), rule.says) for rule in policies.queues.rules]
    for path, says in sections:
        for key in TARGETS:
            if says.get(key) in policies.aliases:
                raise ConfigError(f"{path}.{key}: {says[key]} is an alias: name one queue")
