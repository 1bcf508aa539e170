"""What a start costs: CPU time of the command line, beside that of `import rich_click`, and of a worker.

CPU time, user and system, of processes that are run in turns: other work on the machine disturbs it least.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures
from noop import registry

SUMMARY: Final = "the start of the command line and of a worker"
COMMAND: Final = [sys.executable, "-m", "diracx.tasks.cli"]
FLOOR: Final = [sys.executable, "-c", "import rich_click"]
STARTS: Final = {
    "--help": [*COMMAND, "--help"],
    "the module": [sys.executable, "-c", "import diracx.tasks.cli.app"],
    "worker --help": [*COMMAND, "worker", "--help"],
    "status --help": [*COMMAND, "status", "--help"],
    "dlq list --help": [*COMMAND, "dlq", "list", "--help"],
    "--version": [*COMMAND, "--version"],
    "st TAB": COMMAND,
    "worker --g TAB": COMMAND,
}
COMPLETION: Final = " TAB"
MOST_OF_HELP: Final = 1.5
"""The CPU time of `--help`, to that of the floor."""
READY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class StartReport:
    """The results."""

    ratios: dict[str, Figures]
    """By the start: its CPU time to that of the floor, pair by pair."""
    ready: Figures
    """CPU seconds of a worker until it is ready."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ratios": {name: figures.document() for name, figures in self.ratios.items()},
            "ready_cpu_seconds": self.ready.document(),
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{name:16} {figures.text('.2f')} of `import rich_click`" for name, figures in self.ratios.items()]
        return "\n".join([*lines, f"worker is ready after {self.ready.text('.2f')} s CPU"])

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        if (ratio := self.ratios["--help"].median) <= MOST_OF_HELP:
            return []
        return [f"--help: {ratio:.2f} of `import rich_click`, {MOST_OF_HELP} is promised"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="starts of each (7)")


def run(options: argparse.Namespace) -> StartReport:
    """Measure all starts."""
    ratios: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(options.rounds):
        for name, command in STARTS.items():
            ratios[name].append(_cpu_of(command, **_completion(name)) / _cpu_of(FLOOR))
    ready = asyncio.run(_workers(options.rounds))
    return StartReport({name: Figures(each) for name, each in ratios.items()}, Figures(ready))


def _completion(name: str) -> dict[str, str]:
    """The variables by which bash asks for the completion of a word; none for another start."""
    words, tab, _ = name.partition(COMPLETION)
    count = str(len(words.split()))
    variables = {"_DIRACX_TASK_RUN_COMPLETE": "bash_complete", "COMP_WORDS": f"it {words}", "COMP_CWORD": count}
    return variables if tab else {}


def _cpu_of(command: list[str], **variables: str) -> float:
    """User and system time of a process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, **variables})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _workers(rounds: int) -> list[float]:
    """CPU seconds of each worker until it is ready."""
    async with EmbeddedServer() as server:
        async with JetStreamBroker.connect(server.url, registry=registry(), bind=False):
            pass  # the streams are there
        return [await _worker(server.url) for _ in range(rounds)]


async def _worker(url: str) -> float:
    arguments = ["worker", "--worker-size", "small", "--max-concurrent-tasks", "100", "--nats-url", url]
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(READY_SECONDS):
            while b"100 slots" not in (line := await process.stderr.readline()):
                if not line:
                    raise SystemExit("error: the worker did not start")
        return _cpu_seconds(process.pid)
    finally:
        process.kill()
        await process.wait()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a running process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
