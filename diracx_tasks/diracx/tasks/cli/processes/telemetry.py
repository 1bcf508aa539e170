"""OpenTelemetry in the processes of the command line, configured by its standard variables.

Telemetry needs the extra `otel`. These turn it on:

* `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` or `OTEL_EXPORTER_OTLP_ENDPOINT`
* starting the process with `opentelemetry-instrument`, which sets up providers before this code runs

`OTEL_SDK_DISABLED=true` turns it off. Without telemetry, nothing of OpenTelemetry is imported: the import would take a
tenth of the time in which `submit` starts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Final

logger = logging.getLogger("diracx.tasks.telemetry")

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Is loaded if providers have been set up.
_SDK: Final = "opentelemetry.sdk"


@contextmanager
def telemetry_from(environ: Mapping[str, str], service: str, instance: str) -> Iterator[None]:
    """Measure within the block, if the environment turns telemetry on. All data is sent before the block ends.

    Args:
        service: The name of the service, unless `OTEL_SERVICE_NAME` sets it.
        instance: The id of this process.

    Raises:
        click.UsageError: An exporter is not installed.
    """
    trace_exporters, metric_exporters = _exporters(environ, "TRACES"), _exporters(environ, "METRICS")
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not (trace_exporters or metric_exporters or _SDK in sys.modules):
        yield
        return
    try:
        providers = import_module("diracx.tasks.cli.processes.telemetry_providers")
    except ImportError:
        if trace_exporters or metric_exporters:
            logger.warning("nothing is measured: install the extra, pip install 'diracx-tasks[otel]'")
        yield
        return
    with providers.measured(environ, service, instance, trace_exporters, metric_exporters):
        yield


def _exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    """Return the names of the exporters of a signal; `otlp` if only an endpoint is set."""
    endpoint = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    names = environ.get(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    return [name for each in names.split(",") if (name := each.strip()) and name != "none"]
