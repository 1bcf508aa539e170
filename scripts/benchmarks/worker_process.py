"""A worker process as operators start it, whose only task is `noop.Noop`."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

START_SECONDS: Final = 300.0
_ENTRY_POINTS: Final = "[diracx.tasks.bench]\nNoop = noop:Noop\n"


@asynccontextmanager
async def worker_process(url: str, slots: int) -> AsyncIterator[int]:
    """The id of a worker process that is ready and knows the task. It is killed at the end of the block."""
    arguments = ["worker", "--worker-size", "small", "--max-concurrent-tasks", str(slots), "--nats-url", url]
    with tempfile.TemporaryDirectory() as folder:
        _install_task(Path(folder))
        paths = os.pathsep.join([folder, str(Path(__file__).parent)])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "diracx.tasks.cli", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                while f"{slots} slots, 1 tasks known".encode() not in (line := await process.stderr.readline()):
                    if not line:
                        raise SystemExit("error: the worker did not start")
            yield process.pid
        finally:
            process.kill()
            await process.wait()


def _install_task(folder: Path) -> None:
    """Make `Noop` a task that a worker with this folder on its path finds."""
    about = folder / "bench-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bench\nVersion: 0\n")
    (about / "entry_points.txt").write_text(_ENTRY_POINTS)
