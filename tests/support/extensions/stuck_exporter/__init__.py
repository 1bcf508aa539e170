"""Exporters of OpenTelemetry whose collector never answers, and one that fails at its end."""

import threading

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter


class Spans(ConsoleSpanExporter):
    """Never returns."""

    def export(self, spans):
        threading.Event().wait()


class Metrics(ConsoleMetricExporter):
    """Never returns."""

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        threading.Event().wait()


class Fails(ConsoleSpanExporter):
    """Fails when it is shut down."""

    def shutdown(self):
        raise OSError("no route\x1b[31m")
