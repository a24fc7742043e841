"""One memcache connection: commands from its parser to the session, and replies back.

Its first byte says which protocol it speaks: 0x80 the binary one, anything else text and meta together.

The order of things on one connection: `set`s join the commit under way without waiting for each other, and their
replies leave in order. Everything else waits until no reply is owed and then has the connection for itself, so that
``set a``, ``get a`` in one write sees the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.auth.door import Access, host_of
from broker.core.burst import Burst
from broker.core.route import Published
from broker.errors import BrokerError, OverLimit
from broker.hello import TLS_HELLO, refuse, shown
from broker.memcache import commands
from broker.memcache.binary import REQUEST, BinaryParser
from broker.memcache.commands import Command, Done, Malformed, Quit, Set, Version, Waiting
from broker.memcache.login import MAX_TOKEN, Login
from broker.memcache.session import Session
from broker.memcache.text import VERSION
from broker.memcache.voice import Outcome, Voice
from broker.memcache.wire import Parser
from broker.memcache.words import texts_of
from broker.outbox import Outbox, Transport

if TYPE_CHECKING:
    from broker.memcache.server import MemcacheFactory

#: Bytes of commands behind one that waits, before the connection is not read: until then it is, to see a client go.
MAX_PENDING = 64 * 1024
#: Why a connection ends whose dialect closes after errors.
BECAUSE_OF_AN_ERROR = "an error"


@implementer(IHalfCloseableProtocol)
class MemcacheProtocol(Protocol):
    """One client."""

    _log = Logger()

    def __init__(self, factory: MemcacheFactory) -> None:
        self._factory = factory
        self._counters = factory.counters
        access = factory.door.anonymous
        self._must_login = access is None
        self._session = Session(
            factory, access or factory.door.nobody, self._write, self._room, self._when_sent, self._log_unless_ours
        )
        self._parser: Parser | BinaryParser | None = None
        self._working = False
        # A command that has the connection for itself is under way; if it only reads, it is given up with the client.
        self._busy = False
        self._reading: Deferred[bytes] | None = None
        self._drained: Deferred[None] | None = None
        # `set`s of one key that came together, and what puts them in.
        self._sets: list[Set] = []
        self._burst: Burst | None = None
        self._input_ended = False
        # Why nothing more is done for this client.
        self._ending = ""
        # When it said something last, and what looks at that.
        self._heard = factory.broker.clock.seconds()
        self._idle: IDelayedCall | None = None
        #: Where it comes from.
        self.peer = ""

    # -- the transport's side

    def connectionMade(self) -> None:
        """A client came."""
        assert self.transport is not None
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)  # or the open reads of a machine that died stay open
        self._outbox = Outbox(cast(Transport, self.transport), self._relieved)
        self.peer = shown(self.transport.getPeer())
        self._factory.connected(self)
        self._watch(self._factory.idle_timeout)
        self._log.info("memcache client {peer} connected", peer=self.peer)
        access = self._factory.door.unnamed(self.transport)
        if access is not None:
            # By its certificate, or as anybody; which protocol it speaks is not known yet.
            self._outbox.reply(self._entered(access, texts_of(self._factory.dialect).loud))
            self._work()

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""
        if self._ending or not data:
            return
        self._counters.bytes_read += len(data)
        self._heard = self._factory.broker.clock.seconds()
        if self._parser is None:
            if data.startswith(TLS_HELLO):
                self._ending = "TLS on a plain port"
                refuse(cast(ITCPTransport, self.transport), self._log, "memcache")
                return
            size = MAX_TOKEN if self._must_login else self._factory.max_message_size
            binary = data[0] == REQUEST
            self._parser = BinaryParser(size) if binary else Parser(size, self._factory.dialect)
        self._parser.feed(data)
        self._work()
        if self._busy and self._parser.pending > MAX_PENDING:
            self._outbox.hold("pending")

    def readConnectionLost(self) -> None:
        """The client says no more; what it said is still answered, without waiting for messages to come."""
        self._input_ended = True
        self._session.reads.wait_no_more()
        self._work()

    def writeConnectionLost(self) -> None:
        """Never called: we do not close one half."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone: what it had goes back."""
        why = self._ending or reason.getErrorMessage()
        self._ending = why
        self._outbox.close()
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self._session.access.leave(self._removed)
        requeued = self._session.reads.lost()
        self._factory.disconnected(self)
        self._log.info(
            "memcache client {peer} gone: {why}, {requeued} requeued", peer=self.peer, why=why, requeued=requeued
        )

    def _watch(self, seconds: float) -> None:
        """Look after so many seconds whether the client has said anything; 0: never."""
        if seconds:
            self._idle = self._factory.broker.clock.callLater(seconds, self._look)

    def _look(self) -> None:
        """Close on a client that says nothing and waits for nothing."""
        left = self._heard + self._factory.idle_timeout - self._factory.broker.clock.seconds()
        if self._busy or self._outbox.owed:
            self._watch(self._factory.idle_timeout)
        elif left > 0:
            self._watch(left)
        else:
            self._ending = self._ending or "idle"
            self._work()

    def give_back(self) -> None:
        """The broker is stopping: give back what is on loan, wait for no message, answer what is owed, and close."""
        self._ending = self._ending or "the broker is stopping"
        self._session.reads.give_back()
        self._session.reads.wait_no_more()
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
                command = None if self._parser is None else self._parser.next_command()
                if isinstance(command, Set) and self._gather(command):
                    continue
                self._put_in()
                if command is not None:
                    self._begin(command)
                elif self._input_ended:
                    self._ending = "end of input"
                else:
                    return
        finally:
            self._put_in()
            self._working = False

    def _begin(self, command: Command) -> None:
        if self._must_login or isinstance(command, commands.Login):
            self._log_in(command)
            return
        match command:
            case Set():
                self._set(command)
            case Malformed():
                self._reply(command.reply)
                if command.close:
                    self._ending = "bad input"
            case Done():
                self._reply(command.voice.said(command.outcome))
            case Version():
                self._reply(command.voice.text(VERSION))
            case Quit():
                self._reply(command.voice.said(Outcome.BYE))
                self._ending = "quit"
            case commands.Get() if (reply := self._got(command)) is not None:
                self._write(reply)
            case _:
                self._busy = True
                self._outbox.when_idle(lambda: self._have(command))

    def _got(self, command: commands.Get) -> bytes | None:
        """What a get answers that has nothing to wait for."""
        return None if self._outbox.owed or self._outbox.full else self._session.get_now(command)

    def _have(self, command: Waiting) -> None:
        """Do a command that has the connection for itself."""
        under_way = Deferred.fromCoroutine(self._session.answer(command))
        # What deletes or flushes is done to its end, also when the client goes.
        self._reading = under_way if isinstance(command, commands.READING) else None

        def done(reply: bytes) -> None:
            self._write(reply)
            self._busy = False
            self._reading = None
            if isinstance(command, commands.Shutdown) and not reply:
                self._ending = self._ending or "shutdown"
            self._outbox.free("pending")
            self._work()

        _ = under_way.addErrback(self._failed, command.voice).addCallback(done).addErrback(self._broken)

    def _log_in(self, command: Command) -> None:
        """Obey nothing but a login."""
        self._busy = True
        assert self.transport is not None
        login = Login(self._factory.door, host_of(self.transport.getPeer()))
        self._outbox.when_idle(lambda: self._ask(login, command))

    def _ask(self, login: Login, command: Command) -> None:
        def done(reply: bytes) -> None:
            self._busy = False
            if login.tried:
                self._counters.auth_cmds += 1
                self._counters.auth_errors += login.access is None
            if login.access is not None:
                reply = self._entered(login.access, command.voice) or reply
            self._reply(reply)
            if isinstance(command, Malformed) and command.close:
                self._ending = "bad input"
            self._outbox.free("pending")
            self._work()

        answered = Deferred.fromCoroutine(login.answer(command))
        _ = answered.addErrback(self._failed, command.voice).addCallback(done).addErrback(self._broken)

    def _entered(self, access: Access, voice: Voice) -> bytes:
        """The client has said who it is; what to tell it if it may not come in all the same."""
        self._session.access.leave(self._removed)
        try:
            if not self._outbox.closed:
                access.enter(self._removed)
        except OverLimit:
            self._ending = "its user has too many connections"
            return self._failed(Failure(), voice)
        self._must_login = False
        known = self._session.access.user is access.user
        self._session.access = access
        if known:
            return b""
        if self._parser is not None:
            self._parser.max_message_size = self._factory.max_message_size
        self._log.info("memcache client {peer} is {user}", peer=self.peer, user=access.user.name)
        return b""

    def _removed(self) -> None:
        """The client is no user any more."""
        self._ending = "its user was removed"
        cast(ITCPTransport, self.transport).abortConnection()

    def _failed(self, failure: Failure, voice: Voice) -> bytes:
        """The one place where an error becomes bytes."""
        if failure.check(CancelledError):
            return b""  # nobody is there to read it
        error = failure.value
        if isinstance(error, BrokerError):
            reply, close = voice.failed(error)
            if close:
                self._ending = self._ending or BECAUSE_OF_AN_ERROR
            return reply
        self._log.failure("a memcache command of {peer} failed", failure, peer=self.peer)
        return voice.broken()

    def _broken(self, failure: Failure) -> None:
        """Nobody expected that; a client that waits for an answer that never comes must not wait for ever."""
        self._log.failure("answering {peer} failed", failure, peer=self.peer)
        self._ending = self._ending or "an error of ours"
        cast(ITCPTransport, self.transport).abortConnection()

    def _log_unless_ours(self, failure: Failure) -> None:
        if not failure.check(BrokerError):
            self._log.failure("a memcache command of {peer} failed", failure, peer=self.peer)

    # -- set

    def _gather(self, command: Set) -> bool:
        """Put it in together with those of the same key that came with it; False if it must be published by itself."""
        if self._must_login:
            return False
        if not self._sets or self._sets[0].key != command.key:
            self._put_in()
            self._burst = self._session.burst(command.key)
        if self._burst is None:
            return False
        try:
            if not self._session.add(self._burst, command):
                return False
        except OverLimit:
            self._put_in()
            self._reply(self._failed(Failure(), command.voice))
        else:
            self._sets.append(command)
        return True

    def _put_in(self) -> None:
        """Put in what was gathered; it has one reply, in the words of each."""
        if not self._sets:
            return
        burst, self._burst = self._burst, None
        sets, self._sets = self._sets, []
        assert burst is not None
        promise = self._outbox.promise(burst.bodies, len(sets))

        def stored() -> bytes:
            first = burst.first
            ids = range(first, first + len(sets)) if first else [0] * len(sets)
            return b"".join(
                command.voice.said(Outcome.STORED, id, len(command.body)) for id, command in zip(ids, sets, strict=True)
            )

        def told(error: BrokerError | None) -> None:
            if error is None:
                reply = stored()
            else:
                reply = b"".join(self._failed(Failure(error), command.voice) for command in sets)
            self._counters.bytes_written += len(reply)
            promise.keep(reply)
            if self._ending == BECAUSE_OF_AN_ERROR:
                self._work()

        self._session.put(burst, told)

    def _set(self, command: Set) -> None:
        voice = command.voice
        try:
            name, published = self._session.publish(command)
        except Exception:
            self._reply(self._failed(Failure(), voice))
            return
        # With noreply too: whoever sends faster than we commit is not read.
        promise = self._outbox.promise(len(command.body))

        def stored(published: Published) -> bytes:
            return voice.said(Outcome.STORED, published.deliveries.get(name, 0), len(command.body))

        def keep(reply: bytes) -> None:
            self._counters.bytes_written += len(reply)
            promise.keep(reply)
            if self._ending == BECAUSE_OF_AN_ERROR:
                self._work()

        _ = published.addCallbacks(stored, self._failed, errbackArgs=(voice,)).addCallback(keep)

    # -- out

    def _write(self, data: bytes) -> None:
        self._counters.bytes_written += len(data)
        self._outbox.write(data)

    def _reply(self, data: bytes) -> None:
        if data:
            self._counters.bytes_written += len(data)
            self._outbox.reply(data)

    def _when_sent(self, call: Any) -> None:
        self._outbox.when_sent(call)

    async def _room(self) -> None:
        """Wait until the client has taken what was written, if that is much."""
        if self._outbox.full and not self._outbox.closed:
            self._drained = Deferred()
            await self._drained

    def _finish(self) -> None:
        """Nothing is owed any more: close, once all that was read with a plain get is out of our hands."""
        if self._session.reads.unsent:
            self._outbox.when_sent(self._close)
        else:
            self._close()

    def _close(self) -> None:
        assert self.transport is not None
        self._outbox.close()
        self.transport.loseConnection()
