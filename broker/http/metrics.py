"""``/metrics``: the numbers of `broker.core.stats` for Prometheus, in its text format or as OpenMetrics.

Nothing is kept in between and nothing is global: a survey is taken, and its plain values are rendered, in another
thread if that is more than a few hundred lines.
"""

from __future__ import annotations

import re

from twisted.internet.threads import deferToThread

from broker.core.stats import Metric
from broker.core.survey import Survey, Surveyor
from broker.http.call import Answer, Call
from broker.http.numbers import wanted

#: Queues that have series of their own, some 20 each: 1,000 queues make a megabyte, in 60 ms.
MOST = 1_000
#: Queues whose series are rendered at once, without a thread: 20 take 3 ms.
AT_ONCE = 20

_refused = re.compile(r"q=0(\.0*)?")

#: The types of the two formats, as Prometheus writes them.
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

#: Units that stand in a name, as Prometheus has them.
UNITS = {"bytes": "bytes", "seconds": "seconds", "milliseconds": "seconds"}


class Metrics:
    """``GET /metrics``."""

    def __init__(self, surveyor: Surveyor) -> None:
        self._surveyor = surveyor

    async def metrics(self, call: Call) -> Answer:
        """The numbers of the broker, and of the queues that ``queue`` names, if those are not more than `MOST`."""
        survey = await self._surveyor.survey(wanted(call), most=MOST)
        exact = _takes_openmetrics(call.said.accept)
        if len(survey.queues) > AT_ONCE:
            body = await deferToThread(render, survey, exact)
        else:
            body = render(survey, exact)
        kind = OPENMETRICS if exact else PLAIN
        return Answer(200, body, [(b"Content-Type", kind.encode())])


def _takes_openmetrics(accept: str) -> bool:
    """True if an ``Accept`` header names OpenMetrics, as Prometheus's own does."""
    for choice in accept.split(","):
        media, *parameters = (part.strip().lower().replace(" ", "") for part in choice.split(";"))
        if media == "application/openmetrics-text":
            return not any(_refused.fullmatch(parameter) for parameter in parameters)
    return False


def render(survey: Survey, exact: bool) -> bytes:
    """The survey in Prometheus's text format 0.0.4; `exact`: as OpenMetrics 1.0.0. For any thread."""
    # Only here: prometheus_client, with the web servers it takes along, is 10 ms of a start, and not all are scraped.
    from broker.http.exposition import exposed

    return exposed(survey, exact)


def family_name(prefix: str, name: str, metric: Metric) -> str:
    """What a number is called, as Prometheus's users expect it: with what is counted, and in base units."""
    if metric.unit == "messages":
        return f"{prefix}_messages_{name}"
    unit = UNITS.get(metric.unit)
    return f"{prefix}_{name}" if unit is None else f"{prefix}_{name.removesuffix('_ms')}_{unit}"
