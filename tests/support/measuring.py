"""Spans and metrics, recorded in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.otel import OpenTelemetry


class Measured:
    """The spans and metrics of one block. Made by `measuring`."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, by start."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans whose name begins so."""
        return [span for span in self.spans if span.name.startswith(name)]

    def metric(self, name: str) -> tuple[str | None, list[Any]]:
        """The unit and the data points of a metric."""
        metrics = self._metrics()
        return metrics[name].unit, list(metrics[name].data.data_points)

    @property
    def metric_names(self) -> set[str]:
        """The names of all metrics."""
        return set(self._metrics())

    def _metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {each.name: each for each in data.resource_metrics[0].scope_metrics[0].metrics}


@contextmanager
def measuring() -> Iterator[Measured]:
    """Record spans and metrics during the block."""
    measured = Measured()
    with telemetry.bound(OpenTelemetry(measured.tracers, measured.meters)):
        yield measured
    measured.tracers.shutdown()
    measured.meters.shutdown()


def context_of(span: ReadableSpan) -> tuple[int, int]:
    """Its trace id and span id."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    """The trace id and span id of its parent."""
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    """The trace ids and span ids of its links."""
    return [(link.context.trace_id, link.context.span_id) for link in span.links]
