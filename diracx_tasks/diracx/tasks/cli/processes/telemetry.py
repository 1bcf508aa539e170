"""OpenTelemetry in the processes of the command line, by its standard variables.

Telemetry is on where the extra `otel` is installed and somebody asked for it: by `OTEL_TRACES_EXPORTER`,
`OTEL_METRICS_EXPORTER` or `OTEL_EXPORTER_OTLP_ENDPOINT`, or by starting the process with `opentelemetry-instrument`,
which sets providers up before us. `OTEL_SDK_DISABLED=true` turns it off. Otherwise nothing is measured, and nothing of
OpenTelemetry is imported, which is a tenth of the time in which `submit` starts.
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
# Whoever has set providers up has loaded it.
_SDK: Final = "opentelemetry.sdk"


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
    if off or not (traces or figures or _SDK in sys.modules):
        yield
        return
    try:
        providers = import_module("diracx.tasks.cli.processes.telemetry_providers")
    except ImportError:
        if traces or figures:
            logger.warning("nothing is measured: install the extra, pip install 'diracx-tasks[otel]'")
        yield
        return
    with providers.measured(environ, service, instance, traces, figures):
        yield


def _exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    """The names of the exporters of a signal; `otlp` where there is an endpoint and nothing else is said."""
    endpoint = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    names = environ.get(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    return [name for each in names.split(",") if (name := each.strip()) and name != "none"]
