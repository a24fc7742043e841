"""The configuration: what a TOML file may say, and what the command line has the last word on.

What a file looks like is in docs/configuration.rst, whose tables are written from the ``#:`` comments here and in
`broker.core.policy`. What values and sections may not say together is in `broker.config_check`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from broker import config_check
from broker.auth.limits import Bounds
from broker.core.destination import Destination
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.effective import destination_of, section
from broker.errors import BadName, ConfigError
from broker.toml import in_our_words, read

T = TypeVar("T")

#: The data "file" of a broker that keeps everything in memory and forgets it when it ends.
MEMORY = ":memory:"

#: The keys of a file that speak of queues and topics; a running broker takes them over when it reads the file again.
SECTIONS = frozenset({"defaults", "queue", "topic", "aliases"})

Sync = Literal["full", "normal"]
Level = Literal["debug", "info", "warn", "error"]
Format = Literal["text", "json"]
#: A port, ``host:port``, a Twisted server endpoint, or ``off``; port 0 is any free one.
Where = int | str


class TLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a listener speak TLS. Paths are relative to the current directory at the start."""

    #: The server's certificate in PEM, and behind it those between it and the authority.
    certificate: str
    #: Its private key in PEM; None: it stands in the same file.
    key: str | None = None
    #: Authorities in PEM: who connects must show a certificate of one of them. Its common name is the user.
    clients: str | None = None


class MemcacheListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memcache listener that is not as the others are."""

    listen: Where
    #: Whether ``flush_all`` empties every queue here; None: on loopback only. Where it is off it is answered ``OK``.
    flush_all: Literal["on", "off"] | None = None
    #: Whose habits it has, where memcache servers contradict each other.
    dialect: Literal["default", "memcached", "starling", "kestrel", "siberite"] = "default"
    #: Whether ``shutdown`` ends the broker here.
    shutdown: Literal["on", "off"] = "off"
    #: Milliseconds after which a client that says nothing, and waits for nothing, is closed on; 0: never.
    idle_timeout: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Who comes when there are so many connections already may not write, or not read; 0: no limit.
    refuse_writes_above: Annotated[int, msgspec.Meta(ge=0)] = 0
    refuse_reads_above: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: None: it speaks plain.
    tls: TLS | None = None
    #: Proxies that say by the PROXY protocol who their client is: addresses, networks, ``unix``.
    proxy: list[str] = []


class StompListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A STOMP listener that is not as the others are."""

    listen: Where
    #: Whose clients it is at home to.
    flavour: Literal["default", "rabbitmq", "activemq", "coilmq"] = "default"
    #: Whether an ACK of 1.2 may name its message as in 1.1.
    lenient_ack: bool = False
    #: Whether MESSAGE says which user sent it (``JMSXUserID``).
    user_id: bool = False
    #: Milliseconds in which CONNECT must come.
    login_timeout: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    #: Milliseconds in which a client must take some of what is sent to it, as far as the system can tell; 0: any time.
    send_timeout: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 60_000
    #: The shortest period of heart-beats that is offered (ms), the longest (0: any), and after how many a silent client
    #: is gone.
    heart_beat_min: Annotated[int, msgspec.Meta(ge=1)] = 250
    heart_beat_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    heart_beat_grace: Annotated[float, msgspec.Meta(ge=1.0)] = 2.0

    def __post_init__(self) -> None:
        if 0 < self.heart_beat_max < self.heart_beat_min:
            raise ValueError(f"heart_beat_max {self.heart_beat_max} is below heart_beat_min {self.heart_beat_min}")

    #: None: it speaks plain.
    tls: TLS | None = None
    #: Proxies that say by the PROXY protocol who their client is: addresses, networks, ``unix``.
    proxy: list[str] = []


class HttpListener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP listener that is not as the others are."""

    listen: Where
    #: None: it speaks plain.
    tls: TLS | None = None
    #: Proxies that say by the PROXY protocol who their client is: addresses, networks, ``unix``.
    proxy: list[str] = []


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file may say."""

    #: Where memcache clients connect. If it is not said: port 22122 on 127.0.0.1, if that is free. An entry may be a
    #: table, ``{ listen = "0.0.0.0:22122", flush_all = "off" }``: whether ``flush_all`` empties every queue there. With
    #: ``dialect = "kestrel"`` there it answers as Kestrel did, with ``shutdown = "on"`` that command ends the broker,
    #: with ``idle_timeout`` (milliseconds) a client that says nothing for so long is closed on. Who comes when there
    #: are ``refuse_writes_above`` connections already may not write, with ``refuse_reads_above`` not read.
    memcache: list[Where | MemcacheListener] | None = None
    #: Milliseconds from a server status that is stricter until it holds.
    status_grace: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Where STOMP clients connect. If it is not said: port 61613 on 127.0.0.1, if that is free. An entry may be a
    #: table, ``{ listen = "0.0.0.0:61614", flavour = "rabbitmq" }``: whose clients it is at home to. With
    #: ``lenient_ack = true`` there an ACK of STOMP 1.2 may name its message as in 1.1; with ``user_id = true``
    #: MESSAGE says which user sent it; there are ``login_timeout``, ``send_timeout``, ``heart_beat_min``,
    #: ``heart_beat_max`` and ``heart_beat_grace`` too.
    stomp: list[Where | StompListener] | None = None
    #: Where HTTP clients connect. If it is not said: port 8989 on 127.0.0.1, if that is free. An entry may be a table,
    #: ``{ listen = "0.0.0.0:8990", tls = { certificate = "broker.pem", key = "broker.key" } }``: HTTPS. A table of the
    #: other two may have ``tls``, too; with ``clients = "ca.pem"`` in it who connects must show a certificate.
    #: A table of any of the three may have ``proxy = ["10.0.0.0/8"]``: who comes from there says first, by the PROXY
    #: protocol, who its client is.
    http: list[Where | HttpListener] | None = None
    #: Names, beside the machine's own addresses, under which HTTP may be spoken to and from whose pages; ``*`` for any.
    http_host: list[str] = []
    #: The data file, relative to twistd's run directory, or ``:memory:``.
    data: str = "broker.sqlite"
    #: What a confirmed message survives: ``full`` a power loss, ``normal`` the end of the process only.
    sync: Sync = "full"
    #: The least that is logged. From info on: a line per connection and per change of state, none per message.
    log_level: Level = "info"
    #: How it is logged: lines of text, or one JSON object a line.
    log_format: Format = "text"
    #: Without users: listen beyond loopback although anybody who reaches the port may then do everything. With users:
    #: who names none is the user ``anonymous``.
    allow_anonymous: bool = False
    #: The users file, relative to the current directory. Without one nobody is asked who he is.
    users: str | None = None
    #: The audit log, a file relative to the current directory. Without one nobody keeps the books.
    audit: str | None = None
    #: How much there may be at a time and in a second: :ref:`limits`.
    limits: Bounds = Bounds()
    #: The rules of every queue, as far as no section of its own says otherwise. ``max_message_size`` holds for topics
    #: too.
    defaults: Policy = Policy()
    #: Patterns of queues' names, each with what it says of the queues that match.
    queue: dict[str, dict[str, Any]] = {}
    #: Patterns of topics' names, each with what it says of the topics that match.
    topic: dict[str, dict[str, Any]] = {}
    #: Names that stand for others: what is published to the queue of such a name goes to each destination in its list,
    #: ``orders`` and ``/queue/orders`` being a queue, ``/topic/prices`` a topic.
    aliases: dict[str, list[str]] = {}


class Config(File, frozen=True, forbid_unknown_fields=True):
    """The file's words, and what follows from them."""

    #: The keys somebody has said, rather than left as they are built in: ``sync``, ``defaults.lease``.
    said: frozenset[str] = frozenset()

    @property
    def policies(self) -> Policies:
        """The policy of every queue and topic, and the aliases."""
        return _policies(self)

    @property
    def http_max_message_size(self) -> int | None:
        """The largest body HTTP takes (bytes); None: Linger's 256,000, as nobody has set ``max_message_size``."""
        return self.defaults.max_message_size if "defaults.max_message_size" in self.said else None

    @property
    def max_message_size(self) -> int:
        """The largest body that any queue or topic takes (bytes)."""
        sections = [*self.queue.values(), *self.topic.values()]
        return max([self.defaults.max_message_size, *(says.get("max_message_size", 0) for says in sections)])


def load(path: str) -> Config:
    """Read the file at `path`; raises `ConfigError`, which names the key."""
    said = read(path)
    try:
        return from_dict(said)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.reason}") from None


def from_dict(said: dict[str, Any]) -> Config:
    """The configuration that `said`, the content of a file, amounts to; raises `ConfigError`."""
    named: dict[str, Any] = {}
    for table, kind in (("queue", dict[str, Any]), ("topic", dict[str, Any]), ("aliases", list[str])):
        for name, value in _converted(said.get(table, {}), dict[str, Any], table).items():
            named.setdefault(table, {})[name] = _converted(value, kind, section(table, name))
    file = _converted({**said, **named}, File, "")
    config_check.values(file.defaults, "defaults")
    file = msgspec.structs.replace(
        file, queue=_rules(file.queue, "queue", Policy), topic=_rules(file.topic, "topic", TopicPolicy)
    )
    limits = said.get("limits", {})
    tables = (("defaults", said.get("defaults", {})), ("limits", limits), ("limits.user", limits.get("user", {})))
    keys = frozenset([*said, *(f"{table}.{key}" for table, says in tables for key in says)])
    config_check.together(_policies(file), keys)
    return Config(**msgspec.structs.asdict(file), said=keys)


def _converted(value: object, kind: type[T], path: str) -> T:
    """`value` as a `kind`; raises `ConfigError`, whose key begins with `path`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        words = in_our_words(str(error), path)
        if str(error).startswith("Invalid enum value"):
            key, _, value = words.rpartition(": invalid enum value ")
            words = f"{key}: {value} is none of {', '.join(_choices(key.rpartition('.')[2], kind))}"
        raise ConfigError(words) from None


def _choices(key: str, kind: type) -> list[str]:
    """The words that `key` takes, in a `kind` or in what a file holds."""
    found = [get_type_hints(struct).get(key) for struct in (kind, Policy, MemcacheListener, StompListener)]
    hint = next(filter(None, found), None)
    literals = [hint, *get_args(hint)]  # a Literal, or one of it and None
    return [f"'{word}'" for literal in literals if get_origin(literal) is Literal for word in get_args(literal)]


def _rules(
    sections: dict[str, dict[str, Any]], table: str, kind: type[Policy] | type[TopicPolicy]
) -> dict[str, dict[str, Any]]:
    """What each section says, as the values that a policy has."""
    rules = {}
    for pattern, says in sections.items():
        path = section(table, pattern)
        policy = _converted(says, kind, path)
        config_check.pattern(pattern, path)
        config_check.values(policy, path)
        rules[pattern] = {key: getattr(policy, key) for key in says}
    return rules


def _policies(file: File) -> Policies:
    return Policies(
        file.defaults,
        [Rule(pattern, says) for pattern, says in file.queue.items()],
        topic_default=TopicPolicy(max_message_size=file.defaults.max_message_size),
        topic_rules=[Rule(pattern, says) for pattern, says in file.topic.items()],
        aliases={name: _destinations(name, targets) for name, targets in file.aliases.items()},
    )


def _destinations(alias: str, targets: list[str]) -> tuple[Destination, ...]:
    """What an alias stands for; raises `ConfigError`."""
    found = []
    for number, target in enumerate(targets):
        try:
            found.append(destination_of(target))
        except BadName as error:
            raise ConfigError(f"{section('aliases', alias)}[{number}]: {error.reason}") from None
    return tuple(found)
