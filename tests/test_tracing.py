"""Traces: spans for publish, commit, deliver and settle, in the trace that the message names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from broker.core.delivery import Delivery
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import Policies, Policy
from broker.errors import ConfigError, QueueFull
from broker.storage.memory import MemoryStore
from broker.tracing import EXPORTER, TracedBroker, Tracing, wanted
from tests.clients.support import Http
from tests.support import serving, tx

#: A trace somebody else has begun, and his span.
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class World:
    """A broker, and the spans it has told of."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.store = MemoryStore()
        policies = Policies(Policy(max_messages=1))
        self.broker = TracedBroker(Tracing(lambda: provider), self.store, Clock(), policy=policies)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found


@pytest.fixture
def world() -> World:
    return World()


def trace_of(span: ReadableSpan) -> tuple[str, str]:
    """The trace it belongs to, and the span it follows from."""
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent is not None else ""


@tx()
async def test_a_message_is_followed_in_the_trace_it_names(world: World) -> None:
    broker = world.broker
    await broker.start()
    got: list[Delivery] = []
    broker.subscribe(queue("q"), got.append, prefetch=1)
    await broker.publish(queue("q"), Message(body=b"abc", headers={"traceparent": PARENT}))
    assert got[0].message.headers == {"traceparent": PARENT}
    await broker.ack(got)
    for name in ("publish q", "deliver q", "settle q"):
        assert trace_of(world.span(name)) == (TRACE, SPAN), name
    said = dict(world.span("publish q").attributes or {})
    assert said["messaging.destination.name"] == "q"
    assert said["messaging.message.body.size"] == 3
    assert dict(world.span("settle q").attributes or {})["broker.outcome"] == "ack"
    assert any(dict(span.attributes or {})["messaging.batch.message_count"] == 1 for span in world.spans("commit"))
    await broker.stop()


@tx()
async def test_one_that_names_none_begins_a_trace_which_it_carries(world: World) -> None:
    broker = world.broker
    await broker.start()
    await broker.publish(queue("q"), Message(body=b"x"))
    delivery = await broker.take("q")
    assert delivery is not None
    own = world.span("publish q").context
    assert delivery.message.headers["traceparent"].startswith(f"00-{own.trace_id:032x}-{own.span_id:016x}-")
    assert trace_of(world.span("deliver q")) == (f"{own.trace_id:032x}", f"{own.span_id:016x}")
    broker.nack([delivery])
    assert dict(world.span("settle q").attributes or {})["broker.outcome"] == "nack"
    again = broker.at_hand("q")
    assert again is not None
    assert dict(world.spans("deliver q")[1].attributes or {})["broker.attempts"] == 1
    await broker.settle(again.id)
    assert len(world.spans("settle q")) == 2
    await broker.publish(queue("q"), Message(body=b"y"))
    assert len(broker.several_at_hand("q", 9, 100)) == 1
    assert len(world.spans("deliver q")) == 3
    await broker.stop()


@tx()
async def test_what_is_refused_is_an_error_of_its_span_and_not_more(world: World) -> None:
    broker = world.broker
    await broker.start()
    await broker.publish(queue("q"), Message(body=b"x"))
    with pytest.raises(QueueFull):
        await broker.publish(queue("q"), Message(body=b"x"))
    assert [span.status.is_ok for span in world.spans("publish q")] == [True, False]
    await broker.publish(topic("t"), Message(body=b"x"))
    assert world.span("publish t").status.is_ok
    await broker.stop()


@tx()
async def test_http_takes_and_gives_the_trace_under_its_own_name() -> None:
    async with serving() as served:
        http = Http(served.http)
        try:
            sent = {"traceparent": PARENT, "tracestate": "a=1"}
            status, _, _ = await deferToThread(http.ask, "POST", "/channels/q", b"x", sent)
            assert status == 202
            _, headers, _ = await deferToThread(http.ask, "GET", "/channels/q?nowait")
        finally:
            http.close()
        assert (headers["traceparent"], headers["tracestate"]) == (PARENT, "a=1")
        assert "x-message-traceparent" not in headers


def test_off_is_off_and_nothing_is_imported() -> None:
    assert not wanted({})
    assert not wanted({EXPORTER: "none"})
    code = "import sys, broker.service; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    environment = {name: value for name, value in os.environ.items() if name != EXPORTER}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0


def test_another_exporter_or_a_missing_package_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'zipkin' is none of otlp, console, none"):
        wanted({EXPORTER: "zipkin"})
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'twisted-broker\[trace\]'"):
        wanted({EXPORTER: "otlp"})


def test_a_whole_broker_prints_its_spans_if_it_is_told_so(tmp_path: Path) -> None:
    from tests.deploy.support import Activated
    from tests.test_service import ask

    options = ("--memcache=off", "--stomp=off", "--http=0", "--data=:memory:")
    environment = {EXPORTER: "console", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with Activated(tmp_path, *options, environment=environment) as twistd:
        assert ask(twistd.ports()["HTTP"], "POST", "/channels/q", b"x")[0] == 202
        twistd.until('"name": "publish q"')
        assert "twisted-broker" in twistd.until('"service.name"')
