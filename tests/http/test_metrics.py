"""``/metrics``, read by the parsers of Prometheus's own client."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from broker.core.destination import queue
from broker.core.message import Message
from broker.core.route import Published
from broker.core.stats import OF_BROKER, OF_FRONT, OF_QUEUE, FrontStats
from broker.core.survey import Survey
from broker.http import metrics
from tests.clients.support import Http
from tests.http.support import Response, World
from tests.support import serving, tx

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
#: What Prometheus 3 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(answer: Response) -> Samples:
    """Every sample of an answer, by its name and labels, none of them twice."""
    assert answer.status == 200
    kinds = {TEXT: text_families, OPENMETRICS: openmetrics_families}
    found: Samples = {}
    for family in kinds[answer.headers["content-type"]](answer.body.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def queues(found: Samples) -> set[str]:
    """The queues that have series of their own."""
    return {dict(labels)["queue"] for _, labels in found if "queue" in dict(labels)}


def ask(world: World, query: str = "", **headers: str) -> Samples:
    return samples(world.ask("GET", f"/metrics{query}", None, **headers))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        (PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("text/html, Application/OpenMetrics-Text ; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=nonsense", OPENMETRICS),
        ("application/openmetrics-text; q=0, text/plain", TEXT),
        ("application/openmetrics-text;q=0.00, text/plain", TEXT),
    ],
)
def test_the_format_is_the_one_asked_for(accept: str, kind: str) -> None:
    world = World()
    world.post("a")
    answer = world.ask("GET", "/metrics", Accept=accept)
    assert answer.headers["content-type"] == kind
    assert answer.body.endswith(b"# EOF\n") == (kind == OPENMETRICS)
    assert samples(answer)["broker_queue_messages_ready", (("queue", "a"),)] == 1


@pytest.mark.parametrize("accept", ["text/plain", PROMETHEUS])
def test_every_number_has_a_series_with_its_kind_and_its_sentence(accept: str) -> None:
    world = World()
    world.broker.stats.fronts = lambda: {"stomp": FrontStats(3, 7)}
    world.post("a")
    answer = world.ask("GET", "/metrics", Accept=accept)
    parse = openmetrics_families if accept == PROMETHEUS else text_families
    families = {family.name: family for family in parse(answer.body.decode())}
    for prefix, numbers in (("broker", OF_BROKER), ("broker", OF_FRONT), ("broker_queue", OF_QUEUE)):
        for name, metric in numbers.items():
            family = families.pop(metrics.family_name(prefix, name, metric))
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            assert len(family.samples) == 1
    assert {name.removesuffix("_info") for name in families} == {"broker", "broker_queues_left_out"}
    found = samples(answer)
    assert found["broker_connections", (("front", "stomp"),)] == 3
    assert found["broker_connections_opened_total", (("front", "stomp"),)] == 7


def test_names_are_those_of_the_documentation() -> None:
    world = World()
    world.post("a")
    world.clock.advance(2.5)
    world.get("a")
    world.post("a")
    found = ask(world)
    of_queue = (("queue", "a"),)
    assert found["broker_uptime_seconds", ()] == 2
    assert found["broker_messages_published_total", ()] == 2
    assert found["broker_messages_on_loan", ()] == 1
    assert found["broker_memory_limit_bytes", ()] == 32 * 1024 * 1024
    assert found["broker_store_data_bytes", ()] > 0
    assert found["broker_queue_messages_delivered_total", of_queue] == 1
    assert found["broker_queue_consumers", of_queue] == 0
    assert found["broker_queue_age_seconds", of_queue] == 2.5


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a b", "grün", "{a}", "a,b=c"])
def test_any_name_can_be_a_label(name: str) -> None:
    world = World()
    _ = world.broker.publish(queue(name), Message(body=b"x"))
    for accept in ("text/plain", PROMETHEUS):
        assert queues(ask(world, Accept=accept)) == {name}


def test_an_empty_queue_keeps_its_series() -> None:
    world = World()
    world.ask("DELETE", f"/messages/{world.post('a').id}")
    assert ask(world)["broker_queue_messages_settled_total", (("queue", "a"),)] == 1


def test_a_pattern_chooses_queues() -> None:
    world = World()
    for name in ("orders.eu", "orders.us", "other", "[a]"):
        _ = world.broker.publish(queue(name), Message(body=b"x"))
    assert queues(ask(world)) == {"orders.eu", "orders.us", "other", "[a]"}
    assert queues(ask(world, "?queue=orders.*")) == {"orders.eu", "orders.us"}
    assert queues(ask(world, "?queue=o????")) == {"other"}
    assert queues(ask(world, "?queue=%5Ba%5D")) == {"[a]"}
    assert queues(ask(world, "?queue=")) == set()
    nothing = ask(world, "?queue=nothing")
    assert queues(nothing) == set()
    assert (nothing["broker_messages_ready", ()], nothing["broker_queues_left_out", ()]) == (4, 0)


def test_too_many_queues_have_no_series_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST", 3)
    world = World()
    for name in ("a1", "a2", "b1"):
        world.post(name)
    assert (queues(ask(world)), ask(world)["broker_queues_left_out", ()]) == ({"a1", "a2", "b1"}, 0)
    world.post("b2")
    found = ask(world)
    assert (queues(found), found["broker_queues_left_out", ()], found["broker_queues", ()]) == (set(), 4, 4)
    found = ask(world, "?queue=b*")
    assert (queues(found), found["broker_queues_left_out", ()]) == ({"b1", "b2"}, 0)
    found = ask(world, "?queue=*")
    assert (queues(found), found["broker_queues_left_out", ()]) == (set(), 4)


def test_the_limit_is_a_thousand_queues() -> None:
    assert metrics.MOST == 1000


def test_nothing_is_global() -> None:
    before = list(REGISTRY.collect())
    one, other = World(), World()
    one.post("a")
    assert queues(ask(one)) == {"a"}
    assert queues(ask(other)) == set()
    assert [family.name for family in REGISTRY.collect()] == [family.name for family in before]


def test_head_is_get_without_the_body() -> None:
    head = World().ask("HEAD", "/metrics")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", TEXT)


@tx()
async def test_much_is_rendered_in_another_thread() -> None:
    threads: list[tuple[int, int]] = []
    render = metrics.render

    def seen(survey: Survey, exact: bool) -> bytes:
        threads.append((len(survey.queues), threading.get_ident()))
        return render(survey, exact)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "render", seen)
        async with serving() as served:
            http = Http(served.http)
            published: list[Deferred[Published]] = []
            try:
                for wanted in (metrics.AT_ONCE, metrics.AT_ONCE + 1):
                    for number in range(wanted):
                        published.append(served.broker.publish(queue(f"q{number}"), Message(body=b"x")))
                    while published:
                        await published.pop()
                    status, _, body = await deferToThread(http.ask, "GET", "/metrics")
                    assert status == 200
                    assert body.count(b"broker_queue_messages_ready{") == wanted
            finally:
                http.close()
    (few, here), (many, elsewhere) = threads
    assert (few, here) == (metrics.AT_ONCE, threading.get_ident())
    assert many == metrics.AT_ONCE + 1
    assert elsewhere != here
