"""What concerns the whole server, or tells of it: numbers, dumps, flushes, status, reload, shutdown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from broker.auth.door import Access
from broker.auth.rights import Action
from broker.core.destination import Kind
from broker.memcache import dumps, stats
from broker.memcache.commands import (
    Describe,
    DumpConfig,
    DumpStats,
    FlushAll,
    FlushExpired,
    Reload,
    Shutdown,
    Stats,
    Status,
)
from broker.memcache.voice import Outcome

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory

#: The commands that are answered here.
Administrative = Describe | DumpConfig | DumpStats | FlushAll | FlushExpired | Reload | Shutdown | Stats | Status


class Administration:
    """The commands of one client that are about no queue alone; `check_write`, `write` and `room` are its session's."""

    def __init__(
        self,
        of: MemcacheFactory,
        check_write: Callable[[], None],
        write: Callable[[bytes], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._of = of
        self._broker = of.broker
        self._counters = of.counters
        self._keys = of.keys
        self._check_write = check_write
        self._write = write
        self._room = room

    async def answer(self, command: Administrative, access: Access) -> bytes:
        """Do it, if `access` lets it be done; the last bytes of the answer."""
        match command:
            case Stats():
                return await self._stats(command, access)
            case DumpStats() | DumpConfig():
                return await self._dump(command, access)
            case Describe():
                return self._describe(command, access)
            case FlushAll():
                return await self._flush_all(command, access)
            case FlushExpired():
                return await self._flush_expired(command, access)
            case Reload():
                access.check(Action.ADMIN, None)
                await self._of.reload(f"{access.user.name} over memcache")
                return command.voice.said(Outcome.RELOADED)
            case Status():
                return await self._status(command, access)
            case Shutdown():
                return self._shutdown(command, access)

    # -- queues

    async def _flush_all(self, command: FlushAll, access: Access) -> bytes:
        self._counters.cmd_flush += 1
        self._check_write()
        access.check(Action.ADMIN, None)
        if self._of.flush_all and self._of.dialect.flushes:
            for name in self._broker.queues():
                await self._broker.purge(name, on_loan=True)
                self._counters.flushed(name)
        return command.voice.said(Outcome.FLUSHED_ALL)

    async def _flush_expired(self, command: FlushExpired, access: Access) -> bytes:
        if command.key is None:
            access.check(Action.ADMIN, None)
            names = self._of.surveyor.queues()
        else:
            self._check_write()
            key = self._keys.of_queue(command.key)
            access.check(Action.ADMIN, key.destination)
            names = [key.destination.name]
        flushed = 0
        for name in names:
            # Whoever looks for the next message settles what has expired before it.
            before = self._broker.queue_stats(name).expired
            await self._broker.peek(name)
            flushed += self._broker.queue_stats(name).expired - before
        return command.voice.text(b"%d\r\n" % flushed)

    # -- the server

    async def _stats(self, command: Stats, access: Access) -> bytes:
        voice = command.voice
        match command.argument:
            case b"reset":
                access.check(Action.ADMIN, None)
            case b"conns":
                access.check(Action.BROWSE, None)  # it says where others come from
            case _:
                access.look_around()
        if command.argument:
            return self._stats_of(command)
        if access.may(Action.BROWSE, None):
            numbers = await stats.general(self._of.surveyor, self._broker.now(), self._counters)
            self._write(b"".join(voice.stat(name, number) for name, number in numbers.items()))
        for name in self._seen(access):
            self._write(b"".join(voice.stat(*one) for one in stats.queue(self._of, name)))
            await self._room()
        return voice.end()

    def _stats_of(self, command: Stats) -> bytes:
        voice = command.voice
        if command.argument == b"reset":
            self._counters.reset()
            return voice.said(Outcome.RESET)
        found = stats.special(command.argument, self._of)
        if found is None:
            return voice.said(Outcome.UNKNOWN)
        return b"".join(voice.stat(name, value) for name, value in found) + voice.end()

    def _seen(self, access: Access) -> list[str]:
        return access.seen(Kind.QUEUE, self._of.surveyor.queues())

    async def _dump(self, command: DumpStats | DumpConfig, access: Access) -> bytes:
        access.look_around()
        names = self._seen(access)
        if command.keys:
            asked = [self._keys.of_queue(raw).destination.name for raw in command.keys]
            names = access.seen(Kind.QUEUE, asked)
        numbers = isinstance(command, DumpStats)
        for name in names:
            values = dumps.numbers(self._of, name) if numbers else self._policy(name)
            self._write(dumps.block(name, values))
            await self._room()
        return command.voice.end() if names else b"\r\n" + command.voice.end()

    def _policy(self, name: str) -> dict[str, object]:
        return dumps.policy(self._broker.policy_of(name))

    def _describe(self, command: Describe, access: Access) -> bytes:
        key = self._keys.of_queue(command.key)
        access.check(Action.BROWSE, key.destination)
        name = key.destination.name
        if not self._broker.exists(name):
            return command.voice.text(b"")
        numbers = dict(stats.of_queue(self._of, name)) | self._policy(name)
        return command.voice.text(b"".join(command.voice.stat(what, value) for what, value in numbers.items()))

    async def _status(self, command: Status, access: Access) -> bytes:
        if command.level is None:
            return command.voice.text(self._of.status.level.name.encode() + b"\r\n")
        access.check(Action.ADMIN, None)
        await self._of.status.change(command.level, f"{access.user.name} over memcache")
        return command.voice.said(Outcome.STATUS)

    def _shutdown(self, command: Shutdown, access: Access) -> bytes:
        if self._of.shutdown is None:
            return command.voice.said(Outcome.NO_SHUTDOWN)
        access.check(Action.ADMIN, None)
        self._of.shutdown(f"{access.user.name} over memcache")
        return command.voice.said(Outcome.BYE)
