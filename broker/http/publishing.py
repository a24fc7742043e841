"""Putting messages in: one or many, to a channel, to a topic, or to several places at once."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from twisted.internet.threads import deferToThread

from broker.core.broker import Broker
from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.core.route import Published
from broker.errors import BadValue, BrokerError, MessageTooLarge, QueueFull
from broker.http import cloudevents, metadata
from broker.http.batch import messages_of
from broker.http.call import AT_ONCE, Answer, Call, Content, json
from broker.http.problem import RETRY_AFTER, Problem

#: Keys of which it is known what they were used for, and the most full channels that a header names.
MAX_KNOWN, MAX_NAMED = 100_000, 100
#: Further destinations of one publish.
MAX_COPIES = 100


class Publishing:
    """``POST`` to channels and topics."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: What is being published under an ``Idempotency-Key``.
        self._running: set[tuple[Destination, str]] = set()
        #: What was published under a key lately: a checksum, and until when it counts (us). A restart forgets it.
        self._known: OrderedDict[tuple[Destination, str], tuple[int, int]] = OrderedDict()

    async def publish(self, call: Call) -> Answer:
        """``POST /channels/C``: 202 once the message is committed."""
        if _media(call) == cloudevents.BATCH:
            return await self.batch(call)
        name = call.match.channel
        if _media(call) == cloudevents.STRUCTURED and call.parameters.text("msg") is None:
            message = await self._event(call)
        else:
            content = call.content()
            message = call.message(content, self._broker.now(), own_wishes=True)
            call.accept(content)
        others = self._others(call)
        try:
            published = await self._published(call, queue(name), others, message)
        except QueueFull as full:
            stats = self._broker.queue_stats(name)
            held = stats.ready + stats.on_loan
            reason = full.reason
            if held and not others:
                reason = f"Channel {metadata.header_name(name).decode()} is at the high-level mark with {held} messages"
            raise Problem(507, "channel-full", reason, retry_after=RETRY_AFTER, said={"channel": name}) from full
        return _accepted(name, published, others)

    async def publish_to_topic(self, call: Call) -> Answer:
        """``POST /topics/T``: 202 with the message's id in every channel that has it; full ones are left out.

        The four numbers are those of each subscription, so the request's are not even read. Without a subscription
        Linger looks at nothing: what could be no message is 202 too, and reaches nobody. With ``strict`` a channel
        that is full is 507, and nobody gets it.
        """
        destination = topic(call.match.topic)
        if _media(call) == cloudevents.STRUCTURED and call.parameters.text("msg") is None:
            message = call.wished(await self._event(call), self._broker.now(), own_wishes=False)
        else:
            content = call.content()
            message = call.message(content, self._broker.now(), own_wishes=False)
            try:
                call.accept(content)
            except (Problem, MessageTooLarge):
                if self._broker.bound(destination):
                    raise
                return json(202, {})
        full = self._broker.full(destination, message)
        if full and call.parameters.flag("strict"):
            reason = f"Full: {', '.join(full)}"
            raise Problem(507, "channel-full", reason, retry_after=RETRY_AFTER, said={"channels": full})
        others = self._others(call)
        published = await self._published(call, destination, others, message)
        fields = _duplicate(published)
        if published.stamp:
            fields.append((b"X-Linger-Seq", b"%d" % published.stamp))
        if full and not published.duplicate:
            fields.append((b"X-Linger-Skipped", b",".join(map(metadata.header_name, full[:MAX_NAMED]))))
        answer = json(202, published.deliveries)
        return msgspec.structs.replace(answer, fields=answer.fields + fields)

    async def batch(self, call: Call) -> Answer:
        """``POST /channels/C/messages``: several messages, all of them or none."""
        if call.overflowed:
            raise Problem(413, "too-large", f"The body has {call.received} bytes, more than is read here.")
        destination = queue(call.match.channel)
        with self._alone(call, destination):
            prepare = partial(_wished, call, _media(call), self._broker.now())
            messages = await deferToThread(prepare) if len(call.body) > AT_ONCE else prepare()
            transaction = self._broker.begin()
            try:
                call.access.put_in(len(messages), sum(len(message.body) for message in messages))
                for message in messages:
                    transaction.publish(destination, message)
            except BrokerError:
                transaction.abort()
                raise
            await transaction.commit()
        outcomes = transaction.published
        ids = [next(iter(outcome.deliveries.values()), 0) for outcome in outcomes]
        answer = json(202, {"ids": ids})
        duplicates = [str(number).encode() for number, outcome in enumerate(outcomes) if outcome.duplicate]
        fields = [(b"X-Linger-Duplicate", b",".join(duplicates))] if duplicates else []
        return msgspec.structs.replace(answer, fields=answer.fields + fields)

    # -- parts

    async def _published(
        self, call: Call, destination: Destination, others: list[Destination], message: Message
    ) -> Published:
        with self._alone(call, destination):
            self._same(call, destination, message)
            call.access.put_in(1, len(message.body))
            if others:
                told = self._broker.publish_to([destination, *others], message)
            else:
                told = self._broker.publish(destination, message)
            published = await call.told(told, self._broker.withdraw)
            self._used(call, destination, message)
        return published

    @contextmanager
    def _alone(self, call: Call, destination: Destination) -> Iterator[None]:
        """Nothing else is published under this ``Idempotency-Key`` meanwhile; `Problem` 409 if something is now."""
        key = call.key(Message()) if call.idempotency_key else ""
        if not key or not self._broker.rules_of(destination).dedup_window:
            yield
            return
        if (destination, key) in self._running:
            reason = "The first publish under this Idempotency-Key is still under way."
            raise Problem(409, "idempotency-in-progress", reason, retry_after=RETRY_AFTER)
        self._running.add((destination, key))
        try:
            yield
        finally:
            self._running.discard((destination, key))

    def _same(self, call: Call, destination: Destination, message: Message) -> None:
        """That a key is not used for another message than before, as far as that is known; `Problem` 422."""
        known = self._known.get((destination, message.key)) if call.idempotency_key else None
        if known is not None and known[1] > self._broker.now() and known[0] != zlib.crc32(message.body):
            raise Problem(422, "idempotency-mismatch", "This Idempotency-Key was used for another message.")

    def _used(self, call: Call, destination: Destination, message: Message) -> None:
        """The key was used for this message."""
        window = self._broker.rules_of(destination).dedup_window
        if not window or not call.idempotency_key:
            return
        self._known[destination, message.key] = zlib.crc32(message.body), self._broker.now() + window * 1000
        self._known.move_to_end((destination, message.key))
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _event(self, call: Call) -> Message:
        """The body as a structured event, with the request's wishes."""
        if call.overflowed:
            raise MessageTooLarge(f"The event has {call.received} bytes, more than is allowed.")
        message = cloudevents.message_of(await call.document())
        call.accept(Content(message.body, message.content_type or "", len(message.body)))
        return call.wished(message, self._broker.now(), own_wishes=True)

    def _others(self, call: Call) -> list[Destination]:
        """Where else the message is to go: ``to=topic:news,queue:audit``; `NotAllowed`, `BadValue`."""
        said = call.parameters.text("to")
        if said is None:
            return []
        others = [source_of(one) for one in said.split(",")]
        if len(others) > MAX_COPIES:
            raise BadValue(f"Invalid to: {len(others)} destinations, at most {MAX_COPIES} are allowed.")
        for one in others:
            call.access.publish(one)
        return others


def source_of(text: str) -> Destination:
    """A destination as ``queue:orders`` or ``topic:news``; `BadValue`, `BadName`."""
    kind, colon, name = text.strip().partition(":")
    if not colon or kind not in ("queue", "topic", "channel"):
        raise BadValue(f"Invalid destination {text[:80]!r}: queue:NAME or topic:NAME.")
    return topic(name) if kind == "topic" else queue(name)


def _media(call: Call) -> str:
    return (call.content_type or "").partition(";")[0].strip().lower()


def _wished(call: Call, media: str, now: int) -> list[Message]:
    """The messages of a batch as the request's parameters want them. For any thread."""
    keyed, found = bool(call.idempotency_key), []
    for number, one in enumerate(messages_of(media, call.body, call.limits.size)):
        message = call.wished(one, now, own_wishes=True)
        found.append(msgspec.structs.replace(message, key=f"{message.key} {number}") if keyed else message)
    return found


def _duplicate(published: Published) -> metadata.Fields:
    return [(b"X-Linger-Duplicate", b"1")] if published.duplicate else []


def _accepted(name: str, published: Published, others: list[Destination]) -> Answer:
    """202 with the id in the channel; of an alias, or of several destinations, with all ids beside the first.

    0: it is in no channel; the queue was deleted meanwhile, or drops what comes when it is full.
    """
    ids = published.deliveries
    said: dict[str, Any] = {"id": ids.get(name, next(iter(ids.values()), 0))}
    if others or (ids and set(ids) != {name}):
        said["ids"] = ids
    answer = json(202, said)
    fields = _duplicate(published)
    asked = {name, *(one.name for one in others)}  # others, bound to these, may have filters that say no
    dropped = [one for one in published.skipped if one in asked and not published.duplicate]
    if dropped:
        fields.append((b"X-Linger-Skipped", b",".join(map(metadata.header_name, dropped))))
    return msgspec.structs.replace(answer, fields=answer.fields + fields)
