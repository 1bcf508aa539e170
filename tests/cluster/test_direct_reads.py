"""What is read at a replica that lags, and what only the leader answers."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.partition import PartitionableCluster

LIMIT_SECONDS = 90.0


async def count(connection: Connection, stream: str) -> int:
    return len([message async for message in read_batches(connection, stream)])


async def test_a_replica_that_lags_shows_old_lists_and_decides_nothing(namespace: str) -> None:
    async with PartitionableCluster.open() as cluster, ClusterMesh.on(cluster, namespace) as mesh:
        names = mesh.namespace
        config, stream = ConfigurationBucket(mesh.connection, names), f"KV_{names.config_bucket}"
        lagging = next(server for server in cluster.servers if server is not cluster.meta_leader())
        leading = next(server for server in cluster.servers if server is not lagging)
        for each in (stream, names.tasks_stream, f"KV_{names.locks_bucket}"):
            await mesh.hand_over(each, leading)
        await config.write("tasks: {}\n")
        settings = ConnectionSettings(servers=(lagging.url,))
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as there:

            async def has_it() -> bool:
                return await count(there, stream) == 1

            await wait_until(has_it, description="the replica has the first revision", timeout=LIMIT_SECONDS)
            cluster.cut_off(lagging)
            async with asyncio.timeout(LIMIT_SECONDS):
                while mesh.connection.server == lagging.url:
                    await mesh.connection.client.leave_server()
                    await mesh.connection.wait_connected(LIMIT_SECONDS)
            await config.write("{}\n")
            # A list of what is stored may be old.
            assert (await count(mesh.connection, stream), await count(there, stream)) == (2, 1)
            # What decides is answered by the leader, or not at all.
            with pytest.raises(ServerError):
                await ConfigurationBucket(there, names).read()
            locks = Bucket(there, names.locks_bucket, timeout=1)
            with pytest.raises(ServerError):
                await locks.create("mutex.job.1", b"{}")
            with pytest.raises(ServerError):
                await locks.read("mutex.job.1")
