"""The configuration: what a TOML file may say, and what the command line has the last word on.

Every key, as in the file::

    memcache = [22122, { listen = "0.0.0.0:22123", flush_all = "off" }]
    stomp = ["127.0.0.1:61613"]
    http = ["off"]
    http_host = ["broker.example"]
    data = "/var/lib/broker/broker.sqlite"
    sync = "full"
    log_level = "info"
    allow_anonymous = false
    users = "/etc/broker/users.toml"

    [defaults]                  # the keys of broker.core.policy.Policy
    lease = 30000
    max_message_size = 16777216

    [queue."orders.*"]          # the same keys, for the queues whose name matches; the most specific pattern wins
    max_attempts = 5
    backoff = [1000, 10000, 60000]
    dead_letter = "orders-dead"
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import msgspec

from broker.core.destination import check_name
from broker.core.policy import Policies, Policy, Rule, overlap
from broker.errors import BadName, ConfigError
from broker.toml import in_our_words, read

#: The data "file" of a broker that keeps everything in memory and forgets it when it ends.
MEMORY = ":memory:"

Sync = Literal["full", "normal"]
Level = Literal["debug", "info", "warn", "error"]
#: A port, ``host:port``, a Twisted server endpoint, or ``off``; port 0 is any free one.
Where = int | str


class MemcacheListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memcache listener that is not as the others are."""

    listen: Where
    #: Whether ``flush_all`` empties every queue here; None: on loopback only. Where it is off it is answered ``OK``.
    flush_all: Literal["on", "off"] | None = None


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file may say. A front's None is its default port on 127.0.0.1, if that is free."""

    memcache: list[Where | MemcacheListener] | None = None
    stomp: list[Where] | None = None
    http: list[Where] | None = None
    #: Names, beside the machine's own addresses, under which HTTP may be spoken to and from whose pages; "*" for any.
    http_host: list[str] = []
    #: The data file, relative to twistd's run directory, or ``:memory:``.
    data: str = "broker.sqlite"
    #: What a confirmed message survives: ``full`` a power loss, ``normal`` the end of the process only.
    sync: Sync = "full"
    #: The least that is logged. From info on: a line per connection and per change of state, none per message.
    log_level: Level = "info"
    #: Without users: listen beyond loopback although anybody who reaches the port may then do everything. With users:
    #: who names none is the user ``anonymous``.
    allow_anonymous: bool = False
    #: The users file, relative to the current directory. None: nobody is asked who he is.
    users: str | None = None
    #: The policy of every queue that has none of its own.
    defaults: Policy = Policy()
    #: Patterns of names, each with what it says of the queues that match: ``*`` any run of characters, ``?`` any one.
    queue: dict[str, dict[str, Any]] = {}


class Config(File, frozen=True, forbid_unknown_fields=True):
    """The file's words, and what follows from them."""

    #: The largest body HTTP takes (bytes); None: Linger's 256,000, as nobody has set ``max_message_size``.
    http_max_message_size: int | None = None

    @property
    def policies(self) -> Policies:
        """The policy of every queue."""
        return Policies(self.defaults, [Rule(pattern, says) for pattern, says in self.queue.items()])

    @property
    def max_message_size(self) -> int:
        """The largest body that any queue takes (bytes)."""
        sizes = [says.get("max_message_size", 0) for says in self.queue.values()]
        return max([self.defaults.max_message_size, *sizes])


def load(path: str) -> Config:
    """Read the file at `path`; raises `ConfigError`, which names the key."""
    said = read(path)
    try:
        return from_dict(said)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.reason}") from None


def from_dict(said: dict[str, Any]) -> Config:
    """The configuration that `said`, the content of a file, amounts to; raises `ConfigError`."""
    try:
        file = msgspec.convert(said, File)
    except msgspec.ValidationError as error:
        raise ConfigError(in_our_words(str(error))) from None
    _check(file.defaults, "defaults")
    rules = {}
    for pattern, section in file.queue.items():
        path = f'queue."{pattern}"'
        try:
            policy = msgspec.convert(section, Policy)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}.{in_our_words(str(error))}") from None
        _check(policy, path)
        rules[pattern] = {key: getattr(policy, key) for key in section}
    file = msgspec.structs.replace(file, queue=rules)
    _check_together(file)
    explicit = "max_message_size" in said.get("defaults", {})
    return Config(
        **msgspec.structs.asdict(file), http_max_message_size=file.defaults.max_message_size if explicit else None
    )


def _check(policy: Policy, path: str) -> None:
    """Raise `ConfigError` for a value outside its range."""
    for key, value in msgspec.structs.asdict(policy).items():
        least = 1 if key == "max_message_size" else 0
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, int) and number < least:
                raise ConfigError(f"{path}.{key}: {number} is too small, it must be {least} or more")
        if isinstance(value, str) and value:
            try:
                check_name(value)
            except BadName as error:
                raise ConfigError(f"{path}.{key}: {error.reason}") from None


def _check_together(file: File) -> None:
    """Raise `ConfigError` for rules that contradict each other."""
    rules = [Rule(pattern, says) for pattern, says in file.queue.items()]
    for first, second in itertools.combinations(rules, 2):
        if first.specificity == second.specificity and overlap(first.pattern, second.pattern):
            for key in sorted(set(first.says) & set(second.says)):
                if first.says[key] != second.says[key]:
                    raise ConfigError(
                        f'queue."{first.pattern}".{key} and queue."{second.pattern}".{key} differ, '
                        "and a name can match both, neither being more specific"
                    )
    policies = Policies(file.defaults, rules)
    for pattern, policy in [("", file.defaults), *((r.pattern, policies.of(r.pattern)) for r in rules)]:
        path = f'queue."{pattern}"' if pattern else "defaults"
        if policy.ttl and policy.max_ttl and policy.ttl > policy.max_ttl:
            raise ConfigError(f"{path}: ttl ({policy.ttl}) is above max_ttl ({policy.max_ttl})")
        for target in (policy.dead_letter, policy.expire_to):
            way = [target]
            while target:
                following = policies.of(target)
                target = next((t for t in (following.dead_letter, following.expire_to) if t and t != target), "")
                if target in way:
                    circle = " -> ".join([*way[way.index(target) :], target])
                    raise ConfigError(f"{path}: what dies would go round in a circle: {circle}")
                way.append(target)
