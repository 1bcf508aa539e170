"""Tasks end while the consumer has no leader that would take their acks. Nobody executes them again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cluster import ClusterMesh
from support.recording_tasks import Wait

TASKS = 20
PATIENCE = 60.0


async def none_waits(mesh: ClusterMesh) -> bool:
    """Whether all tasks are settled."""
    with suppress(ServerError):  # the mesh may be connected to the server that ends
        return await mesh.waiting() == 0
    return False


async def test_acks_that_nobody_took_are_sent_again_to_the_next_leader(cluster_mesh: ClusterMesh) -> None:
    recording_tasks.reset()
    mesh = cluster_mesh
    mesh.register(Wait)
    leader = await mesh.leader(mesh.namespace.tasks_stream, "normal-small")
    beside = next(server for server in mesh.cluster.servers if server is not leader)
    for number in range(TASKS):
        await Wait(n=number).schedule()
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                JetStreamBroker.connect(
                    beside.url, namespace=mesh.namespace.name, registry=mesh.registry, role="worker", bind=False
                )
            )
            for _ in range(2)
        ]
        await stack.enter_async_context(ClusterMesh(first).working(TASKS))
        await wait_until(
            lambda: len(recording_tasks.running) == TASKS, description="all are in flight", timeout=PATIENCE
        )
        await stack.enter_async_context(ClusterMesh(second).working(TASKS))
        await asyncio.to_thread(leader.kill)
        recording_tasks.go.set()
        await wait_until(partial(none_waits, mesh), description="all are settled", timeout=PATIENCE)
    assert sorted(recording_tasks.ran) == list(range(TASKS))
