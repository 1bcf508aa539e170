"""Tasks for later: held by the server, with nobody else there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.testing import wait_until
from support.scheduling import Delayed, SchedulingMesh, more_than_once

TASKS = 1_000


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        mesh.register(Delayed)
        yield mesh
        await mesh.remove()


async def submit_many(mesh: SchedulingMesh, due: datetime) -> None:
    await asyncio.gather(*(mesh.broker.submit(Delayed(number), at_time=due) for number in range(TASKS)))


async def all_arrived(mesh: SchedulingMesh) -> bool:
    return await mesh.waiting() >= TASKS


def check(lateness: list[float], *, within: float) -> None:
    assert min(lateness) >= 0, "one came early"
    assert sorted(lateness)[int(len(lateness) * 0.99)] < within


async def test_a_thousand_delayed_tasks_come_on_time_and_once(mesh: SchedulingMesh) -> None:
    await submit_many(mesh, datetime.now(UTC) + timedelta(seconds=5))
    await wait_until(lambda: all_arrived(mesh), description="all have come", timeout=15)
    arrived = await mesh.arrived()
    assert len(arrived) == TASKS
    assert not more_than_once(arrived)
    check([each.late for each in arrived], within=0.5)


async def test_a_thousand_delayed_tasks_survive_a_killed_server(own_server: EmbeddedServer, namespace: str) -> None:
    async with SchedulingMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Delayed)
        due = datetime.now(UTC) + timedelta(seconds=5)
        await submit_many(mesh, due)
        own_server.kill()
        own_server.start()
        await wait_until(lambda: mesh.connection.generation, description="connected again")
        back = max(datetime.now(UTC), due)
        await wait_until(lambda: all_arrived(mesh), description="all have come", timeout=20)
        arrived = await mesh.arrived()
        assert len(arrived) == TASKS
        assert not more_than_once(arrived)
        check([each.late for each in arrived], within=0.5 + (back - due).total_seconds())


async def test_a_cancelled_task_does_not_come(mesh: SchedulingMesh) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    kept, cancelled = [await mesh.broker.submit(Delayed(number), at_time=due) for number in range(2)]
    assert await mesh.broker.cancel(cancelled)
    await wait_until(mesh.waiting, description="the other one has come")
    assert [each.id for each in await mesh.arrived()] == [kept]


async def test_cancelling_says_whether_the_task_was_still_there(mesh: SchedulingMesh) -> None:
    task = await mesh.broker.submit(Delayed(0), at_time=datetime.now(UTC) + timedelta(hours=1))
    assert await mesh.broker.cancel(task)
    assert not await mesh.broker.cancel(task)
    assert not await mesh.broker.cancel("never there")
    fell_due = await mesh.broker.submit(Delayed(1), at_time=datetime.now(UTC) + timedelta(seconds=0.2))
    await wait_until(mesh.waiting, description="it has fallen due")
    assert not await mesh.broker.cancel(fell_due)
