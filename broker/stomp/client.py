"""A STOMP client for Twisted: connects again and subscribes again by itself.

::

    client = StompClient(TCP4ClientEndpoint(reactor, "127.0.0.1", 61613), reactor)
    client.start()
    await client.send("/queue/orders", b"a parcel")  # it is on disk
    async for message in client.subscribe("/queue/orders"):
        await message.ack()  # it never comes back

What was sent and not confirmed when a connection ends fails with `Lost`: it may be there or not. With a header
``dedup-id`` it can be sent again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from broker.stomp.client_wire import ClientProtocol, Lost, StompError
from broker.stomp.frames import Frame

__all__ = ["Lost", "Message", "StompClient", "StompError", "Subscription"]

#: Milliseconds between heart-beats, ours and the server's.
BEATS = (10_000, 10_000)


@attrs.frozen(eq=False)
class Message:
    """A MESSAGE."""

    headers: Mapping[str, str]
    body: bytes
    _server: ClientProtocol

    @property
    def destination(self) -> str:
        """Where it was sent."""
        return self.headers.get("destination", "")

    def ack(self) -> Deferred[None]:
        """Settle it; fires when that is on the server's disk, fails with `Lost` or `StompError`."""
        return self._server.ask("ACK", self._named())

    def nack(self, **headers: str) -> Deferred[None]:
        """Give it back, with headers such as ``requeue``, ``delay`` and ``reason``."""
        return self._server.ask("NACK", {**self._named(), **headers})

    def _named(self) -> dict[str, str]:
        if self._server.names_acks:
            return {"id": self.headers.get("ack", "")}
        return {name: self.headers.get(name, "") for name in ("message-id", "subscription")}


class Subscription:
    """Messages, as they come: ``async for message in subscription``. It ends when it is closed.

    It goes on over reconnections; messages that were not settled come again. If the server refuses it, iteration raises
    `StompError`.
    """

    def __init__(self, id: str, headers: Mapping[str, str], close: Callable[[Subscription], None]) -> None:
        self.id = id
        self.headers = headers
        self._close = close
        self._messages: deque[Message] = deque()
        self._waiter: Deferred[None] | None = None
        self._error: StompError | None = None
        self.closed = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self.closed:
                raise StopAsyncIteration
            self._waiter = Deferred()
            await self._waiter
        return self._messages.popleft()

    def close(self) -> None:
        """Let nothing more come; what came can still be settled."""
        if not self.closed:
            self.closed = True
            self._close(self)
            self._wake()

    def got(self, message: Message) -> None:
        """A message came."""
        self._messages.append(message)
        self._wake()

    def lost(self) -> None:
        """The connection is over: what came and was not looked at comes again, if it was to be acked."""
        if self.headers.get("ack", "auto") != "auto":
            self._messages.clear()

    def refused(self, error: StompError) -> None:
        """The server does not want it."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)


class StompClient:
    """A client of one server.

    `headers` are CONNECT's: ``login``, ``passcode``, ``host``, ``client-id``. `beats` are milliseconds between
    heart-beats, ours and the server's; 0: none. `retry` says how many seconds to wait before the n-th new attempt.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        *,
        headers: Mapping[str, str] | None = None,
        beats: tuple[int, int] = BEATS,
        retry: Callable[[int], float] | None = None,
    ) -> None:
        self._clock = clock
        self._headers = {"host": "/", **(headers or {})}
        self._beats = beats
        self._ids = itertools.count(1)
        self._subscriptions: dict[str, Subscription] = {}
        self._current: ClientProtocol | None = None
        factory = Factory.forProtocol(self._protocol)
        self._service = ClientService(
            endpoint,
            factory,
            retryPolicy=retry or backoffPolicy(),
            clock=clock,
            prepareConnection=self._prepare,
        )

    # -- life

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        self._service.startService()

    async def connected(self, attempts: int | None = None) -> Mapping[str, str]:
        """What the server said when it let us in; fails after so many `attempts`, with the last one's error."""
        return (await self._connection(attempts)).said

    async def _connection(self, attempts: int | None = None) -> ClientProtocol:
        """The connection, as soon as there is one that the server has not just ended."""
        while self._current is None:
            try:
                await self._service.whenConnected(failAfterFailures=attempts)
            finally:
                await deferLater(self._clock, 0)  # the service must not be asked while it answers
        return self._current

    async def stop(self) -> None:
        """Say goodbye, once all that was sent is done, and connect no more."""
        for subscription in list(self._subscriptions.values()):
            subscription.close()
        if self._current is not None:
            try:
                await self._current.ask("DISCONNECT", {})
            except (Lost, StompError) as error:
                self._log.info("disconnected: {error}", error=error)
        stopped = self._service.stopService()
        if stopped is not None:
            await stopped

    # -- what it does

    async def send(self, destination: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message; returns when the server has it. Waits for a connection, if there is none."""
        protocol = await self._connection()
        await protocol.ask("SEND", {**(headers or {}), "destination": destination}, body)

    def subscribe(
        self, destination: str, *, ack: str = "client-individual", headers: Mapping[str, str] | None = None
    ) -> Subscription:
        """Have messages come, now and after every reconnection; ``prefetch-count`` bounds how many are unsettled."""
        id = str(next(self._ids))
        said = {**(headers or {}), "destination": destination, "id": id, "ack": ack}
        subscription = self._subscriptions[id] = Subscription(id, said, self._closed)
        if self._current is not None:
            _ = self._subscribe(self._current, subscription)
        return subscription

    # -- connections

    def _protocol(self) -> ClientProtocol:
        return ClientProtocol(self._clock, self._headers, self._beats, self._got, self._ended)

    def _prepare(self, protocol: Any) -> Deferred[ClientProtocol]:
        """A connection counts when the server has let us in; `protocol` stands for ours."""
        entered: Deferred[ClientProtocol] = protocol.entered
        return entered.addCallback(self._enter)

    def _enter(self, protocol: ClientProtocol) -> ClientProtocol:
        self._current = protocol
        for subscription in self._subscriptions.values():
            _ = self._subscribe(protocol, subscription)
        return protocol

    def _subscribe(self, protocol: ClientProtocol, subscription: Subscription) -> Deferred[None]:
        def failed(error: object) -> None:
            value = getattr(error, "value", None)
            if isinstance(value, StompError):
                self._subscriptions.pop(subscription.id, None)
                subscription.refused(value)

        return protocol.ask("SUBSCRIBE", subscription.headers).addErrback(failed)

    def _got(self, protocol: ClientProtocol, frame: Frame) -> None:
        subscription = self._subscriptions.get(frame.headers.get("subscription", ""))
        if subscription is not None:
            subscription.got(Message(frame.headers, frame.body, protocol))

    def _ended(self, protocol: ClientProtocol) -> None:
        if self._current is protocol:
            self._current = None
            for subscription in self._subscriptions.values():
                subscription.lost()

    def _closed(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.id, None)
        if self._current is not None:
            self._current.tell("UNSUBSCRIBE", {"id": subscription.id})
