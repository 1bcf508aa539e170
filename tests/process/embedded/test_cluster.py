"""Three embedded servers form a cluster, lose their leader, and elect another."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster, free_ports
from diracx.tasks.plumbing.embedded.server import EmbeddedServerError
from support.cluster import ClusterMesh
from support.sample_tasks import Greet


async def test_a_cluster_runs_tasks_while_a_server_is_away_and_is_ready_when_it_is_back(namespace: str) -> None:
    with EmbeddedCluster() as cluster:
        async with ClusterMesh.on(cluster, namespace) as mesh:
            mesh.register(Greet)
            leader = await mesh.leader(mesh.namespace.tasks_stream)
            leader.kill()
            assert not leader.is_ready
            with pytest.raises(EmbeddedServerError, match=f"not ready after 0.1 s: .*{leader.name}"):
                cluster.wait_ready(0.1)
            assert await mesh.leader(mesh.namespace.tasks_stream) is not leader
            await Greet(name="alice").schedule()
            assert (await mesh.burst()).processed == 1
            leader.start()
            cluster.wait_ready()
            assert cluster.meta_leader() in cluster.servers


def test_a_server_of_another_name_is_unknown() -> None:
    with pytest.raises(KeyError):
        EmbeddedCluster().server("server-4")


def test_no_server_leads_a_cluster_that_does_not_run() -> None:
    assert EmbeddedCluster().meta_leader() is None


def test_its_ports_are_apart_and_below_those_of_outgoing_connections() -> None:
    """An outgoing connection of another process may otherwise take the port of a server that is away."""
    found = free_ports(30)
    assert len(set(found)) == 30
    assert max(found) < 32_000
