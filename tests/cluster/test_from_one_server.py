"""A fact of nats-server behind the section "From one server to three" of `cluster.md`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.mesh import TaskMesh
from support.sample_tasks import Greet


@pytest.mark.long
async def test_a_cluster_removes_the_streams_of_a_server_that_stood_alone(namespace: str, tmp_path: Path) -> None:
    stream = tmp_path / "server-1" / "jetstream" / "$G" / "streams" / Namespace(namespace).tasks_stream
    with EmbeddedServer(store_dir=tmp_path / "server-1") as alone:
        async with TaskMesh.open(alone.url, namespace) as mesh:
            mesh.register(Greet)
            await Greet(name="alice").schedule()
    assert await asyncio.to_thread(stream.is_dir)
    with EmbeddedCluster(store_dir=tmp_path) as cluster:
        # The server looks 30 s after its start.
        await wait_until(lambda: not stream.exists(), description="the stream is removed", timeout=120)
        async with ClusterMesh.on(cluster, namespace) as mesh:
            assert await mesh.waiting() == 0
