"""A worker starts while its queues have no leader."""

from __future__ import annotations

import asyncio
import logging

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.replicas import catching_up, read_replicas
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cluster import LEADER_SECONDS, ClusterMesh
from support.mesh import running
from support.recording_tasks import Record

# With one replica of each, a stream and its consumers have no leader for as long as their server is away.
pytestmark = pytest.mark.long


async def test_it_waits_until_they_have_one(
    own_cluster: EmbeddedCluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    recording_tasks.reset()
    async with ClusterMesh.open(own_cluster.url, namespace) as mesh:
        mesh.cluster, mesh.allows_residue = own_cluster, True
        mesh.register(Record)
        await Record(n=1).schedule()
        away = await mesh.leader(mesh.namespace.tasks_stream)
        away.kill()
        await wait_until(
            lambda: own_cluster.meta_leader() not in (None, away), description="a leader", timeout=LEADER_SECONDS
        )
        there = ",".join(server.url for server in own_cluster.servers if server is not away)
        with caplog.at_level(logging.WARNING, "diracx.tasks"):
            async with JetStreamBroker.connect(
                there, namespace=namespace, registry=mesh.registry, role="worker", bind=False
            ) as broker:
                assert "not looking at streams, consumers and buckets: no " in caplog.text
                lines = catching_up(await read_replicas(broker.connection, assets(mesh.namespace)))
                assert f"stream {mesh.namespace.tasks_stream}: has no leader" in lines
                worker = ClusterMesh(broker).worker()
                async with running(worker):
                    await wait_until(
                        lambda: "no leader" in (worker.why_not_served or ""),
                        description="it says why it waits",
                        timeout=LEADER_SECONDS,
                    )
                    await asyncio.to_thread(away.start)
                    await wait_until(
                        lambda: recording_tasks.ran == [1], description="the task has run", timeout=LEADER_SECONDS
                    )
