"""The server itself: who it is, how it is, what it has done."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from broker import __version__
from broker.core.broker import Broker
from broker.core.survey import Survey, Surveyor
from broker.http import problem
from broker.http.call import Answer, Call, json, text
from broker.http.counts import Counts
from broker.http.problem import RETRY_AFTER, Problem

#: Where to go on from ``/``.
LINKS = {
    "channels": "/channels",
    "topics": "/topics",
    "stats": "/stats",
    "ready": "/readyz",
    "interface": "/openapi.json",
}


class About:
    """``/``, ``/stats``, ``/healthz``, ``/readyz``.

    `identity` is what Linger calls the server id, `database` the path of the data file (None: in memory).
    """

    def __init__(
        self,
        broker: Broker,
        surveyor: Surveyor,
        counts: Counts,
        *,
        unready: Callable[[], str],
        identity: str,
        database: str | None,
        size: int,
    ) -> None:
        self._broker = broker
        self._surveyor = surveyor
        self._counts = counts
        self._unready = unready
        self._identity = identity
        self._database = database
        self._size = size

    async def welcome(self, call: Call) -> Answer:
        """``GET /``."""
        return json(
            200,
            {
                "Linger": "Welcome",
                "version": __version__,
                "id": self._identity,
                "hostname": platform.node(),
                "links": LINKS,
            },
        )

    async def health(self, call: Call) -> Answer:
        """``GET /healthz``: 200 while anything is answered at all."""
        return text(200, "ok\n")

    async def readiness(self, call: Call) -> Answer:
        """``GET /readyz``: 200 while the broker takes messages, else 503 with the reason, in JSON for whoever asks."""
        reason = self._unready()
        if not reason:
            return text(200, "ready\n")
        trouble = problem.render(
            Problem(503, "not-ready", reason, retry_after=RETRY_AFTER), "application/json", "/readyz"
        )
        return Answer(trouble.status, trouble.body, trouble.headers)

    async def stats(self, call: Call) -> Answer:
        """``GET /stats``: Linger's keys with true numbers, those of the second half once they are not 0; then ours."""
        survey = await self._surveyor.survey()
        counted = {key: number for key, number in self._counted(survey).items() if number}
        ours = {"broker": survey.broker, "fronts": survey.fronts}
        return json(200, self._current(survey) | counted | ours)

    def _current(self, survey: Survey) -> dict[str, int | float | str | None]:
        now = survey.broker
        times = os.times()
        return {
            "current-topics": now["topics"],
            "current-subscriptions": survey.topic_bindings,
            "current-channels": now["queues_in_use"],
            "current-messages": now["ready"] + now["on_loan"],
            "current-messages-ready": now["ready"],
            "current-messages-hidden": now["on_loan"],
            "current-messages-urgent": now["urgent"],
            "current-messages-niced": now["niced"],
            "current-uptime": now["uptime"],
            "db-file": self._database or ":memory:",
            "db-size": _file_size(self._database),
            "pid": os.getpid(),
            "rusage-utime": times.user,
            "rusage-stime": times.system,
            "version": __version__,
            "msg-max-id": survey.last_id or None,
            "msg-max-size": self._size,
            "id": self._identity,
            "hostname": platform.node(),
            "start": int(self._broker.stats.started),
        }

    def _counted(self, survey: Survey) -> dict[str, int]:
        count = survey.broker
        return {
            "msg-add": count["published"],
            "msg-get": self._counts.takes,
            # came back to be delivered again
            "msg-show": count["failed"] + count["released"] - count["discarded"],
            "msg-hide": count["delivered"],
            "delivered": count["delivered"],
            "msg-delete": count["settled"],
            "msg-timeouts": count["lapsed"],
            "msg-retention": count["expired"],
            "msg-touch": count["touched"],
            "publish": count["published_to_topics"],
            "channel-create": count["queues_created"],
            "channel-remove": count["queues_deleted"],
            "channel-drain": self._counts.drains,
            "subscription-add": count["bound"],
            "subscription-delete": count["unbound"],
        }


def _file_size(path: str | None) -> int:
    """Bytes of the data file; -1 in memory, as Linger says."""
    if path is None:
        return -1
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
