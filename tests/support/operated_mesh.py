"""A mesh at work on a server with the configuration of `nats/`: tasks in every state, a worker and a scheduler."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.scheduler_service import advertised as scheduler_advertised
from diracx.tasks.plumbing.operations.worker_service import advertised as worker_advertised
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.schedules import CronSchedule
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh, running
from support.scheduling import SchedulingMesh
from support.secured import connected, settings_for

NAMESPACE = "diracx"
NAMES = Namespace(NAMESPACE)


@dataclasses.dataclass
class SyncOwnersTask(BaseTask):
    """Runs under a lock until it is cancelled."""

    owner_name: str

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.owner_name)]

    async def execute(self) -> None:
        await asyncio.Event().wait()


@dataclasses.dataclass
class FetchTask(BaseTask):
    """Fails, and waits for its retry."""

    url: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=5)

    async def execute(self) -> None:
        raise ConnectionError(f"no route to {self.url}")


@dataclasses.dataclass
class ImportTask(BaseTask):
    """Fails, and becomes a dead letter."""

    path: str

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError(f"{self.path} is no archive")


@dataclasses.dataclass
class ReportTask(BaseTask):
    """Waits in its queue: no worker of its size runs."""

    month: str

    size = Size.LARGE

    async def execute(self) -> None:
        """Do nothing."""


class OwnerCleanupTask(PeriodicBaseTask):
    """Is due once an hour, and not while a test runs: half an hour from now, whenever that is."""

    size = Size.SMALL
    default_schedule = CronSchedule(f"{(datetime.now(UTC).minute + 30) % 60} * * * *")

    async def execute(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def operated_mesh(server: EmbeddedServer) -> AsyncIterator[TaskMesh]:
    """Tasks in every state, a worker of small tasks and a scheduler, each process as its own user of the server.

    Yields the mesh as the operator sees it.
    """
    registry = TaskRegistry()
    for task_class in (SyncOwnersTask, FetchTask, ImportTask, ReportTask, OwnerCleanupTask):
        registry.add(f"lollygag:{task_class.__name__}", task_class)
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(connected(server, NAMESPACE, "operator"))
        await ensure(operator, assets(NAMES), tolerant=False)
        mesh = TaskMesh(JetStreamBroker(operator, NAMES, registry))
        stack.push_async_callback(mesh.remove)
        await stack.enter_async_context(_scheduler(server, registry))
        await _submit(server, registry)
        await stack.enter_async_context(_worker(server, registry))
        await _at_work(mesh)
        yield mesh


def _broker(
    server: EmbeddedServer, registry: TaskRegistry, role: str, name: str
) -> AbstractAsyncContextManager[JetStreamBroker]:
    settings = settings_for(server, NAMESPACE, role)
    return JetStreamBroker.connect(
        settings=settings, namespace=NAMESPACE, registry=registry, name=name, role=role, bind=False
    )


async def _submit(server: EmbeddedServer, registry: TaskRegistry) -> None:
    async with _broker(server, registry, "producer", "diracx-producer/submit/node1/410") as broker:
        for task in (SyncOwnersTask("alice"), FetchTask("example.org"), ImportTask("mice.zip"), ReportTask("2026-05")):
            await broker.submit(task, keep_result=isinstance(task, ImportTask))
        await broker.submit(ReportTask("2026-06"), at_time=datetime.now(UTC) + timedelta(days=30))


@asynccontextmanager
async def _scheduler(server: EmbeddedServer, registry: TaskRegistry) -> AsyncIterator[None]:
    async with (
        _broker(server, registry, "scheduler", "diracx-scheduler/node1/411") as broker,
        SchedulingMesh(broker).scheduling(name="node1-411-scheduler-ab3d") as scheduler,
        scheduler_advertised(scheduler, broker.connection, NAMES),
    ):
        yield


@asynccontextmanager
async def _worker(server: EmbeddedServer, registry: TaskRegistry) -> AsyncIterator[None]:
    async with _broker(server, registry, "worker", "diracx-worker/small/node1/412") as broker:
        tally = Counters()
        settings = WorkerSettings(size=Size.SMALL, max_concurrent_tasks=100, grace=timedelta(0))
        worker = Worker(broker.connection, NAMES, registry, Injector(), settings, counters=tally)
        async with worker_advertised(worker, tally, broker.connection, NAMES), running(worker):
            yield


async def _at_work(mesh: TaskMesh) -> None:
    async def all_is_there() -> bool:
        keys = await mesh.locks.keys()
        records = await mesh.attempts.keys()
        letters = (await mesh.state(NAMES.dead_letters_stream))["messages"]
        later = {message.subject.split(".")[1] for message in await mesh.stored(NAMES.later_stream)}
        # letters: the dead letter and the advisory. later: a schedule state, its next occurrence, and a delayed task.
        return (len(keys), len(records), letters) == (2, 1, 2) and later >= {"state", "periodic", "delayed"}

    await wait_until(all_is_there, description="there is a task in every state", timeout=20)
