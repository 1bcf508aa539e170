"""One worker of `scale` as a process, which prints its figures as JSON when it ends.

`scale_worker.py drain URL NAMESPACE TASKS START` begins at START, in seconds of the clock that all processes share. It
ends once it has settled TASKS, or when the queue is empty. `scale_worker.py due URL NAMESPACE TASKS` prints `ready`,
and ends a second after TASKS tasks have begun.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import resource
import sys
import time
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from noop import Noop
from processes import worker_on

SLOTS = 100
LONGER_SECONDS = 1.0
"""How long `due` waits for tasks that come twice."""

begun: list[tuple[int, float]] = []
"""The number of each `Due` that has begun, and how many seconds late."""


@dataclasses.dataclass
class Due(BaseTask):
    """Runs at a time."""

    number: int
    due: float
    """Seconds since 1970."""

    size = Size.SMALL

    async def execute(self) -> None:
        """Note how late it is."""
        begun.append((self.number, time.time() - self.due))


def registry() -> TaskRegistry:
    """A registry of these tasks."""
    tasks = TaskRegistry()
    tasks.add("bench:Noop", Noop)
    tasks.add("bench:Due", Due)
    return tasks


async def drain(url: str, namespace: str, tasks: int, start: float) -> dict[str, Any]:
    """Settle tasks; the times of the first and of the last are those of the shared clock."""
    settled: list[float] = []

    def record(*_: object) -> None:
        settled.append(time.monotonic())
        if len(settled) == tasks:
            contender.stop()

    async with JetStreamBroker.connect(url, namespace=namespace, registry=registry(), role="worker") as broker:
        contender = worker_on(broker, SLOTS, burst=True, on_outcome=record)
        gc.freeze()  # as the command does
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        cpu = time.process_time()
        await contender.run()
        cpu = time.process_time() - cpu
    return {
        "settled": len(settled),
        "first": settled[0],
        "last": settled[-1],
        "cpu_microseconds": cpu / len(settled) * 1e6,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


async def due(url: str, namespace: str, tasks: int) -> list[tuple[int, float]]:
    """Execute delayed tasks until all have begun, and a second longer."""
    async with JetStreamBroker.connect(url, namespace=namespace, registry=registry(), role="worker") as broker:
        contender = worker_on(broker, SLOTS)
        running = asyncio.create_task(contender.run())
        print("ready", flush=True)
        while len(begun) < tasks and not running.done():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
        await asyncio.sleep(LONGER_SECONDS)
        contender.stop()
        await running
    return begun


def main() -> None:
    """Run in one of the two modes."""
    mode, url, namespace, tasks, *start = sys.argv[1:]
    if mode == "drain":
        print(json.dumps(asyncio.run(drain(url, namespace, int(tasks), float(start[0])))))
    else:
        print(json.dumps(asyncio.run(due(url, namespace, int(tasks)))))


if __name__ == "__main__":
    main()
