"""The memory of a worker process: idle, busy, and while many tasks wait.

It is the resident set of `diracx-task-run worker` with 100 slots, without a database, whose task has no dependency.
What is installed beside this project counts, since its entry points are read: `scripts/bench memory` has an environment
of its own, without optional packages. The figure of a busy worker is the largest that it had until it had executed its
tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from figures import Figures
from noop import Noop, registry
from worker_process import worker_process

SUMMARY: Final = "the memory of a worker process with 100 slots: idle, busy, and while many tasks wait"
MOST_MEGABYTES: Final = 38.0
MOST_GROWTH: Final = 1.05
"""The memory while many tasks wait, to that with a short queue."""
SLOTS: Final = 100
CHUNK: Final = 20_000
"""Tasks that are submitted at once."""
ROOM_BYTES: Final = 4 * 1024**3
TIMEOUT_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True)
class MemoryReport:
    """Megabytes of the workers."""

    idle: Figures
    busy: Figures
    """With no more tasks than it executed."""
    crowded: Figures
    """After as many executions, while `waiting` tasks wait."""
    executed: int
    waiting: int

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "executed": self.executed,
            "waiting": self.waiting,
            **{name: figures.document() for name, figures in self._figures()},
        }

    def text(self) -> str:
        """For people."""
        notes = {
            "idle": f"{SLOTS} slots",
            "busy": f"{self.executed:,} tasks executed",
            "crowded": f"as many executed, {self.waiting:,} wait",
        }
        lines = [f"{name:8} {figures.text('.1f')} MB, {notes[name]}" for name, figures in self._figures()]
        return "\n".join(lines)

    def missed(self) -> list[str]:
        """A line for each promised bound that was missed."""
        problems = [
            (figures.median > MOST_MEGABYTES, f"{name}: {figures.median:.1f} MB, {MOST_MEGABYTES:g} is promised")
            for name, figures in self._figures()
        ]
        growth = self.crowded.median / self.busy.median
        problems.append(
            (growth > MOST_GROWTH, f"{growth:.2f} of the memory with a short queue, {MOST_GROWTH} is promised")
        )
        return [text for is_so, text in problems if is_so]

    def _figures(self) -> tuple[tuple[str, Figures], ...]:
        return ("idle", self.idle), ("busy", self.busy), ("crowded", self.crowded)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--waiting", type=int, default=100_000, metavar="N", help="tasks that wait (100000)")
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="tasks that are executed (20000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="workers of each kind (3)")


def run(options: argparse.Namespace) -> MemoryReport:
    """Measure all kinds of workers."""
    return asyncio.run(_measure(options.waiting, options.tasks, options.rounds))


async def _measure(waiting: int, tasks: int, rounds: int) -> MemoryReport:
    idle, busy, crowded = [], [], []
    async with (
        EmbeddedServer() as server,
        JetStreamBroker.connect(server.url, registry=registry(), bind=False) as broker,
    ):
        await make_room(broker)
        for _ in range(rounds):
            async with worker_process(server.url, SLOTS) as pid:
                idle.append(_resident(pid))
            busy.append(await _after(broker, server.url, tasks, 0))
        left = 0
        for turn in range(rounds):
            await fill(broker, waiting + tasks - left)
            crowded.append(await _after(broker, server.url, 0, waiting))
            left = await _waiting(broker)
            print(f"round {turn + 1} of {rounds}, {left:,} wait", file=sys.stderr)
    return MemoryReport(Figures(idle), Figures(busy), Figures(crowded), tasks, waiting)


async def make_room(broker: JetStreamBroker) -> None:
    """Let the queue hold a million tasks and more."""
    name = broker.namespace.tasks_stream
    config = (await broker.connection.api(f"STREAM.INFO.{name}"))["config"]
    await broker.connection.api(f"STREAM.UPDATE.{name}", config | {"max_bytes": ROOM_BYTES})


async def fill(broker: JetStreamBroker, tasks: int) -> None:
    """Submit as many tasks, some at a time: all at once would need memory for each."""
    for first in range(0, tasks, CHUNK):
        await broker.submit_many([Noop("alice")] * min(CHUNK, tasks - first))


async def _after(broker: JetStreamBroker, url: str, tasks: int, left: int) -> float:
    """The largest memory that a worker had until no more than `left` tasks wait."""
    await fill(broker, tasks)
    async with worker_process(url, SLOTS) as pid, asyncio.timeout(TIMEOUT_SECONDS):
        while await _waiting(broker) > left:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(POLL_SECONDS)
        return _resident(pid, "VmHWM")


async def _waiting(broker: JetStreamBroker) -> int:
    info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
    return int(info["state"]["messages"])


def _resident(pid: int, field: str = "VmRSS") -> float:
    """Megabytes."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6
