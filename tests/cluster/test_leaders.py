"""The work goes on when the leader of a stream ends."""

from __future__ import annotations

from support.cluster import ClusterMesh
from support.sample_tasks import Greet


async def test_a_task_is_submitted_and_run_while_the_leader_of_the_task_stream_is_away(
    cluster_mesh: ClusterMesh,
) -> None:
    cluster_mesh.register(Greet)
    leader = await cluster_mesh.leader(cluster_mesh.namespace.tasks_stream)
    leader.stop()
    assert await cluster_mesh.leader(cluster_mesh.namespace.tasks_stream) is not leader
    await Greet(name="alice").schedule()
    assert (await cluster_mesh.burst()).processed == 1


async def test_a_burst_runs_what_was_acknowledged_a_moment_before(cluster_mesh: ClusterMesh) -> None:
    cluster_mesh.register(Greet)
    for _ in range(10):
        await Greet(name="alice").schedule()
        assert (await cluster_mesh.burst()).processed == 1
