"""Delayed naks: when they leave a worker, and when they do not. The tests listen to the naks that reach the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.settlement.nak_batcher import NakBatcher
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh
from support.pull_client import pulling

HOUR = timedelta(hours=1)


class Later(BaseTask):
    """Fails once, and would be retried in an hour."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=1)

    async def execute(self) -> None:
        raise ValueError("not now")


@asynccontextmanager
async def naks_heard(connection: Connection, names: Namespace) -> AsyncIterator[list[timedelta]]:
    """The delays of the naks that the server is told."""
    delays: list[timedelta] = []

    def note(message: Received) -> None:
        verb, _, options = message.data.partition(b" ")
        if verb == b"-NAK":
            delays.append(timedelta(microseconds=json.loads(options or b'{"delay": 0}')["delay"] / 1000))

    subscription = await connection.client.listen(f"$JS.ACK.{names.tasks_stream}.>", note)
    await connection.client.flush()
    yield delays
    await connection.client.leave(subscription)


async def leases(connection: Connection, names: Namespace, count: int, seconds: float = 60) -> list[Lease]:
    """Leases on messages that were really delivered."""
    async with pulling(connection, names) as puller:
        await puller.put(Priority.NORMAL, *map(str, range(count)))
        await wait_until(lambda: puller.probed(count), description="they are in flight")
        now = boottime()
        return [Lease(delivery, now, now + seconds, boottime) for delivery in puller.delivered]


async def test_delayed_naks_wait_for_the_flush_and_leave_together(connection: Connection, topology: Namespace) -> None:
    naks = NakBatcher(connection, interval=HOUR)
    async with naks_heard(connection, topology) as delays:
        for lease in await leases(connection, topology, 3):
            naks.send(lease, 2 * HOUR)
        await connection.client.flush()
        assert not delays
        naks.close()
        await wait_until(lambda: len(delays) == 3, description="they have left")
    assert all(HOUR < delay < 2 * HOUR for delay in delays), "counted from when it was asked for"


async def test_a_flush_comes_by_itself_also_for_naks_that_are_sent_after_it(
    connection: Connection, topology: Namespace
) -> None:
    naks = NakBatcher(connection)
    async with naks_heard(connection, topology) as delays:
        for number, lease in enumerate(await leases(connection, topology, 3), start=1):
            naks.send(lease, HOUR)
            await wait_until(lambda number=number: len(delays) == number, description="it has left")  # type: ignore[misc]


async def test_a_delay_shorter_than_the_flush_interval_does_not_wait(
    connection: Connection, topology: Namespace
) -> None:
    naks = NakBatcher(connection, interval=HOUR)
    async with naks_heard(connection, topology) as delays:
        for lease, delay in zip(await leases(connection, topology, 2), (timedelta(0), HOUR / 2), strict=True):
            naks.send(lease, delay)
        await wait_until(lambda: delays == [timedelta(0), HOUR / 2], description="they have left")


async def test_a_message_whose_lease_lapses_while_its_nak_waits_is_left_to_others(
    connection: Connection, topology: Namespace
) -> None:
    naks = NakBatcher(connection, interval=HOUR)
    async with naks_heard(connection, topology) as delays:
        ours, lapsed = await leases(connection, topology, 2)
        naks.send(lapsed, 3 * HOUR)
        naks.send(ours, 2 * HOUR)
        lapsed.deadline = boottime()
        naks.close()
        await wait_until(lambda: delays, description="the other has left")
    assert [delay < 2 * HOUR for delay in delays] == [True]


async def test_a_nak_that_waits_across_a_reconnect_is_dropped(
    own_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message may have been delivered to another worker by then."""
    caplog.set_level(logging.DEBUG, "diracx.tasks.worker")
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        naks = NakBatcher(mesh.connection, interval=HOUR)
        async with naks_heard(mesh.connection, mesh.namespace) as delays:
            before, meanwhile, after = await leases(mesh.connection, mesh.namespace, 3)
            naks.send(before, 4 * HOUR)
            await asyncio.to_thread(own_server.stop)
            await wait_until(lambda: not mesh.connection.is_connected, description="the connection is lost")
            naks.send(meanwhile, 3 * HOUR)
            await asyncio.to_thread(own_server.start)
            await wait_until(lambda: mesh.connection.generation == 1, description="connected again")
            naks.send(after, 2 * HOUR)
            naks.close()
            await wait_until(lambda: delays, description="one has left")
            await mesh.connection.client.flush()
        assert [delay < 2 * HOUR for delay in delays] == [True]
        assert "2 messages are not given back: the connection they came on was lost" in caplog.text


async def test_without_a_connection_no_nak_leaves(own_server: EmbeddedServer, namespace: str) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        naks = NakBatcher(mesh.connection, interval=HOUR)
        (lease,) = await leases(mesh.connection, mesh.namespace, 1)
        naks.send(lease, 2 * HOUR)
        await asyncio.to_thread(own_server.stop)
        await wait_until(lambda: not mesh.connection.is_connected, description="the connection is lost")
        naks.close()
        with pytest.raises(ServerUnavailableError):
            naks.send(lease, HOUR / 2)


@pytest.mark.parametrize("count", [1, 30])
async def test_a_worker_that_ends_leaves_none_behind(mesh: TaskMesh, count: int) -> None:
    mesh.register(Later)
    mesh.allows_residue = True
    await mesh.broker.schedule_many([Later()] * count)
    async with naks_heard(mesh.connection, mesh.namespace) as delays:
        await mesh.burst()
        await mesh.connection.client.flush()
        assert len(delays) == count
