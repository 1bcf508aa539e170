"""Each metric that the dashboard and the alert rules name is served by a real worker and a real scheduler."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections import defaultdict

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.monitoring import (
    LABELS_OF_PROMETHEUS,
    LABELS_OF_THE_EXPORTER,
    expressions,
    labels_in,
    metrics_in,
)
from support.processes import LoggedProcess, free_port

TASKS = (("Waits", '["held"]'), ("Dies", '["no"]'), ("Submits", '["bob"]'))


def serving(command_line: CommandLine, *arguments: str) -> tuple[LoggedProcess, str]:
    """A process that serves its metrics for Prometheus, and where."""
    port = free_port()
    variables = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    return LoggedProcess(command_line, *arguments, **variables), f"http://127.0.0.1:{port}/metrics"


def served(urls: list[str]) -> dict[str, set[str]]:
    """The names of the metrics that are served, each with those of its labels."""
    found: dict[str, set[str]] = defaultdict(set)
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError:  # not yet
            continue
        for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.M):
            found[name].update(re.findall(r'(\w+)="', labels))
    return found


async def test_each_metric_and_label_in_the_files_is_served(with_server: CommandLine) -> None:
    worker, of_the_worker = serving(with_server, "worker", "--worker-size", "small")
    scheduler, of_the_scheduler = serving(with_server, "scheduler")
    await wait_until(lambda: "tasks known" in worker.log, description="the worker runs", timeout=60)
    submit = [("submit", f"lollygag:{task}", "--args", args) for task, args in TASKS]
    assert all(done.returncode == 0 for done in with_server.each(submit))
    await with_server.wait_for_line("begin held")
    (key,) = [lock["key"] for lock in with_server.json("locks", "list") if "held" in lock["key"]]
    assert with_server("locks", "release", key, "--yes").returncode == 0
    named = {name: labels_in(each) for each in expressions() for name in metrics_in(each)}
    wanted = {name for name in named if not name.startswith("jetstream_")}
    urls = [of_the_worker, of_the_scheduler]

    async def all_are_served() -> bool:
        return wanted <= set(await asyncio.to_thread(served, urls))

    try:
        await wait_until(all_are_served, description="all metrics are served", timeout=30)
    finally:
        missing = wanted - set(served(urls))
    assert not missing
    labels = set().union(*served(urls).values()) | LABELS_OF_PROMETHEUS | LABELS_OF_THE_EXPORTER
    assert set().union(*named.values()) <= labels
    (with_server.folder / "held").touch()
    assert (await worker.stop(), await scheduler.stop()) == (0, 0)
