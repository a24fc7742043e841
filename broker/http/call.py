"""A request and its answer, as the endpoints see them: without a socket."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import cached_property
from typing import Any, TypeVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred

from broker.auth.door import Access
from broker.core.message import Message
from broker.errors import MessageTooLarge, Stopping
from broker.http import metadata
from broker.http.parameters import FORM, MULTIPART, Parameters, wishes
from broker.http.problem import Problem
from broker.http.routes import Match

T = TypeVar("T")

#: Linger's own limit: characters of a `msg`, bytes of a raw body.
LINGER_SIZE = 256_000
#: What a body may hold beside the message, in bytes: other parameters, the multipart's own lines.
SLACK = 64 * 1024


class Limits(msgspec.Struct, frozen=True):
    """How large a message may be. `configured` is ``max_message_size`` in bytes; None: Linger's own limit."""

    configured: int | None = None

    @property
    def size(self) -> int:
        """The largest message: bytes if configured, else see `LINGER_SIZE`."""
        return LINGER_SIZE if self.configured is None else self.configured

    def body(self, content_type: str) -> int:
        """The largest body worth keeping, in bytes: one that can hold the largest message in this coding."""
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


@attrs.define(eq=False, slots=False)
class Call:
    """One request, read and matched."""

    method: str
    match: Match
    #: What its sender may do.
    access: Access
    query: bytes
    #: The header fields, as they came.
    headers: Sequence[tuple[bytes, Sequence[bytes]]]
    body: bytes
    #: Bytes of the body; more than `body` holds if it was too large to keep.
    received: int
    limits: Limits
    #: Everything that waits on behalf of a client; ended when we stop.
    waits: set[Deferred[Any]] = attrs.field(factory=set)
    _waiting: Deferred[Any] | None = None

    @property
    def overflowed(self) -> bool:
        """True if the body was too large to keep."""
        return self.received > len(self.body)

    @cached_property
    def parameters(self) -> Parameters:
        """The parameters; a body counts with POST and PUT."""
        if self.method in ("POST", "PUT") and not self.overflowed:
            return Parameters(self.query, metadata.content_type(self.headers) or "", self.body)
        return Parameters(self.query)

    def content(self) -> Content:
        """What is posted: the parameter ``msg`` wherever it stands, else the raw body. Raises `Problem`."""
        words = self.parameters.text("msg")
        if words is not None:
            body = words.encode()
            return Content(body, "text/plain", len(words) if self.limits.configured is None else len(body))
        kind = metadata.content_type(self.headers)
        return Content(self.body, "text/plain" if kind is None else kind, self.received)

    def accept(self, content: Content) -> None:
        """Raise `Problem` or `MessageTooLarge` if this cannot be a message."""
        if not content.size:
            raise Problem(400, "empty-message", "Message is empty.")
        self.limits.check(content.size)

    def message(self, content: Content, *, own_wishes: bool) -> Message:
        """The message; with `own_wishes` the four numbers are read (`BadValue`)."""
        headers = metadata.message_headers(self.headers)
        if not own_wishes:
            return Message(body=content.body, headers=headers, content_type=content.content_type)
        wish = wishes(self.parameters)
        return Message(
            body=content.body,
            headers=headers,
            content_type=content.content_type,
            priority=wish.priority or 0,
            ttl=wish.ttl or 0,
            lease=wish.lease or 0,
            max_attempts=wish.max_attempts or 0,
            delay=self.parameters.milliseconds("delay", least=0, called="delay") or 0,
        )

    async def wait(self, something: Coroutine[Deferred[Any], Any, T]) -> T:
        """Await `something` for as long as the client is there and we go on; else it is cancelled: `Stopping`."""
        waiting = self._waiting = Deferred.fromCoroutine(something)
        self.waits.add(waiting)
        try:
            return await waiting
        except CancelledError:
            raise Stopping("The broker is stopping.") from None
        finally:
            self._waiting = None
            self.waits.discard(waiting)

    def leave(self) -> None:
        """The client is gone."""
        if self._waiting is not None:
            self._waiting.cancel()
