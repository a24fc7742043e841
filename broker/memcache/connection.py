"""One memcache connection: commands from `wire` to the broker, and its replies back.

The order of things on one connection: `set`s join the commit under way without waiting for each other, and their
replies leave in order. Everything else waits until no reply is owed and then has the connection for itself, so that
``set a``, ``get a`` in one write sees the message.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.auth.door import Access, host_of
from broker.auth.rights import Action
from broker.core.delivery import Delivery
from broker.core.destination import Kind, queue
from broker.core.message import Message
from broker.errors import BrokerError
from broker.memcache import replies, stats
from broker.memcache.commands import (
    Command,
    Delete,
    Flush,
    FlushAll,
    Get,
    Malformed,
    Quit,
    Refused,
    Reload,
    Set,
    Stats,
    Verbosity,
    Version,
)
from broker.memcache.dialect import destination_of, key_to_read, lifetime, queue_of
from broker.memcache.login import MAX_TOKEN, Login
from broker.memcache.reads import Reads
from broker.memcache.wire import Parser
from broker.outbox import Outbox, Transport

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory

#: What a `set` says of its body's type; memcache has no word for it.
CONTENT_TYPE = "application/octet-stream"
#: Bytes of commands behind one that waits, before the connection is not read: until then it is, to see a client go.
MAX_PENDING = 64 * 1024
#: Bodies above this are written by themselves instead of being copied behind their VALUE line.
LARGE = 16 * 1024


@implementer(IHalfCloseableProtocol)
class MemcacheProtocol(Protocol):
    """One client."""

    _log = Logger()

    def __init__(self, factory: MemcacheFactory) -> None:
        self._factory = factory
        self._broker = factory.broker
        self._dialect = factory.dialect
        self._counters = factory.counters
        self._access = factory.door.anonymous
        must_login = self._access is None
        self._parser = Parser(MAX_TOKEN if must_login else factory.max_message_size, text=must_login)
        self._reads = Reads(factory.broker, factory.dialect, factory.counters)
        self._working = False
        # A command that has the connection for itself is under way; if it only reads, it is given up with the client.
        self._busy = False
        self._reading: Deferred[bytes] | None = None
        self._drained: Deferred[None] | None = None
        self._input_ended = False
        # Why nothing more is done for this client.
        self._ending = ""

    # -- the transport's side

    def connectionMade(self) -> None:
        """A client came."""
        assert self.transport is not None
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)  # or the open reads of a machine that died stay open
        self._outbox = Outbox(cast(Transport, self.transport), self._relieved)
        self._peer = _shown(self.transport.getPeer())
        self._factory.connected(self)
        self._log.info("memcache client {peer} connected", peer=self._peer)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        if self._ending:
            return
        self._counters.bytes_read += len(data)
        self._parser.feed(data)
        self._work()
        if self._busy and self._parser.pending > MAX_PENDING:
            self._outbox.hold("pending")

    def readConnectionLost(self) -> None:
        """The client says no more; what it said is still answered, without waiting for messages to come."""
        self._input_ended = True
        self._reads.wait_no_more()
        self._work()

    def writeConnectionLost(self) -> None:
        """Never called: we do not close one half."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone: what it had goes back."""
        why = self._ending or reason.getErrorMessage()
        self._ending = why
        self._outbox.close()
        if self._reading is not None:
            self._reading.cancel()
        if self._access is not None:
            self._access.user.connections.discard(self._removed)
        requeued = self._reads.lost()
        self._factory.disconnected(self)
        self._log.info(
            "memcache client {peer} gone: {why}, {requeued} requeued", peer=self._peer, why=why, requeued=requeued
        )

    def give_back(self) -> None:
        """The broker is stopping: give back what is on loan, wait for no message, answer what is owed, and close."""
        self._ending = self._ending or "the broker is stopping"
        self._reads.give_back()
        self._reads.wait_no_more()
        self._work()

    # -- one command after the other

    def _relieved(self) -> None:
        outbox = self._outbox
        if not outbox.full:
            drained, self._drained = self._drained, None
            if drained is not None:
                drained.callback(None)
            outbox.free("unsent")
        self._work()

    def _work(self) -> None:
        """Do what can be done now. Every turn of events that may free the way calls it."""
        if self._working:
            return
        self._working = True
        outbox = self._outbox
        try:
            while not (self._busy or outbox.closed):
                if self._ending:
                    outbox.when_idle(self._finish)
                    return
                if outbox.full:
                    outbox.hold("unsent")
                if outbox.holding:
                    return
                command = self._parser.next_command()
                if command is not None:
                    self._begin(command)
                elif self._input_ended:
                    self._ending = "end of input"
                else:
                    return
        finally:
            self._working = False

    def _begin(self, command: Command) -> None:
        if self._access is None:
            self._log_in(command)
            return
        match command:
            case Set():
                self._set(command)
            case Malformed():
                self._reply(command.reply)
                if command.close:
                    self._ending = "bad input"
            case Refused():
                self._reply(b"" if command.noreply else replies.refused(command))
            case Version():
                self._reply(replies.VERSION)
            case Verbosity():
                self._reply(b"" if command.noreply else replies.OK)
            case Quit():
                self._ending = "quit"
            case _:
                self._busy = True
                self._outbox.when_idle(lambda: self._have(command))

    def _have(self, command: Get | Delete | Flush | FlushAll | Stats | Reload) -> None:
        """Do a command that has the connection for itself."""
        noreply = False
        answer: Coroutine[Deferred[Any], Any, bytes]
        match command:
            case Get():
                answer = self._got(command)
            case Delete():
                answer = self._delete(command)
                noreply = command.noreply
            case Flush():
                answer = self._flush(command)
            case FlushAll():
                answer = self._flush_all()
                noreply = command.noreply
            case Stats():
                answer = self._tell_stats(command)
            case Reload():
                answer = self._reload()
        under_way = Deferred.fromCoroutine(answer)
        # What deletes or flushes is done to its end, also when the client goes.
        self._reading = under_way if isinstance(command, Get | Stats) else None

        def done(reply: bytes) -> None:
            self._write(b"" if noreply else reply)
            self._busy = False
            self._reading = None
            self._outbox.free("pending")
            self._work()

        _ = under_way.addErrback(self._failed).addCallback(done)

    def _log_in(self, command: Command) -> None:
        """Obey nothing but a login."""
        self._busy = True
        assert self.transport is not None
        login = Login(self._factory.door, host_of(self.transport.getPeer()))

        def done(reply: bytes) -> None:
            self._busy = False
            self._access = login.access
            if login.access is not None:
                self._parser.max_message_size = self._factory.max_message_size
                if not self._outbox.closed:
                    login.access.user.connections.add(self._removed)
                self._log.info("memcache client {peer} is {user}", peer=self._peer, user=login.access.user.name)
            self._reply(reply)
            if isinstance(command, Malformed) and command.close:
                self._ending = "bad input"
            self._outbox.free("pending")
            self._work()

        _ = Deferred.fromCoroutine(login.answer(command)).addErrback(self._failed).addCallback(done)

    def _removed(self) -> None:
        """The client is no user any more."""
        self._ending = "its user was removed"
        cast(ITCPTransport, self.transport).abortConnection()

    @property
    def _allowed(self) -> Access:
        """What the client may do, once it has said who it is."""
        return cast(Access, self._access)

    def _failed(self, failure: Failure) -> bytes:
        """The one place where an error becomes a line."""
        if failure.check(CancelledError):
            return b""  # nobody is there to read it
        reply = replies.error_reply(failure.value)
        if reply is None:
            self._log.failure("a memcache command of {peer} failed", failure, peer=self._peer)
            reply = replies.INTERNAL_ERROR
        return reply

    # -- out

    def _write(self, data: bytes) -> None:
        self._counters.bytes_written += len(data)
        self._outbox.write(data)

    def _reply(self, data: bytes) -> None:
        if data:
            self._counters.bytes_written += len(data)
            self._outbox.reply(data)

    async def _room(self) -> None:
        """Wait until the client has taken what was written, if that is much."""
        if self._outbox.full and not self._outbox.closed:
            self._drained = Deferred()
            await self._drained

    def _finish(self) -> None:
        """Nothing is owed any more: close, once all that was read with a plain get is out of our hands."""
        if self._reads.unsent:
            self._outbox.when_sent(self._close)
        else:
            self._close()

    def _close(self) -> None:
        assert self.transport is not None
        self._outbox.close()
        self.transport.loseConnection()

    # -- set

    def _set(self, command: Set) -> None:
        self._counters.cmd_set += 1
        ttl, expires = lifetime(command.exptime, self._dialect.relative_limit)
        try:
            destination = destination_of(command.key)
            self._allowed.publish(destination)
            published = self._broker.publish(
                destination,
                Message(body=command.body, content_type=CONTENT_TYPE, flags=command.flags, ttl=ttl, expires=expires),
            )
        except Exception:
            reply = self._failed(Failure())
            self._reply(b"" if command.noreply else reply)
            return
        # With noreply too: whoever sends faster than we commit is not read.
        promise = self._outbox.promise(len(command.body))

        def keep(reply: bytes) -> None:
            if command.noreply:
                reply = b""
            self._counters.bytes_written += len(reply)
            promise.keep(reply)

        _ = published.addCallbacks(lambda _: replies.STORED, self._failed).addCallback(keep)

    # -- get

    async def _got(self, command: Get) -> bytes:
        keys = [key_to_read(raw) for raw in command.keys]  # all of them, before anything is taken
        for key in keys:
            if key.peek:
                self._allowed.check(Action.BROWSE, key.destination)
            else:
                self._allowed.subscribe(key.destination, waits=key.wait > 0)
        value = b""
        for raw, key in zip(command.keys, keys, strict=True):
            if value:
                self._write(value)
                value = b""
            await self._room()
            delivery = await self._reads.read(key)
            if delivery is None:
                continue
            if delivery.on_loan and not (key.open or key.peek):
                self._settle_when_sent(delivery)
            message = delivery.message
            body = message.body
            cas = b" %d" % delivery.id if command.cas else b""
            value = b"VALUE %b %d %d%b\r\n" % (raw, message.flags, len(body), cas)
            if len(body) <= LARGE:
                value = b"%b%b\r\n" % (value, body)
            else:
                self._write(value)
                self._write(body)
                value = b"\r\n"
        return value + replies.END

    def _settle_when_sent(self, delivery: Delivery) -> None:
        unsent = self._reads.unsent
        if not unsent:
            self._outbox.when_sent(self._sent)
        unsent.append(delivery)

    def _sent(self) -> None:
        # The core makes it durable with the next commit that succeeds; until then a crash repeats the messages.
        _ = self._reads.sent().addErrback(lambda failure: None if failure.check(BrokerError) else self._failed(failure))

    # -- the rest

    async def _delete(self, command: Delete) -> bytes:
        name = queue_of(command.key)
        self._allowed.check(Action.ADMIN, queue(name))
        return replies.DELETED if await self._broker.delete(name) else self._dialect.delete_miss

    async def _flush(self, command: Flush) -> bytes:
        name = queue_of(command.key)
        self._allowed.check(Action.ADMIN, queue(name))
        await self._broker.purge(name)
        return replies.END

    async def _flush_all(self) -> bytes:
        self._allowed.check(Action.ADMIN, None)
        if self._factory.flush_all:
            for name in self._broker.queues():
                await self._broker.purge(name, on_loan=True)
        return self._dialect.flushed_all

    async def _reload(self) -> bytes:
        self._allowed.check(Action.ADMIN, None)
        await self._factory.reload(f"{self._allowed.user.name} over memcache")
        return replies.OK

    async def _tell_stats(self, command: Stats) -> bytes:
        self._allowed.look_around()
        if command.argument:
            return replies.stats_of(command.argument)
        if self._allowed.may(Action.BROWSE, None):
            self._write(await stats.general(self._factory.surveyor, self._broker.now(), self._counters))
        for lines in stats.queues(self._broker, self._allowed.seen(Kind.QUEUE, self._factory.surveyor.queues())):
            self._write(lines)
            await self._room()
        return replies.END


def _shown(address: IAddress) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return str(address) if host is None else f"{host}:{port}"
