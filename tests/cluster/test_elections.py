"""A leader is killed, and requests wait until there is another one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.testing import wait_until
from support.cluster import LEADER_SECONDS, ClusterMesh
from support.sample_tasks import Greet

SUBMITTERS = 8
PAUSE_SECONDS = 0.02


class Submitting:
    """Submits one task after another, at several places at a time."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.errors: list[BaseException] = []
        self._stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(SUBMITTERS):
                group.create_task(self._submit())

    async def _submit(self) -> None:
        while not self._stopping:
            later = datetime.now(UTC) + timedelta(hours=1) if len(self.ids) % 2 else None
            try:
                self.ids.append(await Greet(name="alice").schedule(at_time=later))
            except Exception as error:
                self.errors.append(error)
            await asyncio.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def submitting() -> AsyncIterator[Submitting]:
    submitter = Submitting()
    running = asyncio.create_task(submitter.run())
    try:
        yield submitter
    finally:
        submitter.stop()
        await running


async def stored_ids(mesh: ClusterMesh) -> Counter[str]:
    found: Counter[str] = Counter()
    for stream in (mesh.namespace.tasks_stream, mesh.namespace.later_stream):
        async for message in read_batches(mesh.connection, stream):
            if "Task-Id" in message.headers:
                found[message.headers["Task-Id"]] += 1
    return found


async def leading(cluster: EmbeddedCluster) -> ClusteredServer:
    """The leader of the cluster; waits while there is none."""
    await wait_until(
        lambda: cluster.meta_leader() is not None, description="the cluster has a leader", timeout=LEADER_SECONDS
    )
    leader = cluster.meta_leader()
    assert leader is not None
    return leader


@pytest.mark.parametrize("which", ["tasks", "later", "cluster"])
async def test_no_submission_fails_when_a_leader_is_killed_and_each_is_stored_once(
    cluster_mesh: ClusterMesh, which: str
) -> None:
    mesh, names = cluster_mesh, cluster_mesh.namespace
    mesh.register(Greet)
    if which == "cluster":
        leader = await leading(mesh.cluster)
    else:
        leader = await mesh.leader(names.tasks_stream if which == "tasks" else names.later_stream)
    async with submitting() as submitter:
        await wait_until(lambda: len(submitter.ids) > 100, description="tasks are submitted")
        await asyncio.to_thread(leader.kill)
        for stream in (names.tasks_stream, names.later_stream):
            assert await mesh.leader(stream) is not leader
        after = len(submitter.ids)
        await wait_until(lambda: len(submitter.ids) > after + 100, description="tasks are submitted again")
    assert submitter.errors == []
    stored = await stored_ids(mesh)
    assert stored.keys() >= set(submitter.ids)
    assert set(stored.values()) == {1}
    mesh.allows_residue = True
