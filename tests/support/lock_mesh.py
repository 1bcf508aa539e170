"""Meshes and worker processes for the tasks of `lock_tasks`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diracx.tasks.plumbing.jetstream import JetStreamBroker
from support import lock_tasks
from support.paths import TESTS


@asynccontextmanager
async def lock_mesh(url: str, namespace: str) -> AsyncIterator[JetStreamBroker]:
    """A mesh whose streams are deleted at the end."""
    async with JetStreamBroker.connect(url, namespace=namespace, registry=lock_tasks.registry()) as broker:
        yield broker
        for stream in (await broker.connection.api("STREAM.NAMES"))["streams"]:
            if stream.removeprefix("KV_").lower().startswith(f"{namespace}_"):
                await broker.connection.api(f"STREAM.DELETE.{stream}")


@asynccontextmanager
async def worker_process(
    url: str, namespace: str, journal: Path, *, slots: int, busy_delay: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process that is ready. At the end of the block it is stopped and must exit with 0, unless it was killed.

    Args:
        busy_delay: The delay after which a task whose lock is held is delivered again, in seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.lock_worker", url, namespace, str(slots), str(busy_delay)),
        env=os.environ | {"PYTHONPATH": str(TESTS), lock_tasks.JOURNAL_VARIABLE: str(journal)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
        if process.returncode is None:
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
