"""Meshes and worker processes for the tasks of `lock_tasks`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from support import lock_tasks
from support.command_line import CommandLine, isolated_environment
from support.distributions import install_metadata, task_points
from support.paths import TESTS
from support.processes import LoggedProcess
from support.processes import worker_process as process_of_a_worker
from support.queues import remove_mesh


@asynccontextmanager
async def lock_mesh(url: str, namespace: str) -> AsyncIterator[JetStreamBroker]:
    """A mesh whose streams are deleted at the end."""
    async with JetStreamBroker.connect(url, namespace=namespace, registry=lock_tasks.registry()) as broker:
        yield broker
        await remove_mesh(broker.connection, broker.namespace)


@asynccontextmanager
async def worker_process(
    url: str, namespace: str, journal: Path, *, slots: int, lock_retry_delay: float, log_level: str = "info"
) -> AsyncIterator[LoggedProcess]:
    """A worker process that is ready. At the end of the block it is stopped and must exit with 0, unless it was killed.

    Args:
        journal: The file that the tasks write to, in a folder of the test.
        lock_retry_delay: The delay after which a task whose lock is held is delivered again, in seconds.
    """
    site = journal.parent / "site"
    if not site.exists():
        points = task_points(lock_tasks.CATEGORY, "support.lock_tasks", [kind.__name__ for kind in lock_tasks.KINDS])
        install_metadata(site, "lock-tasks", points)
    environment = isolated_environment(journal.parent, url, namespace) | {
        "PYTHONPATH": os.pathsep.join((str(site), str(TESTS))),
        lock_tasks.JOURNAL_VARIABLE: str(journal),
    }
    options = ["--max-concurrent-tasks", str(slots), "--lock-retry-delay", str(lock_retry_delay)]
    options += ["--log-level", log_level]
    with process_of_a_worker(CommandLine(environment, journal.parent), Size.SMALL, *options) as worker:
        await worker.logs("tasks known")
        yield worker
        if worker.process.poll() is None:
            assert await worker.stop() == 0, worker.log
