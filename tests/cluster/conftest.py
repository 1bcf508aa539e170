"""A cluster for one test, and a mesh with three replicas on the shared one, which is the fixture `cluster`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from support.cluster import ClusterMesh


@pytest.fixture
def own_cluster() -> Iterator[EmbeddedCluster]:
    """A cluster for one test, which may break it."""
    with EmbeddedCluster() as own:
        yield own


@pytest.fixture
async def cluster_mesh(cluster: EmbeddedCluster, namespace: str) -> AsyncIterator[ClusterMesh]:
    """A mesh on the shared cluster, removed at the end of the test, when all servers run again."""
    async with ClusterMesh.on(cluster, namespace) as mesh:
        yield mesh
        for server in cluster.servers:
            if not server.is_running:
                server.start()
        cluster.wait_ready()
        await mesh.remove()
