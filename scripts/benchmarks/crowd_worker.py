"""The worker of `crowd` as a process: `crowd_worker.py URL`.

It prints `ready` when it has connected, then a line for each task outside the crowd.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import time

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock, RateLimiter
from diracx.tasks.plumbing.registry import TaskRegistry
from processes import worker_on

PER_SECOND = 10
LOCKS: dict[str, BaseLock] = {
    "mutex": MutexLock(JOB, "crowd"),
    "rate": RateLimiter(JOB, "crowd", limit=PER_SECOND, window_seconds=1),
}


@dataclasses.dataclass
class Crowded(BaseTask):
    """One of many tasks that need one lock."""

    lock: str

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        """The lock that all of them need."""
        return [LOCKS[self.lock]]

    async def execute(self) -> None:
        """Do nothing."""


class Free(BaseTask):
    """Needs no lock."""

    size = Size.SMALL

    async def execute(self) -> None:
        """Print when it began, in nanoseconds of the clock that all processes share."""
        print(time.monotonic_ns(), flush=True)


def registry() -> TaskRegistry:
    """A registry of these tasks."""
    tasks = TaskRegistry()
    for kind in (Crowded, Free):
        tasks.add(f"bench:{kind.__name__}", kind)
    return tasks


async def main(url: str) -> None:
    """Work until SIGTERM, with the slots and the delays of a worker for small tasks."""
    async with JetStreamBroker.connect(url, registry=registry(), role="worker") as broker:
        worker = worker_on(broker, slots=100)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
