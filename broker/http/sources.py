"""What a channel reads beside its own messages: topics, patterns of topics, other channels."""

from __future__ import annotations

from typing import Any

from broker.core.broker import Broker
from broker.core.destination import Destination, Kind, topic
from broker.http.call import Answer, Call, json
from broker.http.parameters import Parameters, wishes
from broker.http.publishing import source_of


class Sources:
    """``/channels/C/sources`` and ``/channels/C/topics``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def topics(self, call: Call) -> Answer:
        """``GET /channels/C/topics``."""
        sources = self._broker.sources(call.match.channel)
        names = [source.name for source in sources if source.kind is Kind.TOPIC]
        return json(200, {"topics": call.access.seen(Kind.TOPIC, names)})

    async def sources(self, call: Call) -> Answer:
        """``GET /channels/C/sources``: each with its parameters."""
        name = call.match.channel
        seen = [one for one in self._broker.sources(name) if call.access.seen(one.kind, [one.name])]
        return json(200, {"sources": [self._said(name, one) for one in seen]})

    async def bind(self, call: Call) -> Answer:
        """``PUT /channels/C/topics/T``, ``PUT /channels/C/sources/S``: bind, or replace the parameters there are."""
        policy = wishes(call.parameters).binding
        match = call.parameters.text("match") or ""
        since = start_of(call.parameters, self._broker.now())
        follows = call.parameters.flag("follows")
        await self._broker.bind(call.match.channel, source(call), policy, match=match, since=since, follows=follows)
        return Answer(204)

    async def unbind(self, call: Call) -> Answer:
        """``DELETE`` of the same: 204 too if there was nothing to unbind."""
        await self._broker.unbind(call.match.channel, source(call))
        return Answer(204)

    def _said(self, channel: str, one: Destination) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": one.kind.value, "name": one.name}
        terms = self._broker.terms(channel, one)
        if terms is not None:
            policy, match = terms
            numbers = {
                "priority": policy.priority,
                "timeout": policy.lease and policy.lease // 1000,
                "linger": policy.ttl and policy.ttl // 1000,
                "deliver": policy.max_attempts,
            }
            found |= {key: number for key, number in numbers.items() if number is not None}
            found |= {"match": match} if match else {}
            found |= {"follows": True} if self._broker.follows(channel, one) else {}
        return found


def source(call: Call) -> Destination:
    """The source that a path names; `BadValue`, `BadName`."""
    names = call.match.names
    return topic(names["topic"]) if "topic" in names else source_of(names["source"])


def start_of(parameters: Parameters, now: int) -> int | None:
    """Where a binding begins: None: now; a stamp. ``from=now|start|<stamp>|<time>``; `BadValue`."""
    said = parameters.text("from")
    if said in (None, "now"):
        return None
    return 0 if said == "start" else parameters.moment("from", now)
