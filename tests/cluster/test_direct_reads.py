"""What is read at a replica that lags, and what only the leader answers."""

from __future__ import annotations

from contextlib import suppress

import pytest

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.partition import PartitionableCluster

LIMIT_SECONDS = 90.0


async def count(connection: Connection, stream: str) -> int:
    return len([message async for message in read_batches(connection, stream)])


async def replace_elsewhere(
    mesh: ClusterMesh, config: ConfigurationBucket, first: int, lagging: ClusteredServer
) -> None:
    """Write the second revision of the configuration, from a client that is at another server."""

    async def written() -> bool:
        if mesh.connection.server == lagging.url:
            await mesh.connection.client.leave_server()
            await mesh.connection.wait_connected(LIMIT_SECONDS)
        try:
            return bool(await config.write("{}\n", replacing=first))
        except RevisionConflictError:
            return True  # an earlier try has written it
        except ServerError:
            return False  # a leader was elected meanwhile

    await wait_until(written, description="the others have the second revision", timeout=LIMIT_SECONDS)


@pytest.mark.long
async def test_a_replica_that_lags_shows_old_lists_and_decides_nothing(namespace: str) -> None:
    async with PartitionableCluster.open() as cluster, ClusterMesh.on(cluster, namespace) as mesh:
        names = mesh.namespace
        config, stream = ConfigurationBucket(mesh.connection, names), f"KV_{names.config_bucket}"
        lagging = next(server for server in cluster.servers if server is not cluster.meta_leader())
        leading = next(server for server in cluster.servers if server is not lagging)
        for each in (stream, names.tasks_stream, f"KV_{names.locks_bucket}"):
            await mesh.hand_over(each, leading)
        first = await config.write("tasks: {}\n")
        settings = ConnectionSettings(servers=(lagging.url,))
        async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as there:

            async def has_it() -> bool:
                return await count(there, stream) == 1

            await wait_until(has_it, description="the replica has the first revision", timeout=LIMIT_SECONDS)
            cluster.cut_off(lagging)

            await replace_elsewhere(mesh, config, first, lagging)

            async def listed() -> bool:
                return await count(mesh.connection, stream) == 2

            await wait_until(listed, description="the list of the others is complete", timeout=LIMIT_SECONDS)
            # The list of the one that lags is old, if it gives any.
            with suppress(ServerError):
                assert await count(there, stream) == 1
            # What decides is answered by the leader, or not at all.
            with pytest.raises(ServerError):
                await ConfigurationBucket(there, names).read()
            locks = Bucket(there, names.locks_bucket)
            with pytest.raises(ServerError):
                await locks.create("mutex.job.1", b"{}")
            with pytest.raises(ServerError):
                await locks.read("mutex.job.1")
