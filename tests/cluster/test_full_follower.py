"""A follower whose store is full."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.replicas import read_replicas
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.nats_command import find_nats

PATIENCE = 90.0
LIMIT = "20MB"
MESSAGES = 100
BODY = bytes(300_000)
"""All messages together are larger than the limit, and smaller than that of the stream."""


async def check_of(cluster: EmbeddedCluster, stream: str) -> subprocess.CompletedProcess[str]:
    """`nats server check stream`, as a monitoring system runs it."""
    command = [str(find_nats()), "--server", cluster.url, "server", "check", "stream", "--stream", stream]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.nats_command
async def test_a_full_follower_stops_nobody_and_the_check_of_the_stream_tells_of_it(
    namespace: str, tmp_path: Path
) -> None:
    with EmbeddedCluster(store_dir=tmp_path) as cluster:
        async with ClusterMesh.on(cluster, namespace) as mesh:
            stream = mesh.namespace.tasks_stream
            small = next(server for server in cluster.servers if server is not cluster.meta_leader())
            assert (await check_of(cluster, stream)).returncode == 0
            small.extra_config += f'jetstream {{ max_file_store: {LIMIT}, store_dir: "{tmp_path / small.name}" }}\n'
            await asyncio.to_thread(small.restart)
            await asyncio.to_thread(cluster.wait_ready)
            await mesh.hand_over(stream, next(server for server in cluster.servers if server is not small))
            for _ in range(MESSAGES):
                await publish(mesh.connection, f"{namespace}.tasks.normal.small", BODY, {}, timeout=PATIENCE)
            assert await mesh.waiting() == MESSAGES

            async def is_critical() -> bool:
                checked = await check_of(cluster, stream)
                return checked.returncode == 2 and "CRITICAL" in checked.stdout

            await wait_until(is_critical, description="the check says so", timeout=PATIENCE)
            assert not small.is_ready
            behind = [each for each in await read_replicas(mesh.connection, assets(mesh.namespace)) if each.problem]
            assert f"{small.name} is " in next(each.problem for each in behind if each.asset.name == stream)
