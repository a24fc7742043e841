"""Reloading: users and policies are read again while the broker runs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from broker.auth.users import Users
from broker.config import Config
from broker.core.broker import Broker
from broker.errors import ConfigError

#: The keys of the configuration that a running broker takes over.
LIVE = {"defaults", "queue"}


class Reloading:
    """What SIGHUP does. A file with a mistake changes nothing, and the log says why."""

    _log = Logger()

    def __init__(self, broker: Broker, users: Users | None) -> None:
        self._broker = broker
        self._users = users
        self._config: Config | None = None
        self._read: Callable[[], Config] | None = None

    def configure(self, config: Config, read: Callable[[], Config]) -> None:
        """There is a configuration file: it said `config`, and `read` reads it again (in a thread)."""
        self._config = config
        self._read = read

    async def run(self) -> None:
        """Read again whatever there is to read."""
        if self._users is None and self._read is None:
            self._log.info("SIGHUP: nothing to reload; there is neither a configuration nor a users file")
        if self._users is not None:
            self._reload_users(self._users)
        if self._read is not None:
            await self._reload_policies(self._read)

    def _reload_users(self, users: Users) -> None:
        try:
            users.reload()
        except ConfigError as error:
            self._log.error("SIGHUP: the users stay as they were: {reason}", reason=error.reason)
        else:
            self._log.info("SIGHUP: {count} users in {path}", count=len(users), path=users.path)

    async def _reload_policies(self, read: Callable[[], Config]) -> None:
        try:
            config = await deferToThread(read)
        except ConfigError as error:
            self._log.error("SIGHUP: the policies stay as they were: {reason}", reason=error.reason)
            return
        except Exception:
            self._log.failure("SIGHUP: the policies stay as they were")
            return
        old, self._config = self._config, config
        changed = {
            field
            for field in msgspec.structs.asdict(config)
            if old is not None and getattr(config, field) != getattr(old, field)
        }
        for field in sorted(changed - LIVE):
            self._log.warn("SIGHUP: {key} has changed; that takes effect at the next start", key=field)
        await self._broker.reload(config.policies)
        self._log.info("SIGHUP: policies of {count} patterns of names", count=len(config.queue))
