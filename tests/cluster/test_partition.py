"""A server is cut off from the other two, with clients that are connected to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cluster import ClusterMesh
from support.partition import PartitionableCluster
from support.recording_tasks import Record, Wait

PATIENCE = 60.0
"""Longer than the 20 s for which a leader that is cut off believes in itself, and an election."""


@pytest.fixture(autouse=True)
def _forget() -> None:
    recording_tasks.reset()


@pytest.fixture
async def parted_cluster() -> AsyncIterator[PartitionableCluster]:
    async with PartitionableCluster.open() as cluster:
        yield cluster


def meta_leader(cluster: PartitionableCluster) -> ClusteredServer:
    leader = cluster.meta_leader()
    assert leader is not None
    return leader


async def go_to(mesh: ClusterMesh, server: ClusteredServer) -> None:
    """Let the connection of the mesh go from server to server until it is at this one."""
    while mesh.connection.server != server.url:
        generation = mesh.connection.generation
        await mesh.connection.client.leave_server()
        await wait_until(
            lambda before=generation: mesh.connection.generation > before,  # type: ignore[misc]
            description="the connection is at another server",
        )


async def submit_until_stored(*tasks: Record | Wait) -> int:
    """Submit each task until it is stored, as a producer does; return how often that failed."""
    failures = 0
    for task in tasks:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await task.schedule()
                    break
                except SendTaskError:
                    failures += 1
    return failures


async def ends_once_elsewhere(cluster: PartitionableCluster, mesh: ClusterMesh, server: ClusteredServer) -> None:
    """Cut the server off that a worker and a producer are connected to, with a task in flight."""
    mesh.register(Record, Wait)
    await go_to(mesh, server)
    async with mesh.working() as worker:
        await submit_until_stored(Wait(n=1))
        await wait_until(lambda: recording_tasks.running == [1], description="the task is in flight", timeout=PATIENCE)
        cluster.cut_off(server)
        await wait_until(
            lambda: mesh.connection.is_connected and mesh.connection.server != server.url,
            description="the clients are at another server",
            timeout=PATIENCE,
        )
        await submit_until_stored(*(Record(n=number) for number in range(2, 12)))
        await wait_until(
            lambda: sorted(recording_tasks.ran) == list(range(2, 12)),
            description="what is submitted after the cut has run",
            timeout=PATIENCE,
        )
        recording_tasks.go.set()
        await wait_until(lambda: 1 in recording_tasks.ran, description="the task in flight has ended", timeout=PATIENCE)
        cluster.mend()
        await asyncio.to_thread(cluster.wait_ready)

        async def nothing_waits() -> bool:
            return await mesh.waiting() == 0

        await wait_until(nothing_waits, description="all tasks are settled", timeout=PATIENCE)
    assert sorted(recording_tasks.ran) == list(range(1, 12))
    assert worker.processed == 11


async def test_clients_leave_a_server_that_is_cut_off_and_keep_their_task_in_flight(
    parted_cluster: PartitionableCluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = next(server for server in parted_cluster.servers if server is not meta_leader(parted_cluster))
    with caplog.at_level(logging.WARNING, "diracx.tasks.jetstream"):
        async with ClusterMesh.on(parted_cluster, namespace) as mesh:
            await ends_once_elsewhere(parted_cluster, mesh, follower)
    assert "this server is cut off from its cluster" in caplog.text


@pytest.mark.long
async def test_clients_leave_the_leader_of_everything_once_it_knows_that_it_is_cut_off(
    parted_cluster: PartitionableCluster, namespace: str
) -> None:
    leader = meta_leader(parted_cluster)
    async with ClusterMesh.on(parted_cluster, namespace) as mesh:
        for stream in (mesh.namespace.tasks_stream, mesh.namespace.later_stream):
            await mesh.hand_over(stream, leader)
        await ends_once_elsewhere(parted_cluster, mesh, leader)
