"""A leader is killed, and requests wait until there is another one."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.cluster import ClusteredServer, EmbeddedCluster
from diracx.tasks.plumbing.exceptions import SendTaskError, ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection.elections import ELECTION_SECONDS, RETRY_SECONDS
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, paused_until, resume
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.message_batches import read_batches
from diracx.tasks.plumbing.jetstream.stream_messages import subjects_of
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.testing import wait_until
from support.cluster import LEADER_SECONDS, ClusterMesh
from support.command_line import CommandLine, isolated_environment
from support.sample_tasks import Greet

SUBMITTERS = 8
PAUSE_SECONDS = 0.02
SUBMIT_SECONDS = 10.0
"""How long a submission is tried."""


class Submitting:
    """Submits one task after another, at several places at a time."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.errors: list[BaseException] = []
        self._stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(SUBMITTERS):
                group.create_task(self._submit())

    async def _submit(self) -> None:
        while not self._stopping:
            later = datetime.now(UTC) + timedelta(hours=1) if len(self.ids) % 2 else None
            try:
                self.ids.append(await Greet(name="alice").schedule(at_time=later))
            except Exception as error:
                self.errors.append(error)
            await asyncio.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def submitting() -> AsyncIterator[Submitting]:
    submitter = Submitting()
    running = asyncio.create_task(submitter.run())
    try:
        yield submitter
    finally:
        submitter.stop()
        await running


async def stored_ids(mesh: ClusterMesh) -> Counter[str]:
    found: Counter[str] = Counter()
    for stream in (mesh.namespace.tasks_stream, mesh.namespace.later_stream):
        async for message in read_batches(mesh.connection, stream):
            if "Task-Id" in message.headers:
                found[message.headers["Task-Id"]] += 1
    return found


async def leading(cluster: EmbeddedCluster) -> ClusteredServer:
    """The leader of the cluster; waits while there is none."""
    await wait_until(
        lambda: cluster.meta_leader() is not None, description="the cluster has a leader", timeout=LEADER_SECONDS
    )
    leader = cluster.meta_leader()
    assert leader is not None
    return leader


@pytest.mark.parametrize("which", ["tasks", pytest.param("later", marks=pytest.mark.long), "cluster"])
async def test_no_submission_fails_when_a_leader_is_killed_and_each_is_stored_once(
    cluster_mesh: ClusterMesh, which: str
) -> None:
    mesh, names = cluster_mesh, cluster_mesh.namespace
    mesh.register(Greet)
    if which == "cluster":
        leader = await leading(mesh.cluster)
    else:
        leader = await mesh.leader(names.tasks_stream if which == "tasks" else names.later_stream)
    async with submitting() as submitter:
        await wait_until(lambda: len(submitter.ids) > 100, description="tasks are submitted")
        await asyncio.to_thread(leader.kill)
        for stream in (names.tasks_stream, names.later_stream):
            assert await mesh.leader(stream) is not leader
        after = len(submitter.ids)
        await wait_until(lambda: len(submitter.ids) > after + 100, description="tasks are submitted again")
    assert submitter.errors == []
    stored = await stored_ids(mesh)
    assert stored.keys() >= set(submitter.ids)
    assert set(stored.values()) == {1}
    mesh.allows_residue = True


@asynccontextmanager
async def beside(mesh: ClusterMesh, leader: ClusteredServer) -> AsyncIterator[JetStreamBroker]:
    """A broker that is connected to another server than the one that ends."""
    url = next(server.url for server in mesh.cluster.servers if server is not leader)
    async with JetStreamBroker.connect(url, namespace=mesh.namespace.name, registry=mesh.registry) as broker:
        yield broker


@pytest.mark.parametrize("which", ["tasks", pytest.param("cluster", marks=pytest.mark.long)])
async def test_requests_wait_until_there_is_a_leader(cluster_mesh: ClusterMesh, tmp_path: Path, which: str) -> None:
    mesh, names = cluster_mesh, cluster_mesh.namespace
    mesh.register(Greet)
    later = datetime.now(UTC) + timedelta(hours=1)
    withdrawn, _ = await Greet("alice").schedule(at_time=later), await Greet("bob").schedule(at_time=later)
    leader = await (leading(mesh.cluster) if which == "cluster" else mesh.leader(names.tasks_stream))
    command_line = CommandLine(isolated_environment(tmp_path, mesh.cluster.url, names.name), tmp_path)
    async with beside(mesh, leader) as broker:
        locks = Bucket(broker.connection, names.locks_bucket)
        await asyncio.to_thread(leader.kill)
        status, command, stored, revision, is_withdrawn = await asyncio.gather(
            StatusReader(broker.connection, names).read(),
            asyncio.to_thread(command_line, "status", "--json"),
            subjects_of(broker.connection, names.later_stream, f"{names.name}.delayed.*"),
            locks.create("mutex.job.7", b"{}", timedelta(seconds=30)),
            broker.cancel(withdrawn),
        )
        await locks.delete("mutex.job.7", revision)
    assert not any(queue.missing for queue in status.status.queues)
    assert is_withdrawn
    assert status.status.delayed in {1, 2}
    assert len(stored) in {1, 2}
    assert command.returncode == 0, command.stderr


@pytest.mark.long
async def test_a_queue_whose_leader_has_just_ended_can_be_paused(cluster_mesh: ClusterMesh) -> None:
    mesh, stream, queue = cluster_mesh, cluster_mesh.namespace.tasks_stream, "normal-small"
    leader = await mesh.leader(stream, queue)
    async with beside(mesh, leader) as broker:
        await asyncio.to_thread(leader.kill)
        await pause(broker.connection, stream, queue, UNTIL_RESUMED)
        info = await broker.connection.api(f"CONSUMER.INFO.{stream}.{queue}")
    assert paused_until(info) == UNTIL_RESUMED


async def test_a_worker_goes_on_after_an_election_and_logs_no_error(
    cluster_mesh: ClusterMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh, names = cluster_mesh, cluster_mesh.namespace
    mesh.register(Greet)
    leader = await mesh.leader(names.tasks_stream)
    async with beside(mesh, leader) as broker:
        ended: list[object] = []
        elsewhere = ClusterMesh(broker)
        async with elsewhere.working(on_outcome=lambda *outcome: ended.append(outcome)), submitting() as submitter:
            await wait_until(lambda: len(ended) > 20, description="tasks are run")
            caplog.clear()
            await asyncio.to_thread(leader.kill)
            assert await mesh.leader(names.tasks_stream) is not leader
            after = len(ended)
            await wait_until(lambda: len(ended) > after + 20, description="tasks are run again", timeout=60)
    assert submitter.errors == []
    ours = [each for each in caplog.records if each.name.startswith("diracx.tasks.") and each.levelname == "ERROR"]
    # The broker of the fixture may have been connected to the server that ended.
    assert [each.getMessage() for each in ours if each.name != "diracx.tasks.jetstream"] == []


@pytest.mark.long
async def test_a_queue_is_paused_while_its_consumer_elects_a_leader(cluster_mesh: ClusterMesh) -> None:
    mesh, stream, consumer = cluster_mesh, cluster_mesh.namespace.tasks_stream, "normal-small"
    leader = await mesh.leader(stream, consumer)
    async with beside(mesh, leader) as broker:
        await asyncio.to_thread(leader.kill)
        await pause(broker.connection, stream, consumer, UNTIL_RESUMED)
        await resume(broker.connection, stream, consumer)


@pytest.mark.long
async def test_without_a_majority_every_request_says_that_there_is_no_leader(
    own_cluster: EmbeddedCluster, namespace: str, tmp_path: Path
) -> None:
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        mesh.register(Greet)
        command_line = CommandLine(isolated_environment(tmp_path, own_cluster.url, namespace), tmp_path)
        last = await mesh.leader(mesh.namespace.tasks_stream)
        others = [server for server in own_cluster.servers if server is not last]
        for server in others:
            await asyncio.to_thread(server.kill)
        await mesh.connection.wait_connected(LEADER_SECONDS)
        # Its leader, if it runs, takes this and cannot store it: the others do not answer.
        begun = asyncio.get_running_loop().time()
        with pytest.raises(SendTaskError, match=r"no leader for 10 s: |: no reply from "):
            await Greet("bob").schedule()
        assert asyncio.get_running_loop().time() - begun >= SUBMIT_SECONDS - 2 * RETRY_SECONDS

        async def is_lost() -> bool:
            # The last server leads on for a while, until it misses the others.
            with suppress(ServerError):
                await mesh.connection.api(f"STREAM.INFO.{mesh.namespace.tasks_stream}", timeout=1)
                return False
            return own_cluster.meta_leader() is None

        await wait_until(is_lost, description="there is no leader", timeout=LEADER_SECONDS)
        submitted, status, setup = await asyncio.gather(
            Greet("alice").schedule(),
            asyncio.to_thread(command_line, "status"),
            asyncio.to_thread(command_line, "setup"),
            return_exceptions=True,
        )
        assert isinstance(submitted, SendTaskError)
        assert str(submitted).startswith("no leader for 10 s: ")
        for command in (status, setup):
            assert isinstance(command, subprocess.CompletedProcess)
            assert (command.returncode, "no leader for 10 s" in command.stderr) == (69, True), command.stderr
        assert last.is_running


@pytest.mark.long
async def test_a_worker_that_waits_for_a_leader_stops_at_once(own_cluster: EmbeddedCluster, namespace: str) -> None:
    async with ClusterMesh.on(own_cluster, namespace) as mesh:
        mesh.register(Greet)
        # It follows the leader of the stream, and answers for nothing when it is alone.
        leader = await mesh.leader(mesh.namespace.tasks_stream)
        last = next(each for each in own_cluster.servers if each is not leader and each.url != mesh.connection.server)
        ended: list[object] = []
        async with mesh.working(on_outcome=lambda *outcome: ended.append(outcome)):
            await Greet("alice").schedule()
            await wait_until(lambda: ended, description="the worker is at work", timeout=LEADER_SECONDS)
            for server in own_cluster.servers:
                if server is not last:
                    await asyncio.to_thread(server.kill)

            def has_asked() -> bool:
                return any(each["in_msgs"] > 1 for each in last.monitor("connz")["connections"])

            # After a reconnect it reads its queues anew.
            await wait_until(has_asked, description="it waits for a leader", timeout=LEADER_SECONDS)
            stopped = asyncio.get_running_loop().time()
        # An election is waited for twice: to read the queues, and to say why that fails.
        assert asyncio.get_running_loop().time() - stopped < ELECTION_SECONDS - 2
