"""A mesh with something on each page of the dashboard, in which every text that others choose is hostile."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.scheduler_service import advertised as scheduler_advertised
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace, escape
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support.dashboard_client import HOSTILE, LONG
from support.dead_letters import DeadLetterBox
from support.scheduling import Hourly, Report, SchedulingMesh

TEXT = f"</textarea>{HOSTILE}"
CONFIGURATION = "vos: [lhcb]\nlimits: {Job: {default: {concurrency_limit: 5}}}\n"


@dataclasses.dataclass
class Holds(BaseTask):
    """Runs under a lock until it is cancelled."""

    text: str
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "alice", ttl_ms=3_000)]

    async def execute(self) -> None:
        await asyncio.Event().wait()


@dataclasses.dataclass
class Fails(BaseTask):
    """Fails with its text, and waits for its retry."""

    text: str
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=5)

    async def execute(self) -> None:
        raise ConnectionError(self.text)


@dataclasses.dataclass(frozen=True)
class BusyMesh:
    """The mesh, and the ids of tasks in it."""

    mesh: SchedulingMesh
    runs: str
    """It holds the lock `mutex.job.alice`."""
    waits: str
    """It waits for that lock."""
    fails: str
    """It waits for its retry."""


def simulated_worker(names: Namespace, number: int, *, remark: str = "") -> Service:
    """A worker that answers questions and does nothing.

    Args:
        remark: Stands in its id and among its remarks.
    """
    id_ = f"{remark}node{number}-412-small"
    data = {"slots": 20, "busy": number % 21, "in_hand": {}, "per_second": 1.5, "last_pull_seconds": 0.1}
    return Service(
        name=worker_service(names),
        id=id_,
        version="1",
        description="",
        metadata={"id": id_, "size": "small", "host": f"{remark}node{number}", "pid": "412"},
        endpoint="execute",
        subject=f"{names.name}.tasks.*.small",
        queue_group="small",
        stats=lambda: ServiceStats(data={**data, "isolated": remark or None, "memory_bytes": 80_000_000}),
    )


@asynccontextmanager
async def simulated_workers(mesh: SchedulingMesh, count: int) -> AsyncIterator[None]:
    """So many workers that do nothing."""
    async with AsyncExitStack() as stack:
        for number in range(count):
            await stack.enter_async_context(serving(mesh.connection, simulated_worker(mesh.namespace, number)))
        yield


@asynccontextmanager
async def busy_mesh(mesh: SchedulingMesh, *, text: str = TEXT) -> AsyncIterator[BusyMesh]:
    """Fill a mesh, and let a worker and a scheduler work on it during the block.

    Args:
        text: What others choose.
    """
    mesh.register(Holds, Fails, Hourly, Report)
    await _fill(mesh, text)
    labels = {"who": text, "long": LONG[:1_000]}
    async with AsyncExitStack() as stack:
        counters = Counters()
        worker = await stack.enter_async_context(mesh.working(20, counters=counters, grace=timedelta(0)))
        await stack.enter_async_context(advertised(worker, counters, mesh.connection, mesh.namespace))
        odd = simulated_worker(mesh.namespace, 7, remark=text)
        await stack.enter_async_context(serving(mesh.connection, odd))
        scheduler = await stack.enter_async_context(mesh.scheduling("lhcb"))
        await stack.enter_async_context(scheduler_advertised(scheduler, mesh.connection, mesh.namespace))
        runs = await mesh.broker.submit(Holds(text), labels=labels)
        await wait_until(mesh.locks.keys, description="the first task holds its lock")
        waits = await mesh.broker.submit(Holds(LONG), labels=labels)
        fails = await mesh.broker.submit(Fails(text + LONG), labels=labels)
        await mesh.broker.submit(Fails(text), at_time=datetime.now(UTC) + timedelta(days=1))

        async def all_is_there() -> bool:
            return await mesh.in_flight() == 3 and len(await mesh.attempts.keys()) == 1 and scheduler.leads

        await wait_until(all_is_there, description="one task runs, one waits for a lock and one for a retry")
        yield BusyMesh(mesh, runs, waits, fails)


async def _fill(mesh: SchedulingMesh, text: str) -> None:
    """What needs no process: the configuration, dead letters, and a lock that nobody renews."""
    await mesh.configuration.write("vos: [lhcb]\n")
    await mesh.configuration.write(CONFIGURATION)
    box = DeadLetterBox(mesh.connection, mesh.namespace)
    error = Failure(type=text, message=text + LONG, traceback=text, worker=text, at=datetime.now(UTC))
    headers = {"Task-Name": text.replace("\x1b", ""), "Task-Id": "odd"}
    await box.add(msgspec.json.encode({"text": text}), headers, failures=(error,))
    await box.add()
    await Bucket(mesh.connection, mesh.namespace.locks_bucket).create(
        f"mutex.job.{escape(text)}",
        msgspec.json.encode({"owner": "o", "task": text, "id": text, "worker": text, "since": "2026-05-04T09:30:12Z"}),
    )
