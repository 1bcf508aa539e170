"""A mesh in the middle of its work, on the server of `nats/`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from scheduling import SchedulingMesh

from diracx.tasks.plumbing.accounts import user_name
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.embedded import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from mesh import Mesh
from secured import password

NAMESPACE = "diracx"


@dataclasses.dataclass
class SyncOwnersTask(BaseTask):
    """Runs until it is cancelled, under a lock."""

    owner_name: str

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.owner_name)]

    async def execute(self) -> None:
        await asyncio.Event().wait()


@dataclasses.dataclass
class FetchTask(BaseTask):
    """Fails, and is parked until its retry."""

    url: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=5)

    async def execute(self) -> None:
        raise ConnectionError(f"no route to {self.url}")


@dataclasses.dataclass
class ImportTask(BaseTask):
    """Dies."""

    path: str

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError(f"{self.path} is no archive")


@dataclasses.dataclass
class ReportTask(BaseTask):
    """Waits: there is no worker of its size."""

    month: str

    size = Size.LARGE

    async def execute(self) -> None:
        """Nothing."""


class OwnerCleanupTask(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@asynccontextmanager
async def operated(server: EmbeddedServer) -> AsyncIterator[Mesh]:
    """One task of each kind, a worker of small tasks and a scheduler, all at work."""
    operator = f"{user_name(Namespace(NAMESPACE), 'operator')}:{password(NAMESPACE, 'operator')}"
    url = server.url.replace("nats://", f"nats://{operator}@")
    async with AsyncExitStack() as stack:
        connecting = JetStreamBroker.connect(
            url, namespace=NAMESPACE, registry=TaskRegistry(), name="diracx-worker/small/node1/412", role="operator"
        )
        mesh = Mesh(await stack.enter_async_context(connecting))
        stack.push_async_callback(mesh.remove)
        for task_class in (SyncOwnersTask, FetchTask, ImportTask, ReportTask, OwnerCleanupTask):
            mesh.registry.add(f"lollygag:{task_class.__name__}", task_class)
        scheduling = SchedulingMesh(mesh.broker)
        await stack.enter_async_context(scheduling.scheduling(name="node1-1-scheduler"))
        for task in (SyncOwnersTask("alice"), FetchTask("example.org"), ImportTask("mice.zip"), ReportTask("2026-05")):
            await mesh.broker.submit(task)
        await mesh.broker.submit(ReportTask("2026-06"), at_time=datetime.now(UTC) + timedelta(days=30))
        await stack.enter_async_context(mesh.working(grace=timedelta(0)))
        await _at_work(mesh)
        yield mesh


async def _at_work(mesh: Mesh) -> None:
    async def all_is_there() -> bool:
        keys = await mesh.locks.keys()
        records, letters = await mesh.attempts.keys(), await mesh.dead_letters()
        states = (await mesh.state(mesh.namespace.later_stream))["num_subjects"]
        return len(keys) == 2 and len(records) == 1 and len(letters) == 1 and states >= 2

    await wait_until(all_is_there, description="every kind of task is where it belongs", timeout=20)
