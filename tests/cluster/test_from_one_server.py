"""A fact of nats-server behind the section "From one server to three" of `cluster.md`."""

from __future__ import annotations

from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.mesh import TaskMesh
from support.sample_tasks import Greet


def folders(store: Path, stream: str) -> list[Path]:
    """The folders that hold the stream in the store of one server."""
    return list(store.glob(f"**/streams/{stream}"))


@pytest.mark.long
async def test_a_cluster_removes_the_streams_of_a_server_that_stood_alone(namespace: str, tmp_path: Path) -> None:
    stream = Namespace(namespace).tasks_stream
    with EmbeddedServer(store_dir=(store := tmp_path / "server-1")) as alone:
        async with TaskMesh.open(alone.url, namespace) as mesh:
            mesh.register(Greet)
            await Greet(name="alice").schedule()
    assert folders(store, stream)
    with EmbeddedCluster(store_dir=tmp_path) as cluster:
        # The server looks 30 s after its start.
        await wait_until(lambda: not folders(store, stream), description="the stream is removed", timeout=120)
        async with ClusterMesh.on(cluster, namespace) as mesh:
            assert await mesh.waiting() == 0
