"""Topics."""

from __future__ import annotations

from broker.core.broker import Broker
from broker.core.destination import Kind, topic
from broker.http.call import Answer, Call, json


class Topics:
    """Everything under ``/topics``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def names(self, call: Call) -> Answer:
        """``GET /topics``: those some channel is subscribed to."""
        return json(200, {"topics": call.access.seen(Kind.TOPIC, self._broker.topics())})

    async def channels(self, call: Call) -> Answer:
        """``GET /topics/T/channels``."""
        names = self._broker.bound(topic(call.match.topic))
        return json(200, {"channels": call.access.seen(Kind.QUEUE, names)})
