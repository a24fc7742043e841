"""Event streams: messages of a channel on loan, or what is published to a topic, as server-sent events or NDJSON.

Back-pressure goes all the way: a client that takes no more gets no more, and its messages stay in the queue. One that
takes nothing for `PATIENCE` seconds is closed, with an event that says so; so is a topic's reader for whom messages had
to be dropped. With ``Last-Event-ID`` a topic's reader goes on where it was, as far as the topic's log is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from broker.core.broker import Broker
from broker.core.browsing import State
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.core.patterns import is_pattern
from broker.errors import BadValue
from broker.http import cloudevents
from broker.http.call import Answer, Call, Sink, Stream
from broker.http.looking import accepting
from broker.http.rendering import NDJSON, accepts, encode, envelope

EVENTS = "text/event-stream"
#: Seconds without an event after which a comment says that we are there: proxies cut what is silent for 30 or 60.
KEEP_ALIVE = 15
#: Seconds for which a client may take nothing while something waits for it.
PATIENCE = 30
#: Messages on loan to one stream, without ``credit`` and at most.
CREDIT, MAX_CREDIT = 10, 1_000
#: Messages of a topic's log read at a time.
_PAGE = 100


class Streams:
    """``/channels/C/stream`` and ``/topics/T/stream``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: The message of a topic that was encoded last: a thousand readers get the same bytes.
        self._last: tuple[Message, bytes] | None = None

    async def channel(self, call: Call) -> Answer | Stream:
        """``GET /channels/C/stream``: ``credit`` messages on loan at a time; unsettled ones return at the end."""
        lines = _as_lines(call)
        credit = call.parameters.integer("credit", least=1, called="credit") or CREDIT
        if credit > MAX_CREDIT:
            raise BadValue(f"Invalid credit: at most {MAX_CREDIT}.")
        if call.method == "HEAD":
            return Answer(200, fields=_fields(lines))
        source, broker = queue(call.match.channel), self._broker
        if broker.is_alias(source):
            raise BadValue(f"{source.name} is an alias: read the channels that it stands for.")
        call.access.room()
        broker.status.check_take()

        def encoded(delivery: Delivery) -> bytes:
            return _event(encode(envelope(delivery, broker.now())), str(delivery.id), lines)

        async def run(sink: Sink) -> None:
            reader = _Reader(broker, sink, lines, encoded)
            granted = call.access.reserve(credit)
            subscription = broker.subscribe(source, reader.deliver, prefetch=granted)
            try:
                await reader.run(subscription)
            finally:
                reader.stop()
                broker.unsubscribe(subscription)
                call.access.free(granted)
                unsettled = list(subscription.unsettled)
                if call.gone or reader.slow:
                    broker.lost(unsettled)
                else:
                    broker.release(unsettled)

        return Stream(run, _fields(lines))

    async def topic(self, call: Call) -> Answer | Stream:
        """``GET /topics/T/stream``: what is published from now on, or behind ``Last-Event-ID``."""
        lines = _as_lines(call)
        source = topic(call.match.topic)
        matches = accepting(call.parameters.text("match"))
        after = _last_event(call, self._broker.now())
        if after is not None and is_pattern(source.name):
            raise BadValue("A pattern of topics has no log: leave out Last-Event-ID, after and since.")
        if call.method == "HEAD":
            return Answer(200, fields=_fields(lines))
        broker = self._broker
        broker.status.check_take()

        def encoded(delivery: Delivery) -> bytes:
            if matches is not None and not matches(delivery.message, delivery.source):
                return b""
            return self._encoded(delivery.message, delivery.message_id, delivery.source, lines)

        async def run(sink: Sink) -> None:
            reader = _Reader(broker, sink, lines, encoded, settles=True)
            subscription = broker.subscribe(source, reader.deliver, prefetch=CREDIT, dropped=reader.too_slow)
            reader.subscription = subscription
            try:
                if after is not None:
                    reader.catching_up = True
                    broker.pause(subscription)
                    await self._catch_up(reader, source, after, encoded_seen)
                    await reader.room()
                    reader.catching_up = False
                    broker.resume(subscription)
                await reader.run(subscription)
            finally:
                reader.stop()
                broker.unsubscribe(subscription)

        def encoded_seen(message: Message, message_id: str) -> bytes:
            if matches is not None and not matches(message, source):
                return b""
            return self._encoded(message, message_id, source, lines)

        return Stream(run, _fields(lines))

    async def _catch_up(
        self, reader: _Reader, source: Destination, after: int, encoded: Callable[[Message, str], bytes]
    ) -> None:
        """Write what the topic's log holds behind `after`; what comes meanwhile waits for its turn."""
        position: int | None = after
        while position is not None:
            page = await self._broker.browse(source, states=(State.READY,), after=position, limit=_PAGE)
            for seen in page.seen:
                await reader.room()
                reader.write(encoded(seen.message, seen.message_id))
                reader.reached = seen.message.stamp
            position = page.after

    def _encoded(self, message: Message, message_id: str, source: Destination, lines: bool) -> bytes:
        if self._last is None or self._last[0] is not message:
            self._last = message, encode(cloudevents.structured(message, message_id, source))
        if lines:  # a line has no id of its own to go on from
            return b'{"position":%d,"event":%b}\n' % (message.stamp, self._last[1])
        return _event(self._last[1], str(message.stamp), lines)


class _Reader:
    """One client, and what it is sent."""

    def __init__(
        self,
        broker: Broker,
        sink: Sink,
        lines: bool,
        encoded: Callable[[Delivery], bytes],
        *,
        settles: bool = False,
    ) -> None:
        self._broker = broker
        self._sink = sink
        self._lines = lines
        self._encoded = encoded
        #: True: what was written is settled.
        self._settles = settles
        self._full = False
        self._ended: Deferred[None] = Deferred()
        self._room: Deferred[None] | None = None
        self._clock = broker.clock
        self._alive: IDelayedCall = self._clock.callLater(KEEP_ALIVE, self._say_so)
        self._late: IDelayedCall | None = None
        self.subscription: Subscription | None = None
        #: The stamp up to which the log was read: what comes from below it was written already.
        self.reached = 0
        self.slow = False
        #: True while the log is read: what comes meanwhile waits, whatever room the client has.
        self.catching_up = False
        sink.flow = self._flow

    async def run(self, subscription: Subscription) -> None:
        """Until the client is too slow, or somebody cancels this."""
        self.subscription = subscription
        self._check()
        await self._ended

    def deliver(self, delivery: Delivery) -> None:
        """A message is for this client."""
        if delivery.message.stamp > self.reached or not self._settles:
            self.write(self._encoded(delivery))
        if self._settles:
            _ = self._broker.ack([delivery]).addErrback(lambda _: None)  # nothing of it is stored
            self._check()

    def write(self, data: bytes) -> None:
        """Send an event."""
        if data and not self.slow:
            self._sink.write(data)
            if self._alive.active():
                self._alive.reset(KEEP_ALIVE)

    async def room(self) -> None:
        """Wait until the client takes more."""
        while self._full and not self.slow:
            self._room = self._room or Deferred()
            await self._room

    def too_slow(self) -> None:
        """Messages for it had to be dropped, or it takes nothing: it is told, and closed."""
        if self.slow:
            return
        self.write(b"\n" if self._lines else b'event: slow\ndata: {"detail":"too slow; resume with Last-Event-ID"}\n\n')
        self.slow = True
        self._wake()
        if not self._ended.called:
            self._ended.callback(None)

    def stop(self) -> None:
        """Leave no timer behind."""
        for call in (self._alive, self._late):
            if call is not None and call.active():
                call.cancel()

    def _check(self) -> None:
        """See whether something was dropped."""
        if self._settles and self.subscription is not None and self.subscription.queue.counts.discarded:
            self.too_slow()

    def _flow(self, goes_on: bool) -> None:
        self._full = not goes_on
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None if goes_on else self._clock.callLater(PATIENCE, self.too_slow)
        subscription = self.subscription
        if subscription is not None and not subscription.closed:
            if goes_on:
                self._check()
                if not self.slow and not self.catching_up:
                    self._broker.resume(subscription)
            else:
                self._broker.pause(subscription)
        if goes_on:
            self._wake()

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.called:
            room.callback(None)

    def _say_so(self) -> None:
        if not self._full:
            self._sink.write(b"\n" if self._lines else b":\n\n")
        self._alive = self._clock.callLater(KEEP_ALIVE, self._say_so)


def _event(data: bytes, id: str, lines: bool) -> bytes:
    return data + b"\n" if lines else b"id: %b\ndata: %b\n\n" % (id.encode(), data)


def _as_lines(call: Call) -> bool:
    return accepts(call, EVENTS, NDJSON) == NDJSON


def _fields(lines: bool) -> list[tuple[bytes, bytes]]:
    kind = NDJSON if lines else EVENTS
    return [(b"Content-Type", kind.encode()), (b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no")]


def _last_event(call: Call, now: int) -> int | None:
    """The stamp behind which a stream begins; None: with what comes."""
    said: Any = call.said.last("last-event-id")
    if said:
        if not said.isascii() or not said.isdigit() or len(said) > 16:
            raise BadValue("Invalid Last-Event-ID: the id of an event of this topic.")
        return int(said)
    after = call.parameters.integer("after", least=0, called="after")
    since = call.parameters.moment("since", now)
    return after if since is None else max(since - 1, 0)
