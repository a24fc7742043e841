"""The server itself: who it is, how it is, what it has done."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from broker import __version__
from broker.core.broker import Broker
from broker.core.destination import topic
from broker.http.call import Answer, Call, json, text
from broker.http.counts import Counts


class About:
    """``/``, ``/stats``, ``/healthz``, ``/readyz``.

    `identity` is what Linger calls the server id, `database` the path of the data file (None: in memory).
    """

    def __init__(
        self,
        broker: Broker,
        counts: Counts,
        *,
        ready: Callable[[], bool],
        identity: str,
        database: str | None,
        size: int,
    ) -> None:
        self._broker = broker
        self._counts = counts
        self._ready = ready
        self._identity = identity
        self._database = database
        self._size = size

    async def welcome(self, call: Call) -> Answer:
        """``GET /``."""
        return json(
            200,
            {"Linger": "Welcome", "version": __version__, "id": self._identity, "hostname": platform.node()},
        )

    async def health(self, call: Call) -> Answer:
        """``GET /healthz``: 200 while anything is answered at all."""
        return text(200, "ok\n")

    async def readiness(self, call: Call) -> Answer:
        """``GET /readyz``: 200 while the broker takes messages, else 503."""
        return text(200, "ready\n") if self._ready() else text(503, "not ready\n")

    async def stats(self, call: Call) -> Answer:
        """``GET /stats``: Linger's keys with true numbers; those of the second half appear once they are not 0."""
        counted = {key: number for key, number in self._counted().items() if number}
        return json(200, self._current() | counted)

    def _current(self) -> dict[str, int | float | str | None]:
        broker = self._broker
        channels, topics = broker.queues(), broker.topics()
        queues = [broker.queue_stats(name) for name in channels]
        ready, hidden = sum(q.ready for q in queues), sum(q.on_loan for q in queues)
        last_id = max((q.last_id for q in queues), default=0)
        times = os.times()
        started = broker.stats.started
        return {
            "current-topics": len(topics),
            "current-subscriptions": sum(len(broker.bound(topic(name))) for name in topics),
            "current-channels": len(channels),
            "current-messages": ready + hidden,
            "current-messages-ready": ready,
            "current-messages-hidden": hidden,
            "current-messages-urgent": sum(q.urgent for q in queues),
            "current-messages-niced": sum(q.niced for q in queues),
            "current-uptime": max(int(broker.now() / 1e6 - started), 0),
            "db-file": self._database or ":memory:",
            "db-size": _file_size(self._database),
            "pid": os.getpid(),
            "rusage-utime": times.user,
            "rusage-stime": times.system,
            "version": __version__,
            "msg-max-id": last_id or None,
            "msg-max-size": self._size,
            "id": self._identity,
            "hostname": platform.node(),
            "start": int(started),
        }

    def _counted(self) -> dict[str, int]:
        stats = self._broker.stats
        return {
            "msg-add": stats.published,
            "msg-get": self._counts.takes,
            # came back to be delivered again
            "msg-show": stats.failed + stats.released - stats.discarded,
            "msg-hide": stats.delivered,
            "delivered": stats.delivered,
            "msg-delete": stats.settled,
            "msg-timeouts": stats.lapsed,
            "msg-retention": stats.expired,
            "msg-touch": stats.touched,
            "publish": stats.published_to_topics,
            "channel-create": stats.queues_created,
            "channel-remove": stats.queues_deleted,
            "channel-drain": self._counts.drains,
            "subscription-add": stats.bound,
            "subscription-delete": stats.unbound,
        }


def _file_size(path: str | None) -> int:
    """Bytes of the data file; -1 in memory, as Linger says."""
    if path is None:
        return -1
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
