"""Traces for OpenTelemetry: what became of a message, beside what its producer and its consumers did.

Off unless the environment says OTEL_TRACES_EXPORTER (``otlp``, or ``console`` to look at it), as everywhere where
OpenTelemetry is used; only then is it imported (extra ``trace``). Four kinds of spans: ``publish``, from the request to
its confirmation; ``deliver``, when a consumer gets a message; ``settle``, from its ack to the disk; and ``commit``, one
for each group of changes. The first three belong to the trace that the message's header ``traceparent`` names. One
without it is given that of its own ``publish``, so that its consumers can go on with it. What is published in a
transaction is seen in its ``commit`` only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from broker.core.broker import Broker
from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.route import Published
from broker.core.store import Committed, Group, IStore
from broker.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

T = TypeVar("T")

#: What says which exporter, and the ones there are.
EXPORTER, EXPORTERS = "OTEL_TRACES_EXPORTER", ("otlp", "console")
#: The headers that carry a trace, and what CloudEvents in HTTP call them.
PARENT, STATE = "traceparent", "tracestate"
_EVENT = "ce-"


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody wants traces; `ConfigError` if they cannot be made."""
    said = environment.get(EXPORTER, "none").strip() or "none"
    if said == "none":
        return False
    if said not in EXPORTERS:
        raise ConfigError(f"{EXPORTER}: {said!r} is none of {', '.join(EXPORTERS)}, none")
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise ConfigError(f"{EXPORTER}={said} takes OpenTelemetry: pip install 'twisted-broker[trace]'") from None
    return True


def provider(environment: Mapping[str, str] = os.environ) -> TracerProvider:
    """What sends spans away, in a thread of its own; it reads the other variables of OpenTelemetry itself."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if environment[EXPORTER].strip() == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    named = {} if "OTEL_SERVICE_NAME" in environment else {"service.name": "twisted-broker"}
    made = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


class Tracing:
    """Makes spans. Before `start` there is nobody to tell: the process may go to the background yet."""

    def __init__(self, make: Callable[[], TracerProvider]) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation import tracecontext

        self._trace = trace
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._make = make
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()

    def start(self) -> None:
        """Tell from now on."""
        self._provider = self._make()
        self._tracer = self._provider.get_tracer("broker")

    async def stop(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            await deferToThread(self._provider.shutdown)

    def begin(self, what: str, kind: str, message: Message | None, **said: Any) -> Span:
        """A span that begins now, in the trace of a message if there is one."""
        return self._tracer.start_span(
            what,
            context=None if message is None else self._context(message),
            kind=getattr(self._trace.SpanKind, kind),
            attributes={"messaging.system": "twisted-broker", **said},
        )

    def within(self, span: Span, message: Message) -> Message:
        """The message as one of the trace of `span`, if it is of none."""
        if PARENT in message.headers or _EVENT + PARENT in message.headers or not span.get_span_context().is_valid:
            return message
        carried: dict[str, str] = {}
        self._propagator.inject(carried, self._trace.set_span_in_context(span))
        return msgspec.structs.replace(message, headers={**message.headers, **carried})

    def ends_with(self, span: Span, result: Deferred[T]) -> Deferred[T]:
        """The same result; the span ends with it."""

        def ended(value: T) -> T:
            span.end()
            return value

        def failed(failure: Failure) -> Failure:
            self._failed(span, failure.getErrorMessage())
            return failure

        return result.addCallbacks(ended, failed)

    def around(self, span: Span, call: Callable[[], Deferred[T]]) -> Deferred[T]:
        """What `call` gives, or raises; the span ends with it."""
        try:
            result = call()
        except BrokerError as error:
            self._failed(span, error.reason)
            raise
        return self.ends_with(span, result)

    def _failed(self, span: Span, reason: str) -> None:
        span.set_status(self._trace.StatusCode.ERROR, reason)
        span.end()

    def _context(self, message: Message) -> Context:
        headers = message.headers
        carried = {name: headers.get(name) or headers.get(_EVENT + name, "") for name in (PARENT, STATE)}
        return self._propagator.extract(carried)


class TracedStore:
    """A store whose commits are spans; all else is its own."""

    def __init__(self, store: IStore, tracing: Tracing) -> None:
        self._store = store
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, group: Group) -> Deferred[Committed]:
        """Make all of `group` durable."""
        count = sum(len(messages) for messages in group.parts.values())
        span = self._tracing.begin("commit", "INTERNAL", None, **{"messaging.batch.message_count": count})
        return self._tracing.around(span, lambda: self._store.commit(group))


class TracedBroker(Broker):
    """A broker that tells what becomes of messages."""

    def __init__(self, tracing: Tracing, store: IStore, *rest: Any, **more: Any) -> None:
        self._tracing = tracing
        super().__init__(cast(IStore, TracedStore(store, tracing)), *rest, **more)

    async def start(self) -> None:
        """Open the store."""
        self._tracing.start()
        await super().start()

    async def stop(self) -> None:
        """Close it."""
        await super().stop()
        await self._tracing.stop()

    def publish(self, destination: Destination, message: Message) -> Deferred[Published]:
        """Store one message."""
        return self.publish_to([destination], message)

    def publish_to(self, destinations: Iterable[Destination], message: Message) -> Deferred[Published]:
        """Store it for several destinations."""
        those = list(destinations)
        name = ", ".join(one.name for one in those)
        span = self._tracing.begin(f"publish {name}", "PRODUCER", message, **_said(name, message))
        put = self._tracing.within(span, message)
        one = super().publish if len(those) == 1 else None
        several = super().publish_to
        return self._tracing.around(span, lambda: one(those[0], put) if one is not None else several(those, put))

    def burst(self, destination: Destination) -> None:
        """Each message has a span, and so each is published by itself."""

    def subscribe(self, destination: Destination, deliver: Callable[[Delivery], None], **more: Any) -> Subscription:
        """Deliver to `deliver` from now on."""

        def told(delivery: Delivery) -> None:
            self._deliver(delivery)
            deliver(delivery)

        more["tell"] = None  # that would be past us
        return super().subscribe(destination, told, **more)

    async def take(self, queue: str | Sequence[str], **more: Any) -> Delivery | None:
        """One message of a queue."""
        delivery = await super().take(queue, **more)
        if delivery is not None:
            self._deliver(delivery)
        return delivery

    def at_hand(self, queue: str, **more: Any) -> Delivery | None:
        """One, if it is at hand."""
        delivery = super().at_hand(queue, **more)
        if delivery is not None:
            self._deliver(delivery)
        return delivery

    def several_at_hand(self, queue: str, most: int, size: int, **more: Any) -> list[Delivery]:
        """Several, as far as they are."""
        deliveries = super().several_at_hand(queue, most, size, **more)
        for delivery in deliveries:
            self._deliver(delivery)
        return deliveries

    def with_share(self, taken: Delivery, most: int, size: int, **more: Any) -> list[Delivery]:
        """One that was taken, and more."""
        deliveries = super().with_share(taken, most, size, **more)
        for delivery in deliveries[1:]:
            self._deliver(delivery)
        return deliveries

    def ack(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """Settle."""
        return self._settling("ack", deliveries, super().ack)

    def reject(self, deliveries: Iterable[Delivery]) -> Deferred[None]:
        """Never deliver them again."""
        return self._settling("reject", deliveries, super().reject)

    def nack(self, deliveries: Iterable[Delivery], **more: Any) -> None:
        """Their delivery failed."""
        those = list(deliveries)
        super().nack(those, **more)
        self._settled("nack", those)

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Give back."""
        those = list(deliveries)
        super().release(those)
        self._settled("release", those)

    def lost(self, deliveries: Iterable[Delivery]) -> None:
        """Their connection is gone."""
        those = list(deliveries)
        super().lost(those)
        self._settled("nack", those)

    def settle(self, delivery_id: int) -> Deferred[None]:
        """Settle by id."""
        found = self.find(delivery_id)
        if found is None:
            return super().settle(delivery_id)
        span = self._span("settle", found, "ack")
        settle = super().settle
        return self._tracing.around(span, lambda: settle(delivery_id))

    # -- parts

    def _span(self, what: str, delivery: Delivery, outcome: str = "") -> Span:
        said = {"messaging.message.id": delivery.message_id, **_said(delivery.queue, delivery.message)}
        if outcome:
            said["broker.outcome"] = outcome
        elif delivery.attempts:
            said["broker.attempts"] = delivery.attempts
        return self._tracing.begin(f"{what} {delivery.queue}", "CONSUMER", delivery.message, **said)

    def _deliver(self, delivery: Delivery) -> None:
        self._span("deliver", delivery).end()

    def _settled(self, outcome: str, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._span("settle", delivery, outcome).end()

    def _settling(
        self, outcome: str, deliveries: Iterable[Delivery], settle: Callable[[list[Delivery]], Deferred[None]]
    ) -> Deferred[None]:
        those = list(deliveries)
        result = settle(those)
        for delivery in those:
            result = self._tracing.ends_with(self._span("settle", delivery, outcome), result)
        return result


def _said(name: str, message: Message) -> dict[str, Any]:
    return {"messaging.destination.name": name, "messaging.message.body.size": len(message.body)}
