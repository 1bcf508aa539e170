"""OpenTelemetry in the processes of the command line, by its standard variables.

Telemetry is on where the extra `otel` is installed and somebody asked for it: by `OTEL_TRACES_EXPORTER`,
`OTEL_METRICS_EXPORTER` or `OTEL_EXPORTER_OTLP_ENDPOINT`, or by starting the process with `opentelemetry-instrument`,
which sets providers up before us. `OTEL_SDK_DISABLED=true` turns it off. Otherwise nothing is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import Any, Final

import rich_click as click

from diracx.tasks.plumbing import telemetry

try:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from diracx.tasks.plumbing.otel import OpenTelemetry
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

logger = logging.getLogger("diracx.tasks.telemetry")

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@contextmanager
def telemetry_from(environ: Mapping[str, str], service: str, instance: str) -> Iterator[None]:
    """Measure until the end of the block, if the environment asks for it; what was measured is sent before it ends.

    Args:
        service: The name of the service where `OTEL_SERVICE_NAME` says nothing.
        instance: Of this process.

    Raises:
        click.UsageError: An exporter is asked for that is not installed.
    """
    traces, figures = _exporters(environ, "TRACES"), _exporters(environ, "METRICS")
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not _INSTALLED:
        if (traces or figures) and not off:
            logger.warning("nothing is measured: install the extra, pip install 'diracx-tasks[otel]'")
        yield
        return
    with ExitStack() as stack:
        if not off and (traces or figures) and not _provided():
            resource = _resource(environ, service, instance)
            stack.callback(_provide(resource, traces, figures))
        if not off and _provided():
            stack.enter_context(telemetry.bound(OpenTelemetry()))
        yield


def _exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    """The names of the exporters of a signal; `otlp` where there is an endpoint and nothing else is said."""
    endpoint = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    names = environ.get(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    return [name for each in names.split(",") if (name := each.strip()) and name != "none"]


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


def _provide(resource: Resource, traces: list[str], figures: list[str]) -> Any:
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
