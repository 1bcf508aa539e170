"""Exporters of OpenTelemetry whose collector never answers, and one that fails at its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult


class Spans(ConsoleSpanExporter):
    """Never returns."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        threading.Event().wait()
        return SpanExportResult.FAILURE


class Metrics(ConsoleMetricExporter):
    """Never returns."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        threading.Event().wait()
        return MetricExportResult.FAILURE


class Fails(ConsoleSpanExporter):
    """Fails when it is shut down."""

    def shutdown(self) -> None:
        raise OSError("no route\x1b[31m")
