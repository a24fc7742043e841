"""Channels: Linger's word for queues."""

from __future__ import annotations

import contextlib
from collections import OrderedDict

from broker.core.broker import Broker
from broker.core.browsing import State
from broker.core.destination import Kind, queue
from broker.core.stats import QueueStats
from broker.core.survey import Surveyor
from broker.errors import BadValue, NotFound
from broker.http import numbers
from broker.http.call import Answer, Call, json
from broker.http.counts import Counts

#: Queues whose counts at an earlier time are remembered, for rates.
_REMEMBERED = 1_000
#: Messages settled at a time.
_PAGE = 500
#: Seconds between two looks at a queue for a rate.
_LEAST = 1.0


class Channels:
    """Everything under ``/channels``."""

    def __init__(self, broker: Broker, counts: Counts, surveyor: Surveyor) -> None:
        self._broker = broker
        self._surveyor = surveyor
        self._counts = counts
        self._rates = Rates(broker)

    async def names(self, call: Call) -> Answer:
        """``GET /channels``; with ``detail``: their numbers too, and those of the queues that are empty."""
        if "detail" in call.parameters:
            return numbers.listed(self._broker, self._surveyor, call)
        prefix = call.parameters.text("prefix") or ""
        names = [name for name in self._broker.queues() if name.startswith(prefix)]
        return json(200, {"channels": call.access.seen(Kind.QUEUE, names)})

    async def purge(self, call: Call) -> Answer:
        """``DELETE /channels/C``: settle everything in it, or what is in one ``state``; bindings stay.

        With ``config`` the channel is forgotten, bindings and all.
        """
        name, state = call.match.channel, call.parameters.text("state")
        if state not in (None, "ready", "hidden", "delayed"):
            raise BadValue("Invalid state: ready, hidden, delayed, or leave it out.")
        self._broker.status.check_purge()
        self._counts.drains += 1
        if call.parameters.flag("config"):
            await self._broker.delete(name)
        elif state in ("hidden", "delayed"):
            await self._purge(name, State.ON_LOAN if state == "hidden" else State.DELAYED)
        else:
            await self._broker.purge(name, on_loan=state is None)
        return Answer(204)

    async def _purge(self, name: str, state: State) -> None:
        """Settle what is in this state at the moment."""
        after: int | None = 0
        while after is not None:
            page = await self._broker.browse(queue(name), states=(state,), after=after, limit=_PAGE)
            for seen in page.seen:
                with contextlib.suppress(NotFound):  # it was settled meanwhile
                    _ = self._broker.settle(seen.id).addErrback(lambda _: None)  # `durable` tells
            after = page.after
        await self._broker.durable()

    async def stats(self, call: Call) -> Answer:
        """``GET /channels/C/stats``; with ``full``: all its numbers."""
        stats = self._broker.queue_stats(call.match.channel)
        more = {}
        if "full" in call.parameters:
            more = numbers.full(stats) | self._rates.of(call.match.channel, stats)
        return json(200, {"ready": stats.ready, "hidden": stats.on_loan} | more)


class Rates:
    """How fast queues fill and empty: the growth of their counts between two looks, or since the start."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: By queue: two looks, the older one to compare with; each is the time (s), published, and gone.
        self._looks: OrderedDict[str, list[tuple[float, int, int]]] = OrderedDict()

    def of(self, name: str, stats: QueueStats) -> dict[str, float | None]:
        """Messages a second in and out, and in how many seconds it is empty at that pace (None: never)."""
        now = self._broker.now() / 1e6
        gone = stats.settled + stats.expired + stats.discarded + stats.moved
        looks = self._looks.setdefault(name, [(self._broker.stats.started, 0, 0)])
        self._looks.move_to_end(name)
        if len(looks) == 2 and now - looks[1][0] >= _LEAST:
            del looks[0]
        then, published, left = looks[0]
        elapsed = max(now - then, 0.001)
        incoming, outgoing = (stats.published - published) / elapsed, (gone - left) / elapsed
        if len(looks) == 1 and elapsed >= _LEAST:
            looks.append((now, stats.published, gone))
        if len(self._looks) > _REMEMBERED:
            self._looks.popitem(last=False)
        waiting = stats.ready + stats.on_loan
        emptying = outgoing - incoming
        eta = 0.0 if not waiting else round(waiting / emptying, 1) if emptying > 0 else None
        return {"in_rate": round(incoming, 3), "out_rate": round(outgoing, 3), "drain_eta": eta}
