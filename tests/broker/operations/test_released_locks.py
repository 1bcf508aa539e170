"""What becomes of the holder of a lock that an operator releases under it."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.locks import HeldLock, LockHolder, LockReader, Noticed, holders_notice
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

go: asyncio.Event
begun: list[int] = []


@dataclasses.dataclass
class Holds(BaseTask):
    """Runs under a lock until the test sets `go`; the first execution ignores its cancellation, if it is told to."""

    ttl_ms: int
    deaf: bool = False

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "held", ttl_ms=self.ttl_ms)]

    async def execute(self) -> None:
        begun.append(self.ttl_ms)
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                if not self.deaf or len(begun) > 1:
                    raise


async def released(mesh: TaskMesh, task: Holds, seconds: float) -> list[Noticed]:
    """Release the lock of a task that runs, and wait for its holder to notice."""
    global go
    go = asyncio.Event()
    begun.clear()
    mesh.register(Holds)
    await task.schedule()
    async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
        await wait_until(lambda: bool(begun), description="it holds its lock")
        reader = LockReader(mesh.connection, mesh.namespace)
        lock = await reader.one("mutex.job.held")
        assert lock is not None
        assert await reader.release(lock)
        try:
            return await holders_notice(mesh.connection, mesh.namespace, lock, seconds)
        finally:
            go.set()


@pytest.mark.parametrize(
    ("task", "seconds", "runs", "cancelled"),
    [
        (Holds(2_100), 20.0, False, False),  # it was tried again meanwhile, which is another execution
        (Holds(60_000), 0.5, True, False),
        (Holds(2_100, deaf=True), 3.0, True, True),
    ],
)
async def test_a_live_holder_is_waited_for_until_it_has_noticed(
    mesh: TaskMesh, task: Holds, seconds: float, runs: bool, cancelled: bool
) -> None:
    (noticed,) = await released(mesh, task, seconds)
    assert (noticed.runs, noticed.cancelled, noticed.known) == (runs, cancelled, True)


HOLDER = LockHolder("acme:Sync", "0192\x1b[31m", "host-7-small", datetime(2026, 12, 1, tzinfo=UTC))


async def test_of_a_holder_that_no_worker_has_nothing_is_known(mesh: TaskMesh) -> None:
    lock = HeldLock("mutex.job.7", "mutex", [HOLDER], None)
    assert await holders_notice(mesh.connection, mesh.namespace, lock) == [Noticed(HOLDER, runs=False, known=False)]


@pytest.mark.parametrize(
    "lock",
    [
        HeldLock("rate.job.7", "rate", [HOLDER], 1.0),
        HeldLock("leader.scheduler", "leader", [HOLDER], 1.0),
        HeldLock("rw.job.7", "rw", [], 1.0),
    ],
)
async def test_what_nobody_holds_concerns_nobody(mesh: TaskMesh, lock: HeldLock) -> None:
    assert await holders_notice(mesh.connection, mesh.namespace, lock) == []
