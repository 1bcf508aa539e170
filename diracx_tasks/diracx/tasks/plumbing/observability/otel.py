"""Traces and metrics with OpenTelemetry, by its conventions for messaging systems (semantic conventions 1.44).

Spans:

* A publish is a span of kind PRODUCER. Its context travels as `traceparent` in the message.
* Processing a delivery is a span of kind CONSUMER: a child of the publish, and linked to it. So a task, its retries and
  the tasks that it submits are one trace.
* A failed execution is an event `exception` on its span, with type, message and stack trace, whether it is retried,
  dead or dropped. Later conventions record exceptions in logs; those that record events may go on, which we do.
* A message without a context, e.g. of `nats pub`, starts a trace.
* A scheduler publishes occurrences together. As the conventions describe for a batch, each occurrence has a span
  `create` whose context travels with it, and one span `publish` of kind CLIENT is linked to all of them. So each
  occurrence is a trace of its own.

This module uses the API of OpenTelemetry only. The providers of the process decide where spans and metrics go;
`cli.processes.telemetry` sets them up for the command line. An application with its own providers binds this class:

    with telemetry.bound(OpenTelemetry()):
        async with JetStreamBroker.connect(url):
            ...

| Metric | Unit | Kind |
|---|---|---|
| `messaging.client.operation.duration` | s | histogram: from a publish to its acknowledgement |
| `messaging.client.sent.messages` | {message} | counter |
| `messaging.client.consumed.messages` | {message} | counter |
| `messaging.process.duration` | s | histogram: locks, injection and execution of one delivery |
| `diracx.tasks.queue.wait` | s | histogram: from the due time, else the storage, to the first delivery |
| `diracx.tasks.lock.lost` | {lock} | counter |
| `diracx.tasks.loop.lag` | s | histogram: the lag of the event loop of a worker, four times a second |
| `diracx.tasks.worker.up` | {worker} | up-down counter: workers: 1 for each |
| `diracx.tasks.worker.slots` | {slot} | up-down counter: slots of a worker |
| `diracx.tasks.worker.running` | {task} | up-down counter: slots of a worker in use |
| `diracx.tasks.worker.isolated` | {worker} | up-down counter: 1 while a task is isolated in it, or waits for that |
| `diracx.tasks.queue.waiting` | {task} | up-down counter: tasks of a queue that were never delivered |
| `diracx.tasks.queue.in_flight` | {task} | up-down counter: tasks of a queue that workers have in flight |
| `diracx.tasks.queue.parked` | {task} | up-down counter: tasks of a queue that wait for a retry or a lock |
| `diracx.tasks.queue.oldest` | s | gauge: age of the oldest waiting task of a queue |
| `diracx.tasks.dead_letters` | {task} | up-down counter: dead letters |
| `diracx.tasks.delayed` | {task} | up-down counter: tasks that were submitted for later |
| `diracx.tasks.scheduler.leader` | {scheduler} | up-down counter: 1 if a scheduler leads, else 0 |

The last ones are read at each report. Workers tell their own. The leading scheduler tells those of the mesh: of the
queues by `diracx.tasks.priority` and `diracx.tasks.size`, and it alone, so that their sum over all processes is right.
Each scheduler tells whether it leads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from diracx.tasks.plumbing.observability.telemetry import Gauges, Outgoing, Raised, Received

_SCOPE: Final = "diracx.tasks"
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
# The buckets that the conventions advise for durations, in seconds.
_DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG_DURATION_BUCKETS: Final = (*_DURATION_BUCKETS, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)

GAUGES: Final = {
    "diracx.tasks.worker.up": ("{worker}", "1 for each worker"),
    "diracx.tasks.worker.slots": ("{slot}", "Slots of a worker"),
    "diracx.tasks.worker.running": ("{task}", "Slots of a worker in use"),
    "diracx.tasks.worker.isolated": ("{worker}", "Whether a task runs isolated in a worker, or waits for that"),
    "diracx.tasks.queue.waiting": ("{task}", "Tasks of a queue that were never delivered"),
    "diracx.tasks.queue.in_flight": ("{task}", "Tasks of a queue that workers have in flight"),
    "diracx.tasks.queue.parked": ("{task}", "Tasks of a queue that wait for a retry or a lock"),
    "diracx.tasks.queue.oldest": ("s", "Age of the oldest waiting task of a queue"),
    "diracx.tasks.dead_letters": ("{task}", "Dead letters"),
    "diracx.tasks.delayed": ("{task}", "Tasks that were submitted for later"),
    "diracx.tasks.scheduler.leader": ("{scheduler}", "Whether a scheduler leads"),
}
"""The unit and the description of each `telemetry.Gauge`. One in seconds is a gauge, the others are up-down counters:
their sum over all processes means something."""

# The header is part of the wire format, so the propagator that the process configured does not matter.
_propagator: Final = TraceContextTextMapPropagator()

_Attributes = dict[str, str | int]


class _Processing:
    """Satisfies `telemetry.Processing`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.attributes: _Attributes = {}
        """Known at the end only; for the span and for the metrics."""

    def end(self, outcome: str, error: str | None, raised: Raised | None = None) -> None:
        """Set the outcome on the span, and add the error as the event `exception`."""
        self.attributes["diracx.tasks.outcome"] = outcome
        if error is not None:
            self.attributes["error.type"] = raised.type if raised is not None else _kind_of(error) or outcome
            self._span.set_status(Status(StatusCode.ERROR, error))
        if raised is not None:
            event = {"exception.type": raised.type, "exception.message": raised.message}
            if raised.traceback:
                event["exception.stacktrace"] = raised.traceback
            self._span.add_event("exception", event)


class OpenTelemetry:
    """Satisfies `telemetry.Telemetry`.

    Args:
        tracers: The provider of tracers; None means that of the process.
        meters: The provider of meters; None means that of the process.
    """

    def __init__(self, tracers: TracerProvider | None = None, meters: MeterProvider | None = None) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracers, schema_url=_SCHEMA)
        meter = metrics.get_meter(_SCOPE, meter_provider=meters, schema_url=_SCHEMA)
        self._operation = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of a publish",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Tasks submitted")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", "{message}", "Deliveries")
        self._process = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of the processing of a delivery",
            explicit_bucket_boundaries_advisory=_LONG_DURATION_BUCKETS,
        )
        self._wait = meter.create_histogram(
            "diracx.tasks.queue.wait",
            "s",
            "Time from due, or stored, to the first delivery",
            explicit_bucket_boundaries_advisory=_LONG_DURATION_BUCKETS,
        )
        self._lost = meter.create_counter("diracx.tasks.lock.lost", "{lock}", "Locks lost while their task executed")
        self._lag = meter.create_histogram(
            "diracx.tasks.loop.lag",
            "s",
            "Lag of the event loop of a worker",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._observed: list[Gauges] = []
        for name, (unit, description) in GAUGES.items():
            create = meter.create_observable_gauge if unit == "s" else meter.create_observable_up_down_counter
            create(name, [partial(self._observe, name)], unit, description)

    def _observe(self, name: str, _: CallbackOptions) -> Iterator[Observation]:
        for gauges in list(self._observed):
            yield from (Observation(each.value, each.attributes) for each in gauges() if each.name == name)

    @contextmanager
    def observing(self, gauges: Gauges) -> Iterator[None]:
        """Read `gauges` for each report within the block."""
        self._observed.append(gauges)
        try:
            yield
        finally:
            self._observed.remove(gauges)

    @contextmanager
    def publishing(self, subject: str, headers: dict[str, str], size: int) -> Iterator[None]:
        """Open a span of kind PRODUCER, and add its context to the headers."""
        common, details = _sending("publish", "send", _low_cardinality(subject)), _message(headers, size)
        with self._span(common, SpanKind.PRODUCER, details), self._measured(common, 1):
            _propagator.inject(headers)
            yield

    @contextmanager
    def publishing_together(self, subject: str, messages: Sequence[Outgoing]) -> Iterator[None]:
        """Open a span of kind CLIENT, linked to a span of kind PRODUCER for each message, which carries its context."""
        links = []
        for message in messages:
            creating = _sending("create", "create", _low_cardinality(message.subject))
            with self._span(creating, SpanKind.PRODUCER, _message(message.headers, message.size)) as created:
                _propagator.inject(message.headers)
                links.append(Link(created.get_span_context()))
        common = _sending("publish", "send", subject)
        count: _Attributes = {"messaging.batch.message_count": len(messages)}
        with self._span(common, SpanKind.CLIENT, count, links), self._measured(common, len(messages)):
            yield

    def _span(
        self, common: _Attributes, kind: SpanKind, details: _Attributes, links: Sequence[Link] = ()
    ) -> AbstractContextManager[Span]:
        name = f"{common['messaging.operation.name']} {common['messaging.destination.name']}"
        return self._tracer.start_as_current_span(name, kind=kind, attributes={**common, **details}, links=links)

    @contextmanager
    def _measured(self, common: _Attributes, count: int) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except BaseException as error:
            common["error.type"] = type(error).__name__
            raise
        finally:
            self._operation.record(time.perf_counter() - began, common)
            self._sent.add(count, common)

    @contextmanager
    def processing(self, received: Received) -> Iterator[_Processing]:
        """Open a span of kind CONSUMER, a child of the publishing span and linked to it."""
        common: _Attributes = {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": received.subject,
            "messaging.consumer.group.name": received.consumer,
            "diracx.tasks.name": received.task,
        }
        if received.waited is not None:
            self._wait.record(received.waited, common)
        parent, links = _origin(received.headers)
        details: _Attributes = {
            "messaging.message.id": received.id,
            "messaging.message.body.size": received.size,
            "diracx.tasks.delivered": received.delivered,
            "diracx.tasks.retries": received.retries,
        }
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"process {received.subject}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**common, **details},
            links=links,
            # A cancellation is no failure.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            processing = _Processing(span)
            try:
                yield processing
            finally:
                span.set_attributes(processing.attributes)
                self._process.record(time.perf_counter() - began, {**common, **processing.attributes})
                self._consumed.add(1, {**common, **processing.attributes})

    def lock_lost(self, key: str) -> None:
        """Count a lost lock, by the kind of lock and the type of the locked object."""
        kind, _, rest = key.partition(".")
        self._lost.add(1, {"diracx.tasks.lock.kind": kind, "diracx.tasks.lock.object": rest.partition(".")[0]})

    def loop_lagged(self, seconds: float) -> None:
        """Record the lag of an event loop."""
        self._lag.record(seconds)


def _origin(headers: Mapping[str, str]) -> tuple[Context, list[Link]]:
    """Return the context in the headers of a message, and a link to its span if there is one."""
    context = _propagator.extract(headers, context=Context())
    span = trace.get_current_span(context).get_span_context()
    return context, [Link(span)] if span.is_valid else []


def _kind_of(reason: str) -> str | None:
    """The word before the colon of a reason, such as `poison`; None: it has none. A reason is free text, and an
    attribute of a metric must have few values."""
    kind = reason.partition(":")[0]
    return kind if kind.isidentifier() else None


def _sending(operation: str, kind: str, destination: str) -> _Attributes:
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


def _message(headers: Mapping[str, str], size: int) -> _Attributes:
    return {
        "messaging.message.id": headers.get("Task-Id", ""),
        "messaging.message.body.size": size,
        "diracx.tasks.name": headers.get("Task-Name", ""),
    }


def _low_cardinality(subject: str) -> str:
    """Replace the last token of `acme.delayed.<id>`, `acme.group.<id>` and `acme.periodic.<...>.<time>` by `*`: few
    series of metrics."""
    head = subject.rpartition(".")[0]
    return f"{head}.*" if subject.split(".")[1:2] in (["delayed"], ["group"], ["periodic"]) else subject
