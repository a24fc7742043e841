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

    [defaults]                  # the keys of broker.core.policy.Policy
    lease = 30000
    max_message_size = 16777216
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal

import msgspec

from broker.core.policy import Policy
from broker.errors import ConfigError

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
    #: Listen beyond loopback although anybody who reaches the port may then do everything.
    allow_anonymous: bool = False
    #: The policy of every queue that has none of its own.
    defaults: Policy = Policy()


class Config(File, frozen=True, forbid_unknown_fields=True):
    """The file's words, and what follows from them."""

    #: The largest body HTTP takes (bytes); None: Linger's 256,000, as nobody has set ``max_message_size``.
    http_max_message_size: int | None = None


def load(path: str) -> Config:
    """Read the file at `path`; raises `ConfigError`, which names the key."""
    try:
        with open(path, "rb") as file:
            said = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return from_dict(said)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.reason}") from None


def from_dict(said: dict[str, Any]) -> Config:
    """The configuration that `said`, the content of a file, amounts to; raises `ConfigError`."""
    try:
        file = msgspec.convert(said, File)
    except msgspec.ValidationError as error:
        raise ConfigError(_in_our_words(str(error))) from None
    for key, value in msgspec.structs.asdict(file.defaults).items():
        least = 1 if key == "max_message_size" else 0
        if value < least:
            raise ConfigError(f"defaults.{key}: {value} is too small, it must be {least} or more")
    explicit = "max_message_size" in said.get("defaults", {})
    return Config(
        **msgspec.structs.asdict(file), http_max_message_size=file.defaults.max_message_size if explicit else None
    )


def _in_our_words(message: str) -> str:
    """msgspec's "Object contains unknown field `x` - at `$.defaults`", with the key first."""
    what, _, where = message.partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        return f"{key}.{unknown[1]}: unknown key".lstrip(".")
    return f"{key}: {what[:1].lower()}{what[1:]}"
