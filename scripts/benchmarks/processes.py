"""Modules of this folder as processes, and the worker that runs in such a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.worker import Worker, WorkerSettings


class BenchProcess:
    """A module of this folder that runs as a process. Made by `running`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.output = process.stdout

    async def read_to_the_end(self, seconds: float) -> bytes:
        """Its output once it has ended.

        Raises:
            TimeoutError: It did not end in time.
            SystemExit: It failed.
        """
        async with asyncio.timeout(seconds):
            output = await self.output.read()
            await self.process.wait()
        self.check()
        return output

    def check(self) -> None:
        """Fail the benchmark if the process has failed."""
        if self.process.returncode:
            raise SystemExit(f"error: a process of the benchmark ended with {self.process.returncode}")


@asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncIterator[BenchProcess]:
    """Run a module of this folder as a process; it is killed if it has not ended by the end of the block."""
    script = Path(__file__).with_name(f"{module}.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield BenchProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def worker_on(broker: JetStreamBroker, slots: int, *, burst: bool = False, **options: Any) -> Worker:
    """A worker of small tasks, not started, that knows the tasks of its broker.

    Args:
        options: Further arguments of `Worker`.
    """
    settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=slots, burst=burst)
    return Worker(broker.connection, broker.namespace, broker.registry, Injector(), settings, **options)
