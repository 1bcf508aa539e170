"""A paused queue on a real server: the answers to a pull, the workers, and the end of the pause."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.msg import Msg

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, pause_end_text, paused_until, resume
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.pull_client import BACKGROUND, NORMAL, REALTIME, PullClient, labels, pulling
from support.recording_tasks import Record, RecordBackground, RecordRealtime, Wait

QUEUE = "normal-small"


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


@pytest.fixture
async def puller(connection: Connection, topology: Namespace) -> AsyncIterator[PullClient]:
    async with pulling(connection, topology) as puller:
        yield puller


async def info(connection: Connection, names: Namespace) -> dict[str, Any]:
    return await connection.api(f"CONSUMER.INFO.{names.tasks_stream}.{QUEUE}")


async def pause_queue(mesh: TaskMesh | PullClient, until: datetime = UNTIL_RESUMED) -> None:
    names = mesh.namespace if isinstance(mesh, TaskMesh) else mesh.names
    await pause(mesh.connection, names.tasks_stream, QUEUE, until)


async def resume_queue(mesh: TaskMesh | PullClient) -> None:
    names = mesh.namespace if isinstance(mesh, TaskMesh) else mesh.names
    await resume(mesh.connection, names.tasks_stream, QUEUE)


async def soon(connection: Connection, names: Namespace, seconds: float) -> datetime:
    """By the server's clock."""
    return datetime.fromisoformat((await info(connection, names))["ts"]) + timedelta(seconds=seconds)


async def looked_again() -> None:
    """A queue seen empty a moment ago is passed over by a probe."""
    await asyncio.sleep(0.003)


async def test_a_probe_finds_a_paused_queue_empty_and_the_others_in_their_order(puller: PullClient) -> None:
    for priority in (BACKGROUND, NORMAL, REALTIME):
        await puller.put(priority, *labels(priority, 3))
    await pause_queue(puller)
    for slots in (4, 1, 1, 100):
        await looked_again()
        _, problem = await puller.pull.probe(slots)
        assert problem is None
    assert puller.bodies == labels(REALTIME, 3) + labels(BACKGROUND, 3)
    assert (await puller.info(NORMAL))["num_pending"] == 3
    await resume_queue(puller)
    await looked_again()
    assert await puller.pull.probe(100) == (3, None)
    assert puller.bodies[6:] == labels(NORMAL, 3)


async def test_a_queue_that_is_paused_in_the_middle_keeps_the_rest_and_what_is_given_back(puller: PullClient) -> None:
    await puller.put(NORMAL, *labels("n", 5))
    assert await puller.pull.probe(2) == (2, None)
    await pause_queue(puller)
    done, given_back = puller.delivered
    done.ack()
    given_back.nak()
    await wait_until(lambda: _counts(puller, left=4, unsettled=1), description="the server took the ack")
    await looked_again()
    assert await puller.pull.probe(10) == (0, None)
    await resume_queue(puller)
    await wait_until(lambda: puller.probed(6), description="all came")
    assert sorted(puller.bodies[2:]) == ["n1", "n2", "n3", "n4"]


async def _counts(puller: PullClient, left: int, unsettled: int) -> bool:
    return (await puller.left(), await puller.in_flight()) == (left, unsettled)


async def test_a_long_poll_on_a_paused_queue_hears_heartbeats_and_its_end(puller: PullClient) -> None:
    await puller.put(NORMAL, "n")
    await pause_queue(puller)
    heard: list[str] = []
    inbox = puller.connection.client.new_inbox()

    async def note(message: Msg) -> None:
        heard.append((message.headers or {}).get("Status", "a message"))

    await puller.connection.client.subscribe(inbox, cb=note)
    request = {"batch": 1, "expires": 1_000_000_000, "idle_heartbeat": 300_000_000}
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{puller.names.tasks_stream}.{QUEUE}"
    await puller.connection.publish(subject, json.dumps(request).encode(), reply=inbox)
    await wait_until(lambda: "408" in heard, description="the poll ended")
    assert set(heard) == {"100", "408"}


async def test_a_wait_is_ended_by_other_queues_and_by_the_end_of_the_pause(puller: PullClient) -> None:
    await puller.put(NORMAL, "n")
    await pause_queue(puller)
    waiting = await puller.polling()
    await puller.put(BACKGROUND, "b")
    assert await waiting == ""
    assert puller.bodies == ["b"]
    # Early, and on time.
    waiting = await puller.polling()
    await resume_queue(puller)
    assert await waiting == ""
    await puller.put(NORMAL, "m")
    await pause_queue(puller, await soon(puller.connection, puller.names, 1))
    waiting = await puller.polling()
    assert await waiting == ""
    assert puller.bodies == ["b", "n", "m"]


async def test_what_runs_goes_on_and_is_settled_and_what_waits_stays_until_resumed(mesh: TaskMesh) -> None:
    class FailsOnce(Record):
        retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=1)

        async def execute(self) -> None:
            first = f"failed {self.n}" not in recording_tasks.ran
            recording_tasks.ran.append(f"failed {self.n}" if first else self.n)
            if first:
                await recording_tasks.go.wait()
                raise ValueError("once")

    mesh.register(Wait, FailsOnce, Record, RecordRealtime, RecordBackground)
    async with mesh.working():
        await Wait(1).schedule()
        await FailsOnce(2).schedule()
        await wait_until(lambda: recording_tasks.running and recording_tasks.ran, description="both run")
        await pause_queue(mesh)
        for task in (Record(3), RecordBackground(4), RecordRealtime(5)):
            await task.schedule()
        await wait_until(lambda: {4, 5} <= set(recording_tasks.ran), description="the other queues are served")
        recording_tasks.go.set()
        await wait_until(lambda: _left(mesh, 2), description="the one is settled; the retry and the new one wait")
        assert recording_tasks.ran[0] == "failed 2"
        assert set(recording_tasks.ran[1:]) == {1, 4, 5}
        await resume_queue(mesh)
        await wait_until(lambda: {2, 3} <= set(recording_tasks.ran), description="the rest is served")


async def _left(mesh: TaskMesh, count: int) -> bool:
    return await mesh.waiting() == count


async def test_a_burst_ends_without_what_is_paused(mesh: TaskMesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.register(Record, RecordBackground)
    await mesh.broker.schedule_many(Record(n) for n in range(20))
    await RecordBackground(20).schedule()
    await pause_queue(mesh)
    with caplog.at_level(logging.INFO, logger="diracx.tasks.worker"):
        assert (await mesh.burst()).processed == 1
    assert recording_tasks.ran == [20]
    assert f"the queue {QUEUE} is paused until it is resumed" in caplog.messages
    await resume_queue(mesh)
    assert (await mesh.burst()).processed == 20


async def test_whoever_starts_or_sets_up_meanwhile_finds_no_drift_and_lifts_no_pause(
    server: EmbeddedServer, mesh: TaskMesh
) -> None:
    until = datetime(2099, 1, 1, tzinfo=UTC)
    await pause_queue(mesh, until)
    assert await ensure(mesh.connection, assets(mesh.namespace)) == []
    async with TaskMesh.open(server.url, mesh.namespace.name) as another:
        await another.burst()
    assert paused_until(await info(mesh.connection, mesh.namespace)) == until


async def test_an_update_of_a_paused_queue_neither_lifts_nor_moves_its_pause(
    connection: Connection, topology: Namespace
) -> None:
    until = datetime(2099, 1, 1, tzinfo=UTC)
    await pause(connection, topology.tasks_stream, QUEUE, until)
    for changes in ({}, {"pause_until": None}, {"pause_until": "2098-01-01T00:00:00Z"}):
        await _edit(connection, topology, description="changed", **changes)
        assert paused_until(await info(connection, topology)) == until
        assert await ensure(connection, assets(topology)) == [f"updated consumer {QUEUE}: description"]
        assert paused_until(await info(connection, topology)) == until


async def test_an_update_that_read_the_pause_before_it_was_lifted_does_not_bring_it_back(
    connection: Connection, topology: Namespace
) -> None:
    await pause(connection, topology.tasks_stream, QUEUE, UNTIL_RESUMED)
    stale = (await info(connection, topology))["config"]["pause_until"]
    await resume(connection, topology.tasks_stream, QUEUE)
    await _edit(connection, topology, description="changed", pause_until=stale)
    assert paused_until(await info(connection, topology)) is None


async def _edit(connection: Connection, names: Namespace, **changes: Any) -> None:
    config = {**(await info(connection, names))["config"], **changes}
    subject = f"CONSUMER.CREATE.{names.tasks_stream}.{QUEUE}.{config['filter_subject']}"
    await connection.api(subject, {"stream_name": names.tasks_stream, "config": config})


async def test_a_pause_survives_a_server_that_is_killed(own_server: EmbeddedServer, namespace: str) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        await pause_queue(mesh)
    own_server.kill()
    own_server.start()
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        assert paused_until(await info(mesh.connection, mesh.namespace)) == UNTIL_RESUMED


async def test_the_status_says_which_queue_is_paused_and_until_when(mesh: TaskMesh) -> None:
    reader = StatusReader(mesh.connection, mesh.namespace)

    async def paused() -> dict[str, datetime]:
        status = (await reader.read()).status
        return {each.subject: each.paused_until for each in status.queues if each.paused_until is not None}

    subject = mesh.namespace.task_subject(Priority.NORMAL, Size.SMALL)
    for until in (await soon(mesh.connection, mesh.namespace, 3600), UNTIL_RESUMED):
        await pause_queue(mesh, until)
        assert await paused() == {subject: until}
    await pause_queue(mesh, await soon(mesh.connection, mesh.namespace, 0.2))

    async def over() -> bool:
        return not await paused()

    await wait_until(over, description="its time has come")
    assert "pause_until" in (await info(mesh.connection, mesh.namespace))["config"]


def test_the_end_of_a_pause_is_told_to_the_second() -> None:
    assert pause_end_text(datetime(2026, 12, 1, 6, 15, 0, 999999, tzinfo=UTC)) == "2026-12-01T06:15:00Z"
    assert pause_end_text(UNTIL_RESUMED) == "it is resumed"
