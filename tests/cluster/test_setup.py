"""`setup --replicas` moves a mesh from one replica to three and back. It and `status` tell what is behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import MONITOR, Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import NotConnectedError
from diracx.tasks.plumbing.jetstream.replicas import catching_up, read_replicas
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.command_line import CommandLine, isolated_environment
from support.sample_tasks import Greet

MOVED_SECONDS = 120.0
TASKS = 200


async def followers(connection: Connection, asset: Asset) -> int:
    """The number of servers that follow the leader of an asset."""
    subject = (
        f"CONSUMER.INFO.{asset.stream}.{asset.name}" if asset.kind == "consumer" else f"STREAM.INFO.{asset.stream}"
    )
    cluster: dict[str, Any] = (await connection.api(subject))["cluster"]
    return len(cluster.get("replicas") or ())


async def set_up(command: CommandLine, *arguments: str) -> str:
    """Run `setup` until it says that all is there; return what it said first."""
    up_to_date = f"namespace {command.environment['DIRACX_TASKS_NAMESPACE']} is up to date\n"
    first = said = ""
    async with asyncio.timeout(MOVED_SECONDS):
        while said != up_to_date:
            done = await asyncio.to_thread(command, "setup", *arguments)
            assert done.returncode == 0, done.stderr
            said = done.stdout
            first = first or said
    return first


@pytest.mark.long
async def test_setup_moves_a_mesh_to_three_replicas_and_back_and_says_what_is_catching_up(
    cluster: EmbeddedCluster, namespace: str, tmp_path: Path
) -> None:
    command = CommandLine(isolated_environment(tmp_path, cluster.url, namespace), tmp_path)
    names = Namespace(namespace)
    async with ClusterMesh.open(cluster.url, namespace) as mesh:
        mesh.register(Greet)
        await mesh.broker.submit_many([Greet(name="alice")] * TASKS)

        async def each_has(number: int) -> None:
            assert {str(each): await followers(mesh.connection, each) for each in assets(names)} == dict.fromkeys(
                map(str, assets(names)), number
            )

        await each_has(0)
        first = await set_up(command, "--replicas", "3")
        assert f"updated stream {names.tasks_stream}: metadata, num_replicas\n" in first
        # The consumers follow about ten seconds after their stream.
        assert "catching up: consumers realtime-small, " in first
        assert first.endswith("run `diracx-task-run setup` again to see whether all is there\n")
        await each_has(2)
        # A process that starts beside it leaves the number alone.
        async with ClusterMesh.open(cluster.url, namespace):
            await each_has(2)
        await set_up(command, "--replicas", "1")
        await each_has(0)
        tasks = await mesh.connection.api(f"STREAM.INFO.{names.tasks_stream}")
        assert not [name for name in tasks["config"]["metadata"] if name.startswith(f"{MONITOR}.peer-")]
        # Said a second time, nats-server 2.15 makes the replicas of the tasks and does not answer.
        first = await set_up(command, "--replicas", "3")
        assert f"updated stream {names.tasks_stream}: metadata, num_replicas\n" in first
        await each_has(2)
        done = await asyncio.to_thread(command, "setup", "--replicas", "5")
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr.startswith("error: 5 replicas need a cluster of 5 nats-servers or more: ")
        assert (await mesh.burst()).processed == TASKS
        await mesh.remove()


async def test_status_names_a_server_that_is_away_and_that_it_is_back(cluster_mesh: ClusterMesh) -> None:
    status = StatusReader(cluster_mesh.connection, cluster_mesh.namespace)
    leader = await cluster_mesh.leader(cluster_mesh.namespace.tasks_stream)
    away = next(server for server in cluster_mesh.cluster.servers if server is not leader)
    line = f"stream {cluster_mesh.namespace.tasks_stream}: {away.name} is offline"

    async def told() -> bool:
        try:
            return line in (await status.read()).status.catching_up
        except ServerError:
            return False  # another stream, or the cluster, elects a leader

    async def nothing_told() -> bool:
        try:
            return (await status.read()).status.catching_up == []
        except ServerError:
            return False

    away.stop()
    await wait_until(told, description="status names it", timeout=MOVED_SECONDS)
    away.start()
    await wait_until(nothing_told, description="status has nothing to tell", timeout=MOVED_SECONDS)


async def test_without_a_majority_each_stream_is_said_to_have_no_leader(
    own_cluster: EmbeddedCluster, namespace: str
) -> None:
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        for server in own_cluster.servers[1:]:
            server.kill()

        async def lines() -> list[str]:
            try:
                return catching_up(await read_replicas(mesh.connection, assets(mesh.namespace)))
            except NotConnectedError:
                return []  # the client moves to the server that is left

        async def told() -> bool:
            found = await lines()
            return f"stream {mesh.namespace.tasks_stream}: has no leader" in found

        await wait_until(told, description="it is told", timeout=MOVED_SECONDS)
