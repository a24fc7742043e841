"""A survey as families of Prometheus's client, which writes them down; loaded by the first ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from prometheus_client import openmetrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from broker import __version__
from broker.core.stats import OF_BROKER, OF_FRONT, OF_QUEUE, Metric, values
from broker.core.survey import Survey
from broker.http.metrics import MOST, UNITS, family_name

Family = CounterMetricFamily | GaugeMetricFamily


def exposed(survey: Survey, exact: bool) -> bytes:
    """The survey in the text format 0.0.4; `exact`: as OpenMetrics 1.0.0."""
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
    unit = UNITS.get(metric.unit, "")
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return make(family_name(prefix, name, metric), metric.help, labels=labels, unit=unit)


def _scaled(number: int, metric: Metric) -> float:
    return number / 1000 if metric.unit == "milliseconds" else number
