"""What falls due while the streams change their leaders reaches the queue: all of it, once, soon after the elections.

No worker runs: what arrives is counted in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.errors import ApiError
from diracx.tasks.plumbing.jetstream.handover import Handover
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage
from diracx.tasks.plumbing.wire.envelope import TASK_DUE
from diracx.tasks.plumbing.wire.times import from_rfc3339
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.recording_tasks import Record
from support.scheduling import SchedulingMesh, Ticks, more_than_once

PATIENCE = 120.0
"""Seconds for elections, and what follows them, on a busy machine."""
SPACING = 0.1
ASKED = "asked for a new leader of"
LATE = "comes up to 30 s late"


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "diracx.tasks.jetstream")


@asynccontextmanager
async def handing_over(mesh: ClusterMesh, connection: Connection | None = None) -> AsyncIterator[None]:
    """What a worker does beside its work."""
    async with in_background(handover=Handover(connection or mesh.connection, mesh.namespace).run()):
        yield


async def lead_apart(mesh: ClusterMesh) -> tuple[ClusteredServer, ClusteredServer, ClusteredServer]:
    """Have one server lead the queue and another one its origin; return both, and the third."""
    queue = await mesh.leader(mesh.namespace.tasks_stream)
    origin, third = (server for server in mesh.cluster.servers if server is not queue)
    await mesh.hand_over(mesh.namespace.later_stream, origin)
    return queue, origin, third


async def schedule(mesh: ClusterMesh, count: int) -> None:
    """Store tasks that fall due one after the other, from one second from now on."""
    mesh.register(Record)
    start = datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.gather(*(Record(n).schedule(at_time=start + timedelta(seconds=n * SPACING)) for n in range(count)))


async def arrived(mesh: ClusterMesh) -> list[StoredMessage]:
    """The tasks in the queue that fell due."""
    with suppress(ServerError):  # an election
        return [each for each in await mesh.stored(mesh.namespace.tasks_stream) if TASK_DUE in each.headers]
    return []


async def all_arrive_once(mesh: ClusterMesh, count: int) -> None:
    async def all_there() -> bool:
        return len(await arrived(mesh)) >= count

    await wait_until(all_there, description="all have arrived", timeout=PATIENCE)
    messages = await arrived(mesh)
    assert sorted(each.body for each in messages) == sorted(b'{"n":%d}' % n for n in range(count))
    late = max((each.stored - from_rfc3339(each.headers[TASK_DUE])).total_seconds() for each in messages)
    print(f"the latest of {count} came {late:.1f} s late")


async def test_what_falls_due_around_a_new_leader_of_the_origin_arrives_once_and_soon(
    cluster_mesh: ClusterMesh, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, third = await lead_apart(cluster_mesh)
    await schedule(cluster_mesh, 60)
    async with handing_over(cluster_mesh):
        await wait_until(lambda: arrived(cluster_mesh), description="the first have arrived", timeout=PATIENCE)
        await cluster_mesh.hand_over(cluster_mesh.namespace.later_stream, third)
        await wait_until(lambda: ASKED in caplog.text, description="a new leader was asked for", timeout=PATIENCE)
        await all_arrive_once(cluster_mesh, 60)


async def test_a_server_refuses_to_follow_itself(cluster_mesh: ClusterMesh) -> None:
    """So of several workers that saw the same leader one is heeded: all of them name the same successor."""
    stream = cluster_mesh.namespace.tasks_stream
    leader = await cluster_mesh.leader(stream)
    with pytest.raises(ApiError, match="is already leader"):
        await cluster_mesh.connection.api(f"STREAM.LEADER.STEPDOWN.{stream}", {"placement": {"preferred": leader.name}})


async def test_a_server_that_has_lost_its_place_begins_with_what_is_not_settled(
    own_cluster: EmbeddedCluster, namespace: str
) -> None:
    """After a kill -9 a server may not know how far it had come. By itself it would begin with the last message of the
    queue, and skip what fell due before that."""
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        _, origin, _ = await lead_apart(mesh)
        await schedule(mesh, 1)
        await all_arrive_once(mesh, 1)
        await mesh.burst()
        await schedule(mesh, 20)
        origin.kill()
        assert await mesh.leader(mesh.namespace.later_stream) is not origin
        await asyncio.to_thread(origin.start)
        await wait_until(lambda: fallen_due(mesh, 20), description="all have fallen due", timeout=PATIENCE)
        await Record(99).schedule()
        await mesh.hand_over(mesh.namespace.tasks_stream, origin)
        await all_arrive_once(mesh, 20)


async def fallen_due(mesh: ClusterMesh, count: int) -> bool:
    with suppress(ServerError):  # an election
        return len(await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.due.")) >= count
    return False


async def test_a_worker_that_may_not_ask_says_so_once_and_goes_on(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    denied = 'publish: { deny: "$JS.API.STREAM.LEADER.STEPDOWN.>" }'
    users = f"{{ user: all, password: a }}, {{ user: worker, password: b, permissions: {{ {denied} }} }}"
    accounts = f"accounts {{ A {{ jetstream: enabled, users: [{users}] }} }}\nno_auth_user: all"
    with EmbeddedCluster(extra_config=accounts) as cluster:
        settings = ConnectionSettings(servers=tuple(cluster.url.split(",")), user="worker", password="b")
        async with (
            ClusterMesh.on(cluster, namespace) as mesh,
            Connection.open(settings, name="a worker", inbox_prefix="_INBOX_worker") as worker,
        ):
            _, _, third = await lead_apart(mesh)
            async with handing_over(mesh, worker):
                await schedule(mesh, 1)
                await all_arrive_once(mesh, 1)
                await mesh.hand_over(mesh.namespace.later_stream, third)
                await wait_until(lambda: LATE in caplog.text, description="it says so", timeout=PATIENCE)
    (line,) = [each.getMessage() for each in caplog.records if LATE in each.getMessage()]
    assert f"$JS.API.STREAM.LEADER.STEPDOWN.{mesh.namespace.tasks_stream}" in line
    assert "grant it as in nats/accounts.conf" in line


@pytest.mark.long
async def test_what_falls_due_around_killed_and_restarted_leaders_arrives_once(
    own_cluster: EmbeddedCluster, namespace: str
) -> None:
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        _, origin, third = await lead_apart(mesh)
        await schedule(mesh, 400)
        async with handing_over(mesh):
            for leader in (origin, third):
                await restart_killed(mesh, leader)
            queue = await mesh.leader(mesh.namespace.tasks_stream)
            await restart_killed(mesh, queue)
            for server in own_cluster.servers:
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(own_cluster.wait_ready)
            await all_arrive_once(mesh, 400)


async def restart_killed(mesh: ClusterMesh, server: ClusteredServer) -> None:
    """Kill a server, wait until both streams have leaders, and submit to the queue before it runs again."""
    server.kill()
    for stream in (mesh.namespace.tasks_stream, mesh.namespace.later_stream):
        assert await mesh.leader(stream) is not server
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(mesh.cluster.wait_ready)


class ScheduledMesh(ClusterMesh, SchedulingMesh):
    """Schedulers on a cluster."""


@pytest.mark.long
async def test_no_occurrence_of_each_second_runs_twice_while_leaders_end(
    own_cluster: EmbeddedCluster, namespace: str
) -> None:
    async with ScheduledMesh.on(own_cluster, namespace) as mesh:
        mesh.register(Ticks)
        async with handing_over(mesh), mesh.scheduling(name="one"), mesh.scheduling(name="two"):
            for stream in (mesh.namespace.later_stream, f"KV_{mesh.namespace.locks_bucket}"):
                await restart_killed(mesh, await mesh.leader(stream))
            since = datetime.now(UTC)

            async def goes_on() -> bool:
                return any(each.due > since for each in await mesh.arrived())

            await wait_until(goes_on, description="occurrences go on", timeout=PATIENCE)
            occurrences = await mesh.arrived()
    assert not more_than_once(occurrences)
    assert len({each.due for each in occurrences}) == len(occurrences)
