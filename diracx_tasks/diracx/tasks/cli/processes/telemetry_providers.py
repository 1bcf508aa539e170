"""Providers of OpenTelemetry for a process of the command line. `telemetry` loads this module on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import Any, Final

import rich_click as click
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.otel import OpenTelemetry
from diracx.tasks.plumbing.wire.failure import message_of

logger = logging.getLogger("diracx.tasks.telemetry")

SEND_SECONDS: Final = 2.0
"""At its end a process sends its latest spans and metrics for this time."""


@contextmanager
def measured(
    environ: Mapping[str, str],
    service: str,
    instance: str,
    trace_exporters: Sequence[str],
    metric_exporters: Sequence[str],
) -> Iterator[None]:
    """Measure within the block, with the providers of this process, or else with new ones for these exporters.

    Args:
        service: The name of the service, unless `OTEL_SERVICE_NAME` sets it.
        instance: The id of this process.

    Raises:
        click.UsageError: An exporter is not installed.
    """
    with ExitStack() as stack:
        if (trace_exporters or metric_exporters) and not _provided():
            resource = _resource(environ, service, instance)
            stack.callback(_provide(resource, trace_exporters, metric_exporters))
        if _provided():
            stack.enter_context(telemetry.bound(OpenTelemetry()))
        yield


def _provided() -> bool:
    """Return whether this process has providers other than the placeholders of the API."""
    return isinstance(trace.get_tracer_provider(), TracerProvider) or isinstance(
        metrics.get_meter_provider(), MeterProvider
    )


def _resource(environ: Mapping[str, str], service: str, instance: str) -> Resource:
    attributes = {"service.instance.id": instance}
    if not environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = service
    return Resource.create(attributes)


def _provide(resource: Resource, trace_exporters: Sequence[str], metric_exporters: Sequence[str]) -> Callable[[], None]:
    """Set up the providers of this process; return a function that sends the rest and ends them."""
    readers = [_reader(_exporter("metrics", name)) for name in metric_exporters]
    # They are ended here, and not once more at the exit of the interpreter, which nothing would limit.
    meters = MeterProvider(readers, resource, shutdown_on_exit=False)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in trace_exporters:
        tracers.add_span_processor(BatchSpanProcessor(_exporter("traces", name)()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def end() -> None:
        parts = {}
        if trace_exporters:
            parts[f"the latest spans (OTEL_TRACES_EXPORTER: {', '.join(trace_exporters)})"] = tracers.shutdown
        if metric_exporters:
            parts[f"the latest metrics (OTEL_METRICS_EXPORTER: {', '.join(metric_exporters)})"] = meters.shutdown
        _end_in_time(parts)

    return end


def _end_in_time(parts: Mapping[str, Callable[[], None]]) -> None:
    """Send what is left and end each provider, `SEND_SECONDS` at the most in all. A collector that is away would keep
    the process for as long as its exporters try again, up to 10 s each.

    Args:
        parts: What ends a provider, by what that sends.
    """
    threads = {what: threading.Thread(target=_ended, args=(what, end), daemon=True) for what, end in parts.items()}
    limit = time.monotonic() + SEND_SECONDS
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, limit - time.monotonic()))
    if unsent := [what for what, thread in threads.items() if thread.is_alive()]:
        # A thread that logs while the interpreter ends is fatal to it, and one line is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        logger.warning("not sent within %g s, and given up: %s", SEND_SECONDS, "; ".join(unsent))


def _ended(what: str, end: Callable[[], None]) -> None:
    try:
        end()
    except Exception as error:  # of an exporter, which is no part of this project
        logger.warning("not sent: %s: %s", what, message_of(error))


def _reader(exporter: Any) -> MetricReader:
    # `prometheus` is no exporter, but a reader: it serves metrics in place of sending them.
    return exporter() if issubclass(exporter, MetricReader) else PeriodicExportingMetricReader(exporter())


def _exporter(signal: str, name: str) -> Any:
    # `otlp` stands for two protocols, each a package of its own.
    for candidate in (name, "otlp_proto_http", "otlp_proto_grpc") if name == "otlp" else (name,):
        for point in entry_points(group=f"opentelemetry_{signal}_exporter", name=candidate):
            return point.load()
    what = "opentelemetry-exporter-otlp" if name == "otlp" else f"the package with the exporter {name!r}"
    raise click.UsageError(f"OTEL_{signal.upper()}_EXPORTER: {name!r} is not installed here: pip install {what}")
