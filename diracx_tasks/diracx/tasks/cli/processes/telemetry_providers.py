"""Providers of OpenTelemetry for a process of the command line. Loaded by `telemetry` where measuring was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    environ: Mapping[str, str], service: str, instance: str, traces: Sequence[str], figures: Sequence[str]
) -> Iterator[None]:
    """Measure until the end of the block, by the providers of this process, or those that are asked for.

    Args:
        service: The name of the service where `OTEL_SERVICE_NAME` says nothing.
        instance: Of this process.
        traces: Names of exporters.
        figures: Names of exporters.

    Raises:
        click.UsageError: An exporter is not installed.
    """
    with ExitStack() as stack:
        if (traces or figures) and not _provided():
            resource = _resource(environ, service, instance)
            stack.callback(_provide(resource, traces, figures))
        if _provided():
            stack.enter_context(telemetry.bound(OpenTelemetry()))
        yield


def _provided() -> bool:
    """Whether this process has providers that do something."""
    return isinstance(trace.get_tracer_provider(), TracerProvider) or isinstance(
        metrics.get_meter_provider(), MeterProvider
    )


def _resource(environ: Mapping[str, str], service: str, instance: str) -> Resource:
    ours = {"service.instance.id": instance}
    if not environ.get("OTEL_SERVICE_NAME"):
        ours["service.name"] = service
    return Resource.create(ours)


def _provide(resource: Resource, traces: Sequence[str], figures: Sequence[str]) -> Any:
    """Set up the providers of this process; return what ends them."""
    readers = [PeriodicExportingMetricReader(_exporter("metrics", name)()) for name in figures]
    meters = MeterProvider(readers, resource)
    tracers = TracerProvider(resource=resource)
    for name in traces:
        tracers.add_span_processor(BatchSpanProcessor(_exporter("traces", name)()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def end() -> None:
        tracers.shutdown()
        meters.shutdown()

    return end


def _exporter(signal: str, name: str) -> Any:
    # `otlp` is a choice of protocols, of which one may be installed.
    for candidate in (name, "otlp_proto_http", "otlp_proto_grpc") if name == "otlp" else (name,):
        for point in entry_points(group=f"opentelemetry_{signal}_exporter", name=candidate):
            return point.load()
    what = "opentelemetry-exporter-otlp" if name == "otlp" else f"the package with the exporter {name!r}"
    raise click.UsageError(f"OTEL_{signal.upper()}_EXPORTER: {name!r} is not installed here: pip install {what}")
