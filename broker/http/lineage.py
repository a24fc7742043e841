"""``GET /lineage/ID``: what became of a message: everything that was made of it, by channel, stage and state.

Messages that stages make name their parent, their root and the replay that they belong to; here they are counted, in
what the channels still hold: what waits, and as far as it is retained what is settled. A scan is bounded; the answer
says since when it knows, and whether it saw everything.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from broker.auth.rights import Action
from broker.core.broker import Broker
from broker.core.browsing import Seen, State
from broker.core.destination import Destination, Kind, queue, topic
from broker.core.message import Message
from broker.core.survey import Surveyor
from broker.errors import NotFound
from broker.http.call import Answer, Call, json
from broker.http.cloudevents import timestamp
from broker.http.numbers import wanted

#: Messages looked at for one answer, of all channels together: it takes a second or two, a few ms at a time.
MOST = 100_000
#: Channels looked at, and dead letters shown.
MOST_CHANNELS, MOST_DEAD = 1_000, 20

#: What names a message's ancestors, as headers.
_NAMES = ("ce-rootid", "ce-parentid", "ce-id", "ce-run")
#: The id of a message whose producer gave it none.
_own_id = re.compile(r"[0-9]+\.[0-9]+")
_STATES = {State.READY: "ready", State.ON_LOAN: "hidden", State.DELAYED: "delayed", State.DONE: "done"}


@attrs.define(eq=False)
class _Scan:
    """What was found so far."""

    id: str
    looked: int = 0
    #: The oldest message that was looked at (us).
    since: int = 0
    #: By channel, stage and version of the code: how many there are in which state.
    found: dict[tuple[str, str, str], dict[str, int]] = attrs.field(factory=dict)
    dead: list[dict[str, Any]] = attrs.field(factory=list)

    def accepts(self, message: Message, source: Destination) -> bool:
        """Whether a message descends from what is asked about, or may be it."""
        self.looked += 1
        self.since = min(self.since or message.stamp, message.stamp)
        headers = message.headers
        if any(headers.get(name) == self.id for name in _NAMES):
            return True
        return "ce-id" not in headers and _own_id.fullmatch(self.id) is not None

    def count(self, channel: str, seen: Seen) -> None:
        """It is one of them."""
        headers = seen.message.headers
        if "ce-id" not in headers and seen.message_id != self.id and self.id not in map(headers.get, _NAMES):
            return
        key = channel, headers.get("ce-stage", ""), headers.get("ce-codeversion", "")
        states = self.found.setdefault(key, dict.fromkeys(_STATES.values(), 0))
        states[_STATES[seen.state]] += 1
        reason = headers.get("ce-deadreason") or headers.get("dead-letter-reason")
        if reason and seen.state is not State.DONE and len(self.dead) < MOST_DEAD:
            said = {"channel": channel, "id": seen.id, "event": headers.get("ce-id") or seen.message_id}
            self.dead.append(said | {"reason": reason, "from": headers.get("ce-deadfrom", "")})


class Lineage:
    """The endpoint."""

    def __init__(self, broker: Broker, surveyor: Surveyor) -> None:
        self._broker = broker
        self._surveyor = surveyor

    async def show(self, call: Call) -> Answer:
        """``GET /lineage/ID``."""
        scan = _Scan(call.match.names["event"])
        channels, complete = await self._channels(call), True
        for name in channels:
            complete = await self._look(call, scan, name) and complete
        rows: list[dict[str, Any]] = [
            {"channel": channel, "stage": stage, "codeversion": version, **states}
            for (channel, stage, version), states in scan.found.items()
        ]
        dead = {one["channel"] for one in scan.dead}
        waits = [sum(row[state] for state in ("ready", "hidden", "delayed")) for row in rows]
        said = {
            "id": scan.id,
            "messages": sum(waits) + sum(row["done"] for row in rows),
            "open": sum(count for row, count in zip(rows, waits, strict=True) if row["channel"] not in dead),
            "found": rows,
            "dead": scan.dead,
            "complete": complete,
        }
        return json(200, said | ({"since": timestamp(scan.since)} if scan.since else {}))

    async def _look(self, call: Call, scan: _Scan, name: str) -> bool:
        """Look through a channel; False if there was more in it than may be looked at."""
        after: int | None = call.parameters.moment("since", self._broker.now()) or 0
        while after is not None:
            if scan.looked >= MOST:
                return False
            page = await call.wait(
                self._broker.browse(
                    queue(name), states=tuple(_STATES), after=after, limit=MOST_CHANNELS, accepts=scan.accepts
                )
            )
            for seen in page.seen:
                scan.count(name, seen)
            after = page.after
        return True

    async def _channels(self, call: Call) -> list[str]:
        """Those of the flow, in its order; without one, those that ``queue`` names, or all."""
        flow = call.parameters.text("flow")
        if flow is None:
            matches = wanted(call)
            names = self._surveyor.queues(matches, most=MOST_CHANNELS)
            return call.access.seen(Kind.QUEUE, names)
        log = topic(f"flow/{flow}")
        call.access.check(Action.BROWSE, log)
        last, after = b"", 0
        while True:
            page = await call.wait(self._broker.browse(log, after=after))
            last = page.seen[-1].message.body if page.seen else last
            if page.after is None:
                break
            after = page.after
        names = _named(last)
        if not names:
            raise NotFound(f"Nothing is known of a flow {flow}.")
        return [name for name in names if call.access.seen(Kind.QUEUE, [name])]


def _named(body: bytes) -> list[str]:
    """The channels that a flow's definition names; none if it is none."""
    try:
        stages = msgspec.json.decode(body)["stages"]
        names = [name for stage in stages for name in (*stage["channels"], stage["to"])]
        names += [name for stage in stages for name in stage["dead"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return [name for name in dict.fromkeys(map(str, names)) if name and not name.startswith("topic:")][:MOST_CHANNELS]
