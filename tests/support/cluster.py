"""A mesh on a cluster of three servers, with three replicas of every stream and bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Self
from unittest import mock

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import ApiError
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

REPLICAS = 3
LEADER_SECONDS = 60.0
NO_SUITABLE_PEERS = 10005


@contextmanager
def three_replicas() -> Iterator[None]:
    """Let `assets(namespace)` define three replicas in this process, whoever creates the mesh.

    What another process creates has the replicas of its definition, one.
    """
    with mock.patch.object(assets, "__defaults__", (REPLICAS,)):
        yield


@asynccontextmanager
async def replicated(url: str, namespace: str) -> AsyncIterator[Connection]:
    """Create the streams and buckets of a mesh with three replicas, and yield the connection that did it."""
    settings = ConnectionSettings(servers=tuple(url.split(",")))
    opened = Connection.open(settings, name="a test", inbox_prefix="_INBOX_test", connect_timeout=LEADER_SECONDS)
    async with opened as connection:
        async with asyncio.timeout(LEADER_SECONDS):
            while True:
                try:
                    await ensure(connection, assets(Namespace(namespace), REPLICAS))
                    break
                except ApiError as error:
                    # The leader of the cluster has not yet heard of a server that has just started again.
                    if error.err_code != NO_SUITABLE_PEERS:
                        raise
                await asyncio.sleep(0.1)
        yield connection


class ClusterMesh(TaskMesh):
    """A mesh whose streams have three replicas, with the leaders of its streams and consumers."""

    cluster: EmbeddedCluster

    @classmethod
    @asynccontextmanager
    async def on(cls, cluster: EmbeddedCluster, namespace: str) -> AsyncIterator[Self]:
        """Create the streams and buckets with three replicas, and connect."""
        async with replicated(cluster.url, namespace), cls.open(cluster.url, namespace) as mesh:
            mesh.cluster = cluster
            yield mesh

    async def leader(self, stream: str, consumer: str | None = None) -> ClusteredServer:
        """The server that leads a stream, or a consumer of it; waits while there is none."""
        subject = f"STREAM.INFO.{stream}" if consumer is None else f"CONSUMER.INFO.{stream}.{consumer}"
        async with asyncio.timeout(LEADER_SECONDS):
            while True:
                try:
                    if name := (await self.connection.api(subject))["cluster"].get("leader"):
                        return self.cluster.server(name)
                except ServerError:
                    pass  # there is no leader that would answer
                await asyncio.sleep(0.1)

    async def hand_over(self, stream: str, server: ClusteredServer) -> None:
        """Let a server lead a stream."""
        async with asyncio.timeout(LEADER_SECONDS):
            while await self.leader(stream) is not server:
                with suppress(ServerError):  # it has no leader, or its new one has not caught up
                    preferred = {"placement": {"preferred": server.name}}
                    await self.connection.api(f"STREAM.LEADER.STEPDOWN.{stream}", preferred)
                await asyncio.sleep(0.2)

    async def end_leader(
        self, stream: str, consumer: str | None = None, *, end: Callable[[ClusteredServer], None] = ClusteredServer.kill
    ) -> None:
        """End the server that leads a stream or a consumer, and wait until another one leads."""
        leader = await self.leader(stream, consumer)
        end(leader)

        async def another_leads() -> bool:
            return await self.leader(stream, consumer) is not leader

        await wait_until(another_leads, description=f"{stream} has another leader", timeout=LEADER_SECONDS)
