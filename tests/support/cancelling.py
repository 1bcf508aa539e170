"""Cancels tasks of a mesh in this process, as an operator does, and runs workers that operators can ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.cancellations.follower import CancellationFollower
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.cancellation import Answer, Canceller, Target
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.plumbing.worker.snapshot import Counters
from support.mesh import TaskMesh


async def cancel(mesh: TaskMesh, *ids: str, task: str | None = None, group: str | None = None) -> list[Answer]:
    """Cancel what is named, and return an answer for each."""
    targets = [Target(Kind.ID, each) for each in ids]
    targets += [Target(Kind.TASK, task)] if task is not None else []
    targets += [Target(Kind.GROUP, group)] if group is not None else []
    return await Canceller(mesh.connection, mesh.namespace, by="alice").cancel(targets)


async def cancel_one(mesh: TaskMesh, identity: str) -> Answer:
    """Cancel one task by its id."""
    (answer,) = await cancel(mesh, identity)
    return answer


async def cancel_all(mesh: TaskMesh, task: str) -> Answer:
    """Cancel all tasks of a name."""
    (answer,) = await cancel(mesh, task=task)
    return answer


@asynccontextmanager
async def serving_worker(mesh: TaskMesh, *args: Any, **settings: Any) -> AsyncIterator[Worker]:
    """A worker that runs during the block and answers operators; arguments as for `TaskMesh.worker`."""
    async with (
        mesh.working(*args, **settings) as worker,
        advertised(worker, Counters(), mesh.connection, mesh.namespace),
    ):
        yield worker


@asynccontextmanager
async def following(connection: Connection, names: Namespace) -> AsyncIterator[CancellationFollower]:
    """A follower that runs during the block."""
    follower = CancellationFollower(connection, names)
    running = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        running.cancel()
        await asyncio.wait([running])


def counts(answer: Answer) -> dict[str, int]:
    """What an answer counts, without what is 0."""
    found = {
        "withdrawn": answer.withdrawn,
        "waiting": answer.waiting,
        "cancelled": answer.cancelled,
        "finished": answer.finished,
        "running": len(answer.running),
        "dead": len(answer.dead_letters),
    }
    return {name: count for name, count in found.items() if count}
