"""``/metrics``: the numbers of `broker.core.stats` for Prometheus, in its text format or as OpenMetrics.

Nothing is kept in between and nothing is global: a survey is taken, and a collector over its plain values is rendered,
in another thread if that is more than a few hundred lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
from prometheus_client import openmetrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.registry import Collector
from twisted.internet.threads import deferToThread

from broker import __version__
from broker.core.stats import OF_BROKER, OF_FRONT, OF_QUEUE, Metric, values
from broker.core.survey import Survey, Surveyor
from broker.http.call import Answer, Call
from broker.http.numbers import wanted

#: Queues that have series of their own, some 20 each: 1,000 queues make a megabyte, in 60 ms.
MOST = 1_000
#: Queues whose series are rendered at once, without a thread: 20 take 3 ms.
AT_ONCE = 20

_refused = re.compile(r"q=0(\.0*)?")

#: Units that stand in a name, as Prometheus has them.
_units = {"bytes": "bytes", "seconds": "seconds", "milliseconds": "seconds"}

Family = CounterMetricFamily | GaugeMetricFamily


class Metrics:
    """``GET /metrics``."""

    def __init__(self, surveyor: Surveyor) -> None:
        self._surveyor = surveyor

    async def metrics(self, call: Call) -> Answer:
        """The numbers of the broker, and of the queues that ``queue`` names, if those are not more than `MOST`."""
        survey = await self._surveyor.survey(wanted(call), most=MOST)
        accepts = [fields for name, fields in call.headers if name.lower() == b"accept"]
        exact = _takes_openmetrics(b",".join(field for fields in accepts for field in fields).decode("latin-1"))
        if len(survey.queues) > AT_ONCE:
            body = await deferToThread(render, survey, exact)
        else:
            body = render(survey, exact)
        kind = OPENMETRICS if exact else CONTENT_TYPE_PLAIN_0_0_4
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
    collector = SurveyCollector(survey)
    return openmetrics.exposition.generate_latest(collector) if exact else generate_latest(collector)


@attrs.frozen(eq=False)
class SurveyCollector(Collector):
    """What `prometheus_client` asks for the numbers."""

    survey: Survey

    def collect(self) -> Iterator[Family | InfoMetricFamily]:
        """Each number with all its series."""
        survey = self.survey
        yield InfoMetricFamily("broker", "What runs here.", {"version": __version__})
        for name, metric in OF_BROKER.items():
            if name in survey.broker:
                family = _family("broker", name, metric)
                family.add_metric([], _scaled(survey.broker[name], metric))
                yield family
        for name, metric in OF_FRONT.items():
            family = _family("broker", name, metric, "front")
            for front, numbers in survey.fronts.items():
                family.add_metric([front], _scaled(numbers[name], metric))
            yield family
        queues = [(name, values(stats, OF_QUEUE)) for name, stats in survey.queues]
        for name, metric in OF_QUEUE.items():
            family = _family("broker_queue", name, metric, "queue")
            for queue, numbers in queues:
                family.add_metric([queue], _scaled(numbers[name], metric))
            yield family
        yield GaugeMetricFamily(
            "broker_queues_left_out",
            f"Queues that have no series here, because more than {MOST} are asked for: ask for fewer (?queue=PATTERN).",
            survey.left_out,
        )


def _family(prefix: str, name: str, metric: Metric, *labels: str) -> Family:
    """An empty family."""
    unit = _units.get(metric.unit, "")
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return make(family_name(prefix, name, metric), metric.help, labels=labels, unit=unit)


def family_name(prefix: str, name: str, metric: Metric) -> str:
    """What a number is called, as Prometheus's users expect it: with what is counted, and in base units."""
    if metric.unit == "messages":
        return f"{prefix}_messages_{name}"
    unit = _units.get(metric.unit)
    return f"{prefix}_{name}" if unit is None else f"{prefix}_{name.removesuffix('_ms')}_{unit}"


def _scaled(number: int, metric: Metric) -> float:
    return number / 1000 if metric.unit == "milliseconds" else number
