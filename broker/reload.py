"""Reloading: users, policies, aliases and certificates are read again while the broker runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import DeferredLock
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from broker.audit import Record, nothing
from broker.auth.limits import Bounds
from broker.auth.users import Users
from broker.config import SECTIONS, Config, File
from broker.core.broker import Broker
from broker.core.policy import Policies
from broker.effective import section
from broker.errors import BrokerError, ConfigError, NothingToReload
from broker.tls import Certificates

#: Changed keys that the log names one by one.
MAX_NAMED = 50


class Reloaded(msgspec.Struct, frozen=True):
    """What holds after the files were read again."""

    #: Patterns of queues' names.
    queues: int
    #: Patterns of topics' names.
    topics: int
    aliases: int
    #: None: there is no users file.
    users: int | None
    #: The keys that are not what they were, and hold from now on.
    changed: list[str]
    #: The keys that are not what they were when the broker started, and hold when it starts again.
    changed_at_next_start: list[str]


class Reloading:
    """What SIGHUP does, and what administrators ask for. A mistake in one file changes nothing of the other either."""

    _log = Logger()

    def __init__(self, broker: Broker, users: Users | None) -> None:
        self._broker = broker
        self._users = users
        #: Where it is taken down.
        self.record: Record = nothing
        #: What goes by ``[limits]``.
        self.bounded: list[Callable[[Bounds], None]] = [] if users is None else [users.bound]
        #: What the listeners with TLS show.
        self.certificates: list[Certificates] = []
        self._started = self._config = Config()
        self._read: Callable[[], Config] | None = None
        self._turn = DeferredLock()

    def configure(self, config: Config, read: Callable[[], Config]) -> None:
        """There is a configuration file: it said `config`, and `read` reads it again (in a thread)."""
        self._started = self._config = config
        self._read = read

    @property
    def config(self) -> Config:
        """What holds now."""
        return self._config

    async def hang_up(self) -> None:
        """SIGHUP: what there is to say is in the log."""
        try:
            await self.reload("SIGHUP")
        except BrokerError:
            pass
        except Exception:
            self._log.failure("SIGHUP: could not reload")

    async def reload(self, asked: str) -> Reloaded:
        """Read again whatever there is to read, one reload at a time; the log's lines begin with who `asked`.

        Raises `NothingToReload`, and `ConfigError` for a mistake: nothing has changed then.
        """
        await self._turn.acquire()
        try:
            done = await self._reload(asked)
            self.record("reload", "done", user=asked, changed=done.changed)
            return done
        except NothingToReload as error:
            self._log.info("{asked}: {reason}", asked=asked, reason=error.reason)
            raise
        except ConfigError as error:
            self._log.error("{asked}: everything stays as it was: {reason}", asked=asked, reason=error.reason)
            self.record("reload", "failed", user=asked, reason=error.reason)
            raise
        finally:
            self._turn.release()

    async def _reload(self, asked: str) -> Reloaded:
        users, read, old = self._users, self._read, self._config
        if users is None and read is None and not self.certificates:
            raise NothingToReload
        shown = await deferToThread(lambda: [(one, one.read()) for one in self.certificates])
        config, policies = (old, None) if read is None else await deferToThread(_compiled, read)
        entries = {} if users is None else await deferToThread(users.read)
        if read is not None:
            for take in self.bounded:
                take(config.limits)
        if users is not None:
            users.take(entries)
            self._log.info("{asked}: {count} users in {path}", asked=asked, count=len(users), path=users.path)
        for certificates, context in shown:
            certificates.take(context)
            self._log.info("{asked}: new handshakes get the certificate in {path}", asked=asked, path=certificates.path)
        changed = self._tell_changes(asked, _live(old), _live(config))
        later = _at_next_start(self._started, config)
        for key in later:
            self._log.warn("{asked}: {key} has changed; that takes effect at the next start", asked=asked, key=key)
        result = Reloaded(
            queues=len(config.queue),
            topics=len(config.topic),
            aliases=len(config.aliases),
            users=None if users is None else len(users),
            changed=changed,
            changed_at_next_start=later,
        )
        if policies is not None:
            self._config = config
            await self._broker.reload(policies)
            self._log.info(
                "{asked}: policies of {queues} patterns of queues and {topics} of topics, {aliases} aliases",
                asked=asked,
                queues=result.queues,
                topics=result.topics,
                aliases=result.aliases,
            )
        return result

    def _tell_changes(self, asked: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        """Name in the log what differs; the keys."""
        missing = object()
        keys = sorted(key for key in old | new if old.get(key, missing) != new.get(key, missing))
        for key in keys[:MAX_NAMED]:
            was, now = (_shown(values[key]) if key in values else "not said" for values in (old, new))
            self._log.info("{asked}: {key} is {now}, and was {was}", asked=asked, key=key, now=now, was=was)
        if len(keys) > MAX_NAMED:
            self._log.info("{asked}: {count} keys more have changed", asked=asked, count=len(keys) - MAX_NAMED)
        return keys


def _compiled(read: Callable[[], Config]) -> tuple[Config, Policies]:
    config = read()
    return config, config.policies


def _live(config: Config) -> dict[str, Any]:
    """What a running broker takes over, by the keys' full names."""
    found = {f"defaults.{key}": value for key, value in msgspec.structs.asdict(config.defaults).items()}
    found |= {f"limits.{key}": value for key, value in msgspec.structs.asdict(config.limits).items() if key != "user"}
    found |= {f"limits.user.{key}": value for key, value in msgspec.structs.asdict(config.limits.user).items()}
    for table, sections in (("queue", config.queue), ("topic", config.topic)):
        for pattern, says in sections.items():
            found |= {f"{section(table, pattern)}.{key}": value for key, value in says.items()}
    return found | {section("aliases", name): targets for name, targets in config.aliases.items()}


def _at_next_start(started: Config, config: Config) -> list[str]:
    keys = [key for key in File.__struct_fields__ if key not in (*SECTIONS, "limits")]
    found = [key for key in keys if getattr(config, key) != getattr(started, key)]
    # Each front has its limit from the start on; what is smaller now holds at once all the same.
    before, after = ((one.max_message_size, one.http_max_message_size) for one in (started, config))
    return found if before == after else [*found, "max_message_size"]


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
