"""Channels: Linger's word for queues."""

from __future__ import annotations

from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import Kind, queue, topic
from broker.core.survey import Surveyor
from broker.errors import BadValue, QueueFull
from broker.http import metadata, numbers
from broker.http.call import Answer, Call, json
from broker.http.counts import Counts
from broker.http.parameters import wishes
from broker.http.problem import RETRY_AFTER, Problem

#: Seconds a GET waits for a message. Linger ends its long poll between 120 and 130 s; its client gives up at 135.
LONG_POLL = 120


class Channels:
    """Everything under ``/channels``."""

    def __init__(self, broker: Broker, counts: Counts, surveyor: Surveyor) -> None:
        self._broker = broker
        self._surveyor = surveyor
        self._counts = counts

    async def names(self, call: Call) -> Answer:
        """``GET /channels``; with ``detail``: their numbers too, and those of the queues that are empty."""
        if "detail" in call.parameters:
            return numbers.listed(self._broker, self._surveyor, call)
        return json(200, {"channels": call.access.seen(Kind.QUEUE, self._broker.queues())})

    async def take(self, call: Call) -> Answer:
        """``GET /channels/C``: the next message, on loan for its lease; 204 if none comes in time."""
        self._counts.takes += 1
        name = call.match.channel
        delivery = await call.wait(self._broker.take(name, wait=wait_of(call), leased=True))
        return self._message(name, delivery)

    async def peek(self, call: Call) -> Answer:
        """``HEAD /channels/C``: what a GET with ``nowait`` would bring, left where it is."""
        name = call.match.channel
        return self._message(name, await call.wait(self._broker.peek(name)))

    async def publish(self, call: Call) -> Answer:
        """``POST /channels/C``: 202 once the message is committed."""
        name = call.match.channel
        content = call.content()
        message = call.message(content, own_wishes=True)
        call.accept(content)
        try:
            published = await self._broker.publish(queue(name), message)
        except QueueFull as full:
            stats = self._broker.queue_stats(name)
            held = stats.ready + stats.on_loan
            reason = f"Channel {metadata.header_name(name).decode()} is at the high-level mark with {held} messages"
            raise Problem(507, "channel-full", reason, retry_after=RETRY_AFTER) from full
        # no id: the queue was deleted between the commit and now
        return json(202, {"id": published.deliveries.get(name, 0)})

    async def purge(self, call: Call) -> Answer:
        """``DELETE /channels/C``: settle everything in it; bindings and waiting requests stay."""
        self._counts.drains += 1
        await self._broker.purge(call.match.channel, on_loan=True)
        return Answer(204)

    async def stats(self, call: Call) -> Answer:
        """``GET /channels/C/stats``; with ``full``: all its numbers."""
        stats = self._broker.queue_stats(call.match.channel)
        more = numbers.full(stats) if "full" in call.parameters else {}
        return json(200, {"ready": stats.ready, "hidden": stats.on_loan} | more)

    async def topics(self, call: Call) -> Answer:
        """``GET /channels/C/topics``."""
        sources = self._broker.sources(call.match.channel)
        names = [source.name for source in sources if source.kind is Kind.TOPIC]
        return json(200, {"topics": call.access.seen(Kind.TOPIC, names)})

    async def subscribe(self, call: Call) -> Answer:
        """``PUT /channels/C/topics/T``: bind, or replace the parameters of the binding that is there."""
        policy = wishes(call.parameters).binding
        match = call.parameters.text("match") or ""
        await self._broker.bind(call.match.channel, topic(call.match.topic), policy, match=match)
        return Answer(204)

    async def unsubscribe(self, call: Call) -> Answer:
        """``DELETE /channels/C/topics/T``: unbind; 204 too if there was nothing to unbind."""
        await self._broker.unbind(call.match.channel, topic(call.match.topic))
        return Answer(204)

    def _message(self, name: str, delivery: Delivery | None) -> Answer:
        if delivery is None:
            return Answer(204, fields=[(b"X-Linger-Channel", metadata.header_name(name))])
        return Answer(200, delivery.message.body, metadata.delivery_fields(delivery, self._broker.now()))


def wait_of(call: Call) -> int:
    """Seconds to wait: none with ``nowait`` whatever its value, else ``wait``, else Linger's long poll."""
    if "nowait" in call.parameters:
        return 0
    wait = call.parameters.integer("wait", least=0, called="wait")
    if wait is not None and wait > LONG_POLL:
        raise BadValue("Invalid message wait.")
    return LONG_POLL if wait is None else wait
