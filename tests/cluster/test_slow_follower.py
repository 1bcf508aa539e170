"""A follower that stops answering for a while, under load, and catches up."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cluster import ClusterMesh
from support.recording_tasks import Record

PATIENCE = 90.0
STOPPED_SECONDS = 20.0


async def lagging(mesh: ClusterMesh) -> list[str]:
    """The replicas of the task stream that are not current, by the word of its leader."""
    info = await mesh.connection.api(f"STREAM.INFO.{mesh.namespace.tasks_stream}")
    return [replica["name"] for replica in info["cluster"]["replicas"] if not replica["current"]]


@pytest.mark.long
async def test_tasks_go_on_while_a_follower_is_stopped_and_it_catches_up(
    cluster: EmbeddedCluster, cluster_mesh: ClusterMesh
) -> None:
    recording_tasks.reset()
    mesh = cluster_mesh
    mesh.register(Record)
    leader = await mesh.leader(mesh.namespace.tasks_stream)
    slow = next(
        server
        for server in cluster.servers
        if server.url != mesh.connection.server and server not in (leader, cluster.meta_leader())
    )
    async with mesh.working():
        await Record(n=0).schedule()
        await wait_until(lambda: recording_tasks.ran == [0], description="the worker works", timeout=PATIENCE)
        os.kill(slow.pid, signal.SIGSTOP)
        try:
            end, submitted = time.monotonic() + STOPPED_SECONDS, 1
            while time.monotonic() < end:
                # None of these waits for the stopped server: the other two are a majority.
                await Record(n=submitted).schedule()
                submitted += 1
            assert await lagging(mesh) == [slow.name]
        finally:
            os.kill(slow.pid, signal.SIGCONT)
        await asyncio.to_thread(cluster.wait_ready)

        async def caught_up() -> bool:
            return not await lagging(mesh)

        await wait_until(caught_up, description="the follower has caught up", timeout=PATIENCE)

        async def nothing_waits() -> bool:
            return await mesh.waiting() == 0

        # A delivery that a leader change cut off comes again once its lease is over.
        await wait_until(nothing_waits, description="all tasks are settled", timeout=PATIENCE)
    assert Counter(recording_tasks.ran) == Counter(range(submitted))
