"""What one client may have done, whichever protocol it speaks: commands in, outcomes out, in each command's voice.

The order of things and the transport are the connection's (`broker.memcache.connection`); here is what queues have to
do with memcache's commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.auth.door import Access
from broker.auth.rights import Action
from broker.core.burst import Burst, Told
from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.route import Published
from broker.errors import Blocked, BrokerError, NotFound
from broker.memcache import cursors
from broker.memcache.administration import Administration
from broker.memcache.commands import (
    Cas,
    Confirm,
    Delete,
    Flush,
    Get,
    Monitor,
    Set,
    Settle,
    Touch,
    Waiting,
)
from broker.memcache.keys import Key, lifetime
from broker.memcache.reads import Reads
from broker.memcache.voice import BadKey, Outcome, Voice

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory

#: What a `set` says of its body's type; memcache has no word for it.
CONTENT_TYPE = "application/octet-stream"
#: Bodies above this are written by themselves instead of being copied behind their VALUE line.
LARGE = 16 * 1024


class Session:
    """One client that may do something. `write` sends, `room` waits until the client has taken what was sent.

    `when_sent` is called with what is to be done once all that was written has left our buffer.
    """

    def __init__(
        self,
        of: MemcacheFactory,
        access: Access,
        write: Callable[[bytes], None],
        room: Callable[[], Awaitable[None]],
        when_sent: Callable[[Callable[[], None]], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._of = of
        self._broker = of.broker
        self._counters = of.counters
        self._keys = of.keys
        #: What it may do; another one after a login.
        self.access = access
        self._write = write
        self._room = room
        self._when_sent = when_sent
        self._failed = failed
        self.reads = Reads(of.broker, of.dialect, of.counters)
        # Kestrel decides when a client comes.
        self._one_too_many_to_write = 0 < of.refuse_writes_above <= of.counters.curr_connections
        self._one_too_many_to_read = 0 < of.refuse_reads_above <= of.counters.curr_connections
        self._administration = Administration(of, self._check_write, write, room)

    # -- what may be done at the moment

    def _check_write(self) -> None:
        self._of.status.check_write()
        if self._one_too_many_to_write:
            raise Blocked(f"there were {self._of.refuse_writes_above} connections already: this one may not write")

    def _check_status_read(self) -> None:
        self._of.status.check_read()
        if self._one_too_many_to_read:
            raise Blocked(f"there were {self._of.refuse_reads_above} connections already: this one may not read")

    # -- set

    def burst(self, raw: bytes) -> Burst | None:
        """What puts plain messages into the queue of this key together; None if each is to be published by itself."""
        try:
            self._check_write()
            key = self._keys.to_store(raw)
            self.access.publish(key.destination)
        except BrokerError:
            return None  # to be said of each by itself
        return None if key.others else self._broker.burst(key.destination)

    def add(self, burst: Burst, command: Set) -> bool:
        """Put it in with the others of `burst`; False if it must be published by itself. Raises `OverLimit`."""
        message = self._message(command)
        if not burst.takes(message):
            return False
        self.access.put_in(1, len(command.body))
        self._counters.cmd_set += 1
        burst.add(message)
        return True

    def put(self, burst: Burst, told: Told) -> None:
        """Put it in; `told` is called once all of it is on disk, or with why nothing is."""
        self._broker.put([burst], told)

    def publish(self, command: Set) -> tuple[str, Deferred[Published]]:
        """Put a message in; the queue's or topic's name, and what becomes of it. Raises what can be said at once."""
        self._counters.cmd_set += 1
        self._check_write()
        key = self._keys.to_store(command.key)
        message = self._message(command)
        self.access.publish(key.destination)
        name = key.destination.name
        for other in key.others:
            self.access.publish(other)
        self.access.put_in(1, len(command.body))
        if not key.others:
            return name, self._broker.publish(key.destination, message)
        return name, self._broker.publish_to([key.destination, *key.others], message)

    def _message(self, command: Set | Cas) -> Message:
        ttl, expires = lifetime(command.exptime, self._of.dialect)
        return Message(body=command.body, content_type=CONTENT_TYPE, flags=command.flags, ttl=ttl, expires=expires)

    async def _cas(self, command: Cas) -> bytes:
        """Settle one on loan and put another in, as one."""
        self._counters.cmd_set += 1
        self._check_write()
        key = self._keys.to_store(command.key)
        self.access.publish(key.destination)
        delivery = self._on_loan(command.unique)
        if delivery is None:
            self._counters.cas_misses += 1
            return command.voice.said(Outcome.NOT_FOUND)
        self.access.settle(command.unique)
        self.access.put_in(1, len(command.body))
        transaction = self._broker.begin()
        try:
            transaction.ack([delivery])
            for destination in (key.destination, *key.others):
                transaction.publish(destination, self._message(command))
        except NotFound:  # another transaction has it
            transaction.abort()
            return command.voice.said(Outcome.NOT_FOUND)
        except BaseException:
            transaction.abort()
            raise
        await transaction.commit()
        self.reads.forget(delivery)
        self._counters.cas_hits += 1
        return command.voice.said(Outcome.STORED)

    # -- everything that waits

    async def answer(self, command: Waiting) -> bytes:
        """Do it; the last bytes of the answer."""
        if type(command) is not Get:  # 0.2 us, of the commonest
            self.access.doing = type(command).__name__.lower()
        match command:
            case Get():
                return await self._get(command)
            case Cas():
                return await self._cas(command)
            case Settle():
                return await self._settle(command)
            case Touch():
                return await self._touch(command)
            case Delete():
                return await self._delete(command)
            case Flush():
                return await self._flush(command)
            case Monitor():
                return await self._monitor(command)
            case Confirm():
                key = self._keys.to_read(command.key)
                confirmed = await self.reads.confirm(key, command.count)
                return command.voice.end() if confirmed else command.voice.said(Outcome.NOT_OPEN)
            case _:
                return await self._administration.answer(command, self.access)

    # -- get

    def get_now(self, command: Get) -> bytes | None:
        """The answer to a plain get of what is at hand, or surely not there: 12 us less. None: `answer` it."""
        if command.look or len(command.keys) > 1 or self.reads.open:
            return None
        try:
            key = self._keys.to_read(command.keys[0])
            if not key.plain or key.cursor_of:
                return None
            self._check_read(key, look=False)
        except BrokerError:
            return None
        name = key.destination.name
        settles_first = self._broker.policy_of(name).get_settles == "before"
        delivery = None if settles_first else self._broker.at_hand(name)
        if delivery is None and not self._broker.nothing_ready(name):
            return None
        self._counters.cmd_get += 1
        if delivery is None:
            self._counters.get_misses += 1
            return command.voice.missed(key) + command.voice.end()
        self._counters.get_hits += 1
        self._settle_when_sent(delivery)
        return self._value(command.voice, key, delivery) + command.voice.end()

    async def _get(self, command: Get) -> bytes:
        voice = command.voice
        keys = [self._keys.to_read(raw) for raw in command.keys]  # all of them, before anything is taken
        for key in keys:
            self._check_read(key, command.look)
            if key.cursor_of:
                await cursors.begin(self._broker, self.access, key)
        together = len(keys) > 1 and not command.look and any(key.any for key in keys)
        if together and any(key.peek or key.close or key.abort for key in keys):
            raise BadKey("any goes with open and t= only")
        value = b""
        for key in keys[:1] if together else keys:
            if value:
                self._write(value)
                value = b""
            await self._room()
            if together:
                delivery = await self.reads.read(keys, self.access.room)
                key = next((one for one in keys if delivery and one.destination.name == delivery.queue), key)
            else:
                delivery = await self.reads.read([key], self.access.room, look=command.look)
            if delivery is not None and key.open:
                self.access.lent([delivery])
            if delivery is None:
                value = voice.missed(key)
                continue
            if delivery.on_loan and not (key.open or key.peek or command.look):
                self._settle_when_sent(delivery)
            value = self._value(voice, key, delivery)
        return value + voice.end()

    def _check_read(self, key: Key, look: bool) -> None:
        """That the client may read there; what is open may always be closed."""
        if not (key.close or key.abort) or key.open:
            self._check_status_read()
        if key.peek or look:
            self.access.check(Action.BROWSE, key.destination)
        else:
            self.access.subscribe(key.destination, waits=key.wait > 0)

    def _value(self, voice: Voice, key: Key, delivery: Delivery) -> bytes:
        """What is to be written of a value; a large body is written here."""
        head, body, tail = voice.value(key, delivery, self._broker.now)
        if len(body) <= LARGE:
            return b"%b%b%b" % (head, body, tail)
        self._write(head)
        self._write(body)
        return tail

    def _settle_when_sent(self, delivery: Delivery) -> None:
        unsent = self.reads.unsent
        if not unsent:
            self._when_sent(self._sent)
        unsent.append(delivery)

    def _sent(self) -> None:
        # The core makes it durable with the next commit that succeeds; until then a crash repeats the messages.
        _ = self.reads.sent().addErrback(self._failed)

    async def _monitor(self, command: Monitor) -> bytes:
        key = self._keys.to_read(command.key)
        if not key.plain:
            raise BadKey("monitor takes no options")
        self._check_status_read()
        self.access.subscribe(key.destination, waits=True)
        clock, left = self._broker.clock, command.most
        deadline = clock.seconds() + command.seconds
        while self.reads.may_open(key):
            await self._room()
            wait = int(max(deadline - clock.seconds(), 0) * 1000)
            opened = msgspec.structs.replace(key, open=True, wait=wait)
            delivery = await self.reads.read([opened], self.access.room)
            if delivery is None:
                break
            self.access.lent([delivery])
            self._write(self._value(command.voice, key, delivery) + command.voice.end())
            left -= 1
            if not left or clock.seconds() > deadline or not self._may_read():
                break
        return command.voice.end()

    def _may_read(self) -> bool:
        try:
            self._check_status_read()
        except Blocked:
            return False
        return True

    # -- by id, and loans

    def _on_loan(self, unique: int) -> Delivery | None:
        delivery = self._broker.find(unique)
        return None if delivery is None or delivery.delayed else delivery

    async def _settle(self, command: Settle) -> bytes:
        key = self._keys.of_queue(command.key)
        self.access.check(Action.SUBSCRIBE, key.destination)
        delivery = self._on_loan(command.unique)
        if delivery is None or delivery.queue != key.destination.name:
            return command.voice.said(Outcome.EXISTS)
        await self._broker.settle(command.unique)
        self.reads.forget(delivery)
        return command.voice.said(Outcome.SETTLED)

    async def _touch(self, command: Touch) -> bytes:
        self._counters.cmd_touch += 1
        key = self._keys.of_queue(command.key)
        self.access.check(Action.SUBSCRIBE, key.destination)
        oldest = self.reads.oldest(key)
        if oldest is None or not oldest.on_loan:
            self._counters.touch_misses += 1
            return command.voice.said(Outcome.NOT_FOUND)
        await self._broker.touch(oldest.id, max(command.seconds, 0) * 1000)
        self._counters.touch_hits += 1
        return command.voice.said(Outcome.TOUCHED)

    # -- queues

    async def _delete(self, command: Delete) -> bytes:
        self._check_write()
        key = self._keys.of_queue(command.key)
        self.access.check(Action.ADMIN, key.destination)
        name = key.destination.name
        if self._of.dialect.dot == "cursor":
            await cursors.forget(self._broker, name)
        if await self._broker.delete(name):
            self._counters.delete_hits += 1
            return command.voice.said(Outcome.DELETED)
        self._counters.delete_misses += 1
        return command.voice.said(Outcome.NO_QUEUE)

    async def _flush(self, command: Flush) -> bytes:
        self._counters.cmd_flush += 1
        self._check_write()
        key = self._keys.of_queue(command.key)
        self.access.check(Action.ADMIN, key.destination)
        name = key.destination.name
        if self._of.dialect.dot == "cursor":
            await cursors.forget(self._broker, name)
        if key.cursor_of:
            await self._broker.delete(name)  # a cursor begins anew at its next use
        elif self._broker.exists(name):
            await self._broker.purge(name)
            self._counters.flushed(name)
        return command.voice.said(Outcome.FLUSHED)
