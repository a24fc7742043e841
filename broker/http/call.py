"""A request and its answer, as the endpoints see them: without a socket."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread

from broker.auth.door import Access
from broker.core.message import Message
from broker.core.route import Published
from broker.errors import MessageTooLarge, Stopping
from broker.http import metadata
from broker.http.fields import Said
from broker.http.parameters import FORM, MULTIPART, Parameters, wishes
from broker.http.problem import RETRY_AFTER, Problem
from broker.http.routes import Match

T = TypeVar("T")

#: Linger's own limit: characters of a `msg`, bytes of a raw body.
LINGER_SIZE = 256_000
#: Requests of one user that wait, or stream, at a time.
MAX_WAITING = 10_000
#: Characters of a publisher's key that are kept as they are; 200,000 keys are remembered. Of a longer one a hash is.
MAX_KEY = 200
#: Bytes of JSON that are read at once; more are read in a thread.
AT_ONCE = 64 * 1024
#: Bytes of a body that holds several messages, or a configuration.
BULK = 8 * 1024 * 1024
#: What a body may hold beside the message, in bytes: other parameters, the multipart's own lines.
SLACK = 64 * 1024


_BULKY = ("/messages", "/commit", "/definitions")


class Limits(msgspec.Struct, frozen=True):
    """How large a message may be. `configured` is ``max_message_size`` in bytes; None: Linger's own limit."""

    configured: int | None = None

    @property
    def size(self) -> int:
        """The largest message: bytes if configured, else see `LINGER_SIZE`."""
        return LINGER_SIZE if self.configured is None else self.configured

    def body(self, content_type: str, path: str = "") -> int:
        """The largest body worth keeping, in bytes: one that can hold the largest message in this coding.

        Some paths take more than one message.
        """
        if content_type.lower().startswith("application/cloudevents-batch") or path.endswith(_BULKY):
            return max(BULK, self.size + SLACK)
        if content_type.lower().startswith("application/cloudevents"):
            return 2 * self.size + SLACK  # base64, or escapes
        media = content_type.lower()
        widest = 4 if self.configured is None else 1  # bytes of a character, if it is characters that count
        if media.startswith(FORM):
            return 3 * widest * self.size + SLACK
        if media.startswith(MULTIPART):
            return widest * self.size + SLACK
        return self.size

    def check(self, size: int) -> None:
        """Raise `MessageTooLarge` if `size` is over the limit."""
        if size > self.size:
            raise MessageTooLarge(f"The message size {size} bytes exceeds the maximum allowed {self.size} bytes.")


class Answer(msgspec.Struct, frozen=True):
    """What goes back. A 204 has no body."""

    status: int
    body: bytes = b""
    fields: metadata.Fields = []
    #: Called once: True when all of it has left our send buffer, False if the client went before.
    sent: Callable[[bool], None] | None = None
    #: Called if the client goes before all of it has left our send buffer. It costs nothing if he does not.
    lost: Callable[[], None] | None = None


class Sink(Protocol):
    """Where the parts of an endless answer go."""

    #: Called when the client takes no more for the moment (False), and when it does again (True).
    flow: Callable[[bool], None]

    def write(self, data: bytes) -> None:
        """Send a part."""


class Stream(msgspec.Struct, frozen=True):
    """An answer without an end of its own: `run` writes it, until it returns or is cancelled."""

    run: Callable[[Sink], Coroutine[Deferred[Any], Any, None]]
    fields: metadata.Fields = []


def json(status: int, value: Any) -> Answer:
    """An answer in JSON, with Linger's content type."""
    return Answer(status, msgspec.json.encode(value), [(b"Content-Type", b"application/json; charset=UTF-8")])


def text(status: int, value: str) -> Answer:
    """An answer for people and probes."""
    return Answer(status, value.encode(), [(b"Content-Type", b"text/plain")])


class Content(msgspec.Struct, frozen=True):
    """The body somebody posts."""

    body: bytes
    content_type: str
    #: By the measure of `Limits`.
    size: int


class Cancellable(Protocol):
    """What waits on behalf of a client."""

    def cancel(self) -> None:
        """Do not wait any longer."""


@attrs.frozen(eq=False)
class _Publish:
    """A publish that may wait for room."""

    published: Deferred[Published]
    withdraw: Callable[[Deferred[Published]], None]

    def cancel(self) -> None:
        """Wait no longer; what is on its way to the disk takes its course."""
        self.withdraw(self.published)


@attrs.define(eq=False, slots=False)
class Call:
    """One request, read and matched."""

    method: str
    match: Match
    #: What its sender may do.
    access: Access
    query: bytes
    #: What its header fields say.
    said: Said
    body: bytes
    #: Bytes of the body; more than `body` holds if it was too large to keep.
    received: int
    limits: Limits
    #: Everything that waits on behalf of a client; ended when we stop.
    waits: set[Cancellable] = attrs.field(factory=set)
    #: How many requests wait on behalf of each user.
    waiting_of: Counter[str] = attrs.field(factory=Counter)
    #: True once the client is gone.
    gone: bool = False
    _waiting: Cancellable | None = None
    _parameters: Parameters | None = None
    #: What the parameters wish for each message, once it was asked for.
    _wishes: dict[str, Any] | None = None

    @property
    def overflowed(self) -> bool:
        """True if the body was too large to keep."""
        return self.received > len(self.body)

    @property
    def content_type(self) -> str | None:
        """The body's type as it came; None if it says nothing."""
        return self.said.content_type

    @property
    def parameters(self) -> Parameters:
        """The parameters; a body counts with POST and PUT."""
        if self._parameters is None:
            if self.method in ("POST", "PUT") and not self.overflowed:
                self._parameters = Parameters(self.query, self.content_type or "", self.body)
            else:
                self._parameters = Parameters(self.query)
        return self._parameters

    def content(self) -> Content:
        """What is posted: the parameter ``msg`` wherever it stands, else the raw body. Raises `Problem`."""
        words = self.parameters.text("msg")
        if words is not None:
            body = words.encode()
            return Content(body, "text/plain", len(words) if self.limits.configured is None else len(body))
        kind = self.content_type
        return Content(self.body, "text/plain" if kind is None else kind, self.received)

    def accept(self, content: Content) -> None:
        """Raise `Problem` or `MessageTooLarge` if this cannot be a message."""
        if not content.size:
            raise Problem(400, "empty-message", "Message is empty.")
        self.limits.check(content.size)

    def message(self, content: Content, now: int, *, own_wishes: bool) -> Message:
        """The message; with `own_wishes` the four numbers are read, and when it is due (`BadValue`)."""
        message = Message(body=content.body, headers=self.said.message, content_type=content.content_type)
        return self.wished(message, now, own_wishes=own_wishes)

    def wished(self, message: Message, now: int, *, own_wishes: bool) -> Message:
        """`message` as the request's parameters want it."""
        key = self.key(message)
        if not self.parameters:
            return msgspec.structs.replace(message, key=key) if key else message
        if self._wishes is None:  # once for all messages of a batch: 4 us less for each
            self._wishes = {"group": self.parameters.text("group") or ""}
            if own_wishes:
                self._wishes |= self._own_wishes(now)
        return msgspec.structs.replace(message, key=key, **self._wishes)

    def _own_wishes(self, now: int) -> dict[str, Any]:
        wish = wishes(self.parameters)
        delay = self.parameters.milliseconds("delay", least=0, called="delay") or 0
        at = self.parameters.moment("at", now)
        if at is not None:
            delay = max((at - now) // 1000, 0)
        return {
            "priority": wish.priority or 0,
            "ttl": wish.ttl or 0,
            "lease": wish.lease or 0,
            "max_attempts": wish.max_attempts or 0,
            "delay": delay,
        }

    def key(self, message: Message) -> str:
        """What the producer calls this publish: ``Idempotency-Key``, else source and id of the event; or nothing."""
        said = self.idempotency_key or ""
        source, id = message.headers.get("ce-source"), message.headers.get("ce-id")
        if len(said) > 1 and said[0] == said[-1] == '"':
            said = said[1:-1]
        elif not said and source and id:
            said = f"{source} {id}"
        return said if len(said) <= MAX_KEY else hashlib.sha256(said.encode()).hexdigest()

    @property
    def idempotency_key(self) -> str | None:
        """The header of this name."""
        return self.said.last("idempotency-key")

    def json_body(self) -> bytes:
        """The body, which should be JSON; `Problem` 413 or 415."""
        if self.overflowed:
            raise Problem(413, "too-large", f"The body has {self.received} bytes, more than is read here.")
        kind = (self.content_type or "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise Problem(415, "unsupported-type", "The body must be application/json.")
        return self.body or b"{}"

    async def document(self) -> Any:
        """The body as JSON, read in a thread if it is long; `Problem` 400, 413 or 415."""
        body = self.json_body()
        try:
            if len(body) > AT_ONCE:
                return await deferToThread(msgspec.json.decode, body)
            return msgspec.json.decode(body)
        except (ValueError, RecursionError) as error:
            raise Problem(400, "bad-parameter", f"The body is not JSON: {error}") from None

    def admit(self) -> None:
        """That one more request of this user may wait; `Problem` 429."""
        if self.waiting_of[self.access.user.name] >= MAX_WAITING:
            reason = f"{MAX_WAITING} requests of this user wait already."
            raise Problem(429, "too-many", reason, retry_after=RETRY_AFTER)

    async def wait(self, something: Coroutine[Deferred[Any], Any, T]) -> T:
        """Await `something` for as long as the client is there and we go on; else it is cancelled: `Stopping`."""
        user = self.access.user.name
        try:
            self.admit()
        except Problem:
            something.close()
            raise
        self.waiting_of[user] += 1
        waiting = self._waiting = Deferred.fromCoroutine(something)
        self.waits.add(waiting)
        try:
            return await waiting
        except CancelledError:
            raise Stopping("The broker is stopping.") from None
        finally:
            self._waiting = None
            self.waits.discard(waiting)
            self.waiting_of[user] -= 1
            if not self.waiting_of[user]:
                del self.waiting_of[user]

    async def told(self, published: Deferred[Published], withdraw: Callable[[Deferred[Published]], None]) -> Published:
        """What became of a publish; one that waits for room does so as long as the client is there and we go on."""
        waiting = self._waiting = _Publish(published, withdraw)
        self.waits.add(waiting)
        try:
            return await published
        finally:
            self._waiting = None
            self.waits.discard(waiting)

    def leave(self) -> None:
        """The client is gone."""
        self.gone = True
        if self._waiting is not None:
            self._waiting.cancel()
