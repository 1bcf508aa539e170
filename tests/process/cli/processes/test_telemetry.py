"""Telemetry costs nothing unless it is turned on, not even an import."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from support.command_line import CommandLine
from support.distributions import install_extension

BURST = ("worker", "--worker-size", "small", "--burst")


def imported(command_line: CommandLine, *arguments: str, **environment: str) -> set[str]:
    """The modules that the interpreter has imported by the end of the command."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "diracx.tasks.cli", *arguments],
        env=command_line.environment | environment,
        cwd=command_line.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("command", [("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]'), BURST])
def test_nothing_of_it_is_imported_unless_it_is_asked_for(with_server: CommandLine, command: tuple[str, ...]) -> None:
    without = imported(with_server, *command)
    assert "diracx.tasks.cli.processes.telemetry" in without
    assert not {name for name in without if "opentelemetry" in name}
    assert not {name for name in imported(with_server, *command, OTEL_SDK_DISABLED="true") if "opentelemetry" in name}
    asked = imported(with_server, *command, OTEL_TRACES_EXPORTER="console")
    assert {"opentelemetry.sdk.trace", "diracx.tasks.plumbing.observability.otel"} <= asked


@pytest.fixture
def stuck(with_server: CommandLine) -> CommandLine:
    points = {
        "opentelemetry_traces_exporter": {"stuck": "stuck_exporter:Spans", "failing": "stuck_exporter:Fails"},
        "opentelemetry_metrics_exporter": {"stuck": "stuck_exporter:Metrics"},
    }
    install_extension(with_server.folder / "site", "stuck_exporter", points)
    return with_server


def test_a_collector_that_does_not_answer_delays_the_end_by_seconds(stuck: CommandLine) -> None:
    stuck("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    began = time.monotonic()
    done = stuck(*BURST, OTEL_TRACES_EXPORTER="stuck", OTEL_METRICS_EXPORTER="stuck")
    took = time.monotonic() - began
    lines = [line for line in done.stderr.splitlines() if "not sent" in line]
    assert (done.returncode, len(lines)) == (0, 1), done.stderr
    assert (
        "not sent within 2 s, and given up: the latest spans (OTEL_TRACES_EXPORTER: stuck); the latest met" in lines[0]
    )
    assert took < 15  # 2 s, and a start on a machine with other things to do; 20 s and a start without the limit
    assert "Traceback" not in done.stderr
    assert "by force" not in done.stderr


def test_an_exporter_that_fails_at_the_end_is_a_line_and_no_failure(stuck: CommandLine) -> None:
    done = stuck("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', OTEL_TRACES_EXPORTER="failing")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "not sent" in line]
    assert line.endswith(r"not sent: the latest spans (OTEL_TRACES_EXPORTER: failing): no route\x1b[31m")


def test_providers_that_somebody_has_set_up_are_used(with_server: CommandLine) -> None:
    # As `opentelemetry-instrument` does, by the same door.
    (with_server.folder / "site" / "sitecustomize.py").write_text(
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
        "trace.set_tracer_provider(TracerProvider())\n"
        "trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))\n"
    )
    done = with_server("submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert '"name": "publish ' in done.stdout
