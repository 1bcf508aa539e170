"""The status of a mesh of which some streams have no leader."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.testing import wait_until
from support.cluster import LEADER_SECONDS, ClusterMesh
from support.connecting import connect
from support.queues import edit_stream
from support.recording_tasks import Record

pytestmark = pytest.mark.long


async def test_the_rest_is_shown_and_what_has_no_leader_is_critical(
    own_cluster: EmbeddedCluster, namespace: str
) -> None:
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        mesh.allows_residue, names = True, mesh.namespace
        mesh.register(Record)
        await Record(n=1).schedule()
        locks, results = f"KV_{names.locks_bucket}", f"KV_{names.results_bucket}"
        leaders = {stream: await with_one_replica(mesh, stream) for stream in (names.later_stream, locks, results)}
        away = leaders[names.later_stream]
        gone = {stream for stream, leader in leaders.items() if leader is away}
        away.kill()
        others = [each for each in assets(names) if each.stream not in gone]
        for each in others:
            await mesh.leader(each.stream, each.name if each.kind == "consumer" else None)
        there = next(server for server in own_cluster.servers if server is not away)
        async with connect(there) as connection:
            snapshot = await StatusReader(connection, names).read()
        away.start()
    assert {each.name for each in snapshot.status.streams} == {each.stream for each in others}
    assert sum(queue.waiting for queue in snapshot.status.queues) == 1
    assert (snapshot.status.delayed, snapshot.status.locks) == (0, 0)
    assert set(snapshot.leaderless) == {str(each) for each in assets(names) if each.stream in gone}
    alerts = {alert.name: alert for alert in snapshot.status.alerts}
    assert alerts["no-leader"].level == "critical"
    assert f"stream {names.later_stream}" in alerts["no-leader"].text
    assert (f"bucket {names.locks_bucket}" in alerts["no-leader"].text) is (locks in gone)
    assert names.results_bucket not in alerts["no-leader"].text
    assert (f"bucket {names.results_bucket}: has no leader" in alerts["replicas-behind"].text) is (results in gone)
    assert not {"stream-missing", "bucket-missing", "consumer-missing"} & set(alerts)


async def with_one_replica(mesh: ClusterMesh, stream: str) -> ClusteredServer:
    """Leave a stream one replica: without that server it has no leader. Returns the server."""
    await edit_stream(mesh.connection, stream, num_replicas=1)

    async def is_alone() -> bool:
        cluster = (await mesh.connection.api(f"STREAM.INFO.{stream}"))["cluster"]
        return bool(cluster.get("leader")) and not cluster.get("replicas")

    await wait_until(is_alone, description=f"{stream} has one replica", timeout=LEADER_SECONDS)
    return await mesh.leader(stream)
