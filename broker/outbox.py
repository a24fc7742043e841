"""What a connection owes and what it has not yet sent: replies in order, flow control both ways.

Used by the fronts that hold a connection (memcache, STOMP). Three rules in one place:

- Replies leave in the order of their requests, also when a later request is done first (`promise`).
- Bytes count as *sent* only when our own send buffer is empty again (`when_sent`): what is still in it when the
  connection dies was never delivered.
- Whoever owes too much is not read: reading stops for as long as anybody holds it (`hold`, `free`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

#: Unsent bytes above which a connection gets no further deliveries: one read of a peer that keeps up.
HIGH_WATER = 64 * 1024
#: Replies a connection may owe before it is not read; a pipeline of 32 connections deep fits a group of 8 MiB.
MAX_OWED = 1024
#: Bytes of requests behind owed replies before it is not read. One larger request is always taken.
MAX_OWED_BYTES = 1024 * 1024
#: Bytes of replies in our send buffer before it is not read. Deliveries do not count: they stop at `HIGH_WATER`, and a
#: client that cannot read while it writes must still get its acks through.
MAX_UNSENT_REPLIES = 512 * 1024


class Transport(Protocol):
    """What is asked of a Twisted TCP transport."""

    def write(self, data: bytes, /) -> None: ...
    def registerProducer(self, producer: object, streaming: bool, /) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


class Promise:
    """The place of a reply that is not known yet, or of several that are known together.

    It is kept or, when there is nothing to say, kept with ``b""``.
    """

    __slots__ = ("_outbox", "count", "reply", "size")

    def __init__(self, outbox: Outbox, size: int, count: int) -> None:
        self._outbox = outbox
        self.size = size
        self.count = count
        self.reply: bytes | None = None

    def keep(self, reply: bytes) -> None:
        """Give the reply; it is written once all earlier ones are. Once only."""
        self.reply = reply
        self._outbox._kept()


@implementer(IPullProducer)
class Outbox:
    """One connection's way out, and the brake on its way in.

    `relieved` is called whenever reading may go on after a hold, or the unsent bytes are gone after `full`: the front
    then works off what it has parsed and resumes its subscriptions. `wrote` is called whenever something is written.
    """

    def __init__(
        self, transport: Transport, relieved: Callable[[], None], wrote: Callable[[], None] = lambda: None
    ) -> None:
        self._transport = transport
        self._relieved = relieved
        self._wrote = wrote
        self._promises: deque[Promise] = deque()
        self._owed = self._owed_bytes = 0
        self._unsent = 0
        self._unsent_replies = 0
        self._when_sent: list[Callable[[], None]] = []
        self._when_idle: list[Callable[[], None]] = []
        self._holds: set[str] = set()
        #: True while more is unsent than the peer has shown to take: no deliveries now.
        self.full = False
        #: True once `close` was called: nothing is written any more.
        self.closed = False
        self._registered = False
        transport.registerProducer(self, False)
        self._registered = True

    # -- out

    def write(self, data: bytes) -> None:
        """Write now, ahead of any promise: for deliveries, which answer no request."""
        if self.closed or not data:
            return
        self._unsent += len(data)
        if self._unsent >= HIGH_WATER:
            self.full = True
        self._transport.write(data)
        self._wrote()

    def reply(self, data: bytes) -> None:
        """A reply that is known at once; it still waits for the promises made before it."""
        if self._promises:
            self.promise().keep(data)
        else:
            self._answer(data)

    def _answer(self, data: bytes) -> None:
        """Write replies; whoever asks on and on without reading them is not read either."""
        self.write(data)
        self._unsent_replies += len(data)
        if self._unsent_replies >= MAX_UNSENT_REPLIES and not self.closed:
            self.hold("unsent replies")

    def promise(self, size: int = 0, count: int = 1) -> Promise:
        """The place of the next reply, or of so many; `size` is what is held in memory until then, in bytes."""
        promise = Promise(self, size, count)
        self._promises.append(promise)
        self._owed += count
        self._owed_bytes += size
        if self._owed >= MAX_OWED or self._owed_bytes >= MAX_OWED_BYTES:
            self.hold("owes replies")
        return promise

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call once everything written so far has left our send buffer; never, if the connection dies before."""
        self._when_sent.append(call)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call once no reply is owed; at once, if none is."""
        if self._promises:
            self._when_idle.append(call)
        else:
            call()

    def last(self, promise: Promise, reply: bytes) -> bool:
        """Keep `promise` as the last one: what was promised after it is forgotten.

        False if it was forgotten itself, because an earlier one became the last.
        """
        if promise not in self._promises:
            return False
        while self._promises[-1] is not promise:
            self._forget(self._promises.pop())
        promise.keep(reply)
        return True

    @property
    def owed(self) -> int:
        """Replies not yet written."""
        return self._owed

    def _forget(self, promise: Promise) -> None:
        self._owed -= promise.count
        self._owed_bytes -= promise.size

    def _kept(self) -> None:
        promises = self._promises
        ready = []
        while promises and promises[0].reply is not None:
            promise = promises.popleft()
            self._forget(promise)
            ready.append(promise.reply or b"")
        if ready:
            self._answer(b"".join(ready))
        if self._owed <= MAX_OWED // 2 and self._owed_bytes <= MAX_OWED_BYTES // 2:
            self.free("owes replies")
        if not promises:
            calls, self._when_idle = self._when_idle, []
            for call in calls:
                call()

    # -- in

    @property
    def holding(self) -> bool:
        """True while nothing more is to be read or parsed."""
        return bool(self._holds)

    def hold(self, reason: str) -> None:
        """Stop reading until everybody who holds has freed."""
        if not self._holds:
            self._transport.pauseProducing()
        self._holds.add(reason)

    def free(self, reason: str) -> None:
        """Take a hold back; nothing happens if there is none of this reason."""
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds and not self.closed:
                self._transport.resumeProducing()
                self._relieved()

    # -- the transport's side (IPullProducer)

    def resumeProducing(self) -> None:
        """The transport's send buffer is empty."""
        if not self._registered:
            return  # registerProducer calls it once at once, whatever is in the buffer
        self._unsent = self._unsent_replies = 0
        calls, self._when_sent = self._when_sent, []
        for call in calls:
            call()
        self.free("unsent replies")
        if self.full:
            self.full = False
            self._relieved()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.close()

    def close(self) -> None:
        """Write nothing more, and let the transport close once its buffer is empty. What was promised is forgotten."""
        if self.closed:
            return
        self.closed = True
        self._promises.clear()
        self._owed = self._owed_bytes = 0
        self._when_sent.clear()
        self._when_idle.clear()
        self._transport.unregisterProducer()
