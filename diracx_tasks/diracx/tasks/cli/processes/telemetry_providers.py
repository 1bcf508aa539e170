"""Providers of OpenTelemetry for a process of the command line. `telemetry` loads this module on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import Any

import rich_click as click
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.otel import OpenTelemetry


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
    readers = [PeriodicExportingMetricReader(_exporter("metrics", name)()) for name in metric_exporters]
    meters = MeterProvider(readers, resource)
    tracers = TracerProvider(resource=resource)
    for name in trace_exporters:
        tracers.add_span_processor(BatchSpanProcessor(_exporter("traces", name)()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def end() -> None:
        tracers.shutdown()
        meters.shutdown()

    return end


def _exporter(signal: str, name: str) -> Any:
    # `otlp` stands for two protocols, each a package of its own.
    for candidate in (name, "otlp_proto_http", "otlp_proto_grpc") if name == "otlp" else (name,):
        for point in entry_points(group=f"opentelemetry_{signal}_exporter", name=candidate):
            return point.load()
    what = "opentelemetry-exporter-otlp" if name == "otlp" else f"the package with the exporter {name!r}"
    raise click.UsageError(f"OTEL_{signal.upper()}_EXPORTER: {name!r} is not installed here: pip install {what}")
