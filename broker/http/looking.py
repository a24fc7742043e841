"""Looking without taking: pages of a channel or of a topic's log, one message, and who consumes what."""

from __future__ import annotations

from typing import Any

from broker.core.broker import Broker
from broker.core.browsing import Accepts, Seen, State
from broker.core.conditions import Subject
from broker.core.destination import Destination, Kind, queue, topic
from broker.core.filter import compile_filter
from broker.core.message import Message
from broker.core.survey import Surveyor
from broker.errors import BadValue
from broker.http import metadata
from broker.http.call import Answer, Call, json
from broker.http.consuming import known
from broker.http.rendering import accepts, listed, looked_at
from broker.http.workers import Workers

#: Messages on a page at most, and without ``limit``.
PAGE, DEFAULT_PAGE = 1_000, 100
#: Queues whose consumers are shown in one answer.
_QUEUES = 1_000

_STATES = {state.value: state for state in State} | {"hidden": State.ON_LOAN}


class Looking:
    """Everything that only looks."""

    def __init__(self, broker: Broker, surveyor: Surveyor, workers: Workers) -> None:
        self._broker = broker
        self._surveyor = surveyor
        self._workers = workers

    async def messages(self, call: Call) -> Answer:
        """``GET /channels/C/messages``: a page of what is in it; with ``ids`` as Linger had it in 2015."""
        states = _states(call.parameters.text("state"))
        if "ids" in call.parameters:
            return await self._ids(call)
        return await self._page(call, queue(call.match.channel), states)

    async def log(self, call: Call) -> Answer:
        """``GET /topics/T/messages``: a page of its log, as far as that is kept."""
        return await self._page(call, topic(call.match.topic), (State.READY,))

    async def message(self, call: Call) -> Answer:
        """``GET /messages/N``: where it stands, and why it is not being delivered; HEAD and raw: as if delivered."""
        with known():
            seen, reasons = await self._broker.look(call.match.message)
        name = self._broker.queue_of(call.match.message)
        if accepts(call, "text/plain", "application/octet-stream"):
            return Answer(200, seen.message.body, _fields(seen))
        found = looked_at(seen, body=True)
        found["channel"] = name.name if name is not None and name.kind is Kind.QUEUE else seen.source.name
        return json(200, found | {"waits_because": reasons})

    async def consumers(self, call: Call) -> Answer:
        """``GET /consumers`` and ``GET /channels/C/consumers``: who asks for messages, and what is on loan."""
        if "channel" in call.match.names:
            return json(200, {"consumers": self._of(call.match.channel)})
        after = call.parameters.text("after") or ""
        names = self._surveyor.queues(
            lambda name: bool(call.access.seen(Kind.QUEUE, [name])), after=after, most=_QUEUES + 1
        )
        found = [one for name in names[:_QUEUES] for one in self._of(name)]
        more = {"after": names[_QUEUES - 1]} if len(names) > _QUEUES else {}
        return json(200, {"consumers": found, **more})

    # -- parts

    def _of(self, channel: str) -> list[dict[str, Any]]:
        return [*self._surveyor.consumers(channel), *self._workers.of(channel)]

    async def _page(self, call: Call, of: Destination, states: tuple[State, ...]) -> Answer:
        said, now = call.parameters, self._broker.now()
        limit = min(said.integer("limit", least=1, called="limit") or DEFAULT_PAGE, PAGE)
        after = said.integer("after", least=0, called="after") or 0
        since = said.moment("since", now)
        page = await call.wait(
            self._broker.browse(
                of,
                states=states,
                after=max(after, since - 1 if since else 0),
                until=said.moment("until", now) or 0,
                limit=limit,
                accepts=accepting(said.text("match")),
            )
        )
        whole = said.text("body") != "0"
        return listed(call, "messages", [looked_at(seen, body=whole) for seen in page.seen], after=page.after)

    async def _ids(self, call: Call) -> Answer:
        """All ids, as far as a page of ours reaches."""
        page = await call.wait(
            self._broker.browse(queue(call.match.channel), states=(State.READY, State.ON_LOAN), limit=PAGE)
        )
        ready = [seen.id for seen in page.seen if seen.state is State.READY]
        return json(200, {"messages": ready, "hidden": [seen.id for seen in page.seen if seen.id not in set(ready)]})


def accepting(match: str | None) -> Accepts | None:
    """What a filter is true of; `BadFilter`."""
    if not match:
        return None
    matches = compile_filter(match).matches

    def accepts(message: Message, source: Destination) -> bool:
        return matches(Subject(message, source))

    return accepts


def _states(said: str | None) -> tuple[State, ...]:
    if not said:
        return State.READY, State.ON_LOAN, State.DELAYED
    try:
        return tuple(_STATES[name.strip()] for name in said.split(","))
    except KeyError:
        raise BadValue("Invalid state: some of ready, hidden, delayed, done, with commas between.") from None


def _fields(seen: Seen) -> metadata.Fields:
    message = seen.message
    fields: list[tuple[str, Any]] = [
        ("Content-Type", message.content_type or "text/plain"),
        ("X-Linger-Msg-Id", seen.id),
        ("X-Linger-Priority", seen.priority),
        ("X-Linger-Delivered", seen.attempts),
    ]
    return [
        *((name.encode(), metadata.legal(str(value))) for name, value in fields),
        *metadata.further_fields(message.headers),
        *metadata.event_fields(message, seen.message_id, seen.source),
    ]
