"""Topics."""

from __future__ import annotations

from broker.core.broker import Broker
from broker.core.destination import Kind, topic
from broker.errors import MessageTooLarge
from broker.http.call import Answer, Call, json
from broker.http.problem import Problem


class Topics:
    """Everything under ``/topics``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def names(self, call: Call) -> Answer:
        """``GET /topics``: those some channel is subscribed to."""
        return json(200, {"topics": call.access.seen(Kind.TOPIC, self._broker.topics())})

    async def publish(self, call: Call) -> Answer:
        """``POST /topics/T``: 202 with the message's id in every channel that has it; full ones are left out.

        The four numbers are those of each subscription, so the request's are not even read. Without a subscription
        Linger looks at nothing: what could be no message is 202 too, and reaches nobody.
        """
        destination = topic(call.match.topic)
        content = call.content()
        try:
            call.accept(content)
        except (Problem, MessageTooLarge):
            if self._broker.bound(destination):
                raise
            return json(202, {})
        published = await self._broker.publish(destination, call.message(content, own_wishes=False))
        return json(202, published.deliveries)

    async def channels(self, call: Call) -> Answer:
        """``GET /topics/T/channels``."""
        names = self._broker.bound(topic(call.match.topic))
        return json(200, {"channels": call.access.seen(Kind.QUEUE, names)})
