"""Leases on a real server: what keeps a message, what loses it, and what an outage does to it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import time

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.testing import wait_until
from support.deliveries import first_delivery
from support.mesh import TaskMesh

ACK_WAIT = 2.0
began: list[str] = []
ended: list[str] = []
cancelled: list[str] = []
go: asyncio.Event


@pytest.fixture(autouse=True)
async def fresh() -> None:
    global go
    go = asyncio.Event()
    for record in (began, ended, cancelled):
        record.clear()


@dataclasses.dataclass
class Long(BaseTask):
    seconds: float
    size = Size.SMALL

    async def execute(self) -> None:
        began.append("long")
        await asyncio.sleep(self.seconds)
        ended.append("long")


@dataclasses.dataclass
class Waits(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        began.append("waits")
        try:
            await go.wait()
        except asyncio.CancelledError:
            cancelled.append("waits")
            raise
        ended.append("waits")


@dataclasses.dataclass
class Blocks(BaseTask):
    """Holds up the loop past the lease."""

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        began.append("blocks")
        time.sleep(2 * ACK_WAIT)  # noqa: ASYNC251 - the bug of a task that is tested here
        go.set()
        ended.append("blocks")


async def test_a_task_of_three_times_its_lease_runs_once(mesh: TaskMesh) -> None:
    mesh.register(Long)
    await mesh.set_ack_wait(ACK_WAIT)
    await Long(3 * ACK_WAIT).schedule()
    async with mesh.working(), mesh.working():
        await wait_until(lambda: _settled(mesh), description="it is settled", timeout=30)
    assert (began, ended) == (["long"], ["long"])


async def test_a_task_that_blocks_the_loop_past_its_lease_fails_and_costs_its_neighbours_only_time(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mesh.register(Waits, Blocks)
    await mesh.set_ack_wait(ACK_WAIT)
    await Waits().schedule()
    async with mesh.working() as worker:
        await wait_until(lambda: began == ["waits"], description="a bystander runs")
        await Blocks().schedule()
        await wait_until(lambda: _settled(mesh), description="both are settled", timeout=30)
        await wait_until(lambda: worker.processed == 2, description="the records are deleted, too")
    assert began == ["waits", "blocks"]
    assert ended == ["blocks", "waits"]
    (letter,) = await mesh.dead_letters()
    error = DeadLetter.from_message(letter).errors[-1]
    assert error.type == "diracx.tasks.plumbing.exceptions.LoopHeldUpError"
    assert re.match(r"blocked the loop for \d s, longer than its lease: declare it MEDIUM", error.message)
    assert "the event loop is held up: leases and locks are kept from another thread" in caplog.text
    mesh.allows_residue = True


async def test_a_task_that_runs_through_a_restart_of_the_server_is_settled_and_runs_once(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Waits)
        await Waits().schedule()
        async with mesh.working():
            await wait_until(lambda: began, description="it runs")
            await asyncio.to_thread(own_server.restart)
            await wait_until(lambda: mesh.connection.generation == 1, description="connected again")
            go.set()
            await wait_until(lambda: _settled(mesh), description="it is settled")
        assert (began, ended) == (["waits"], ["waits"])
        assert not await mesh.residue()


async def test_a_task_that_ends_while_the_server_is_away_is_settled_when_it_is_back(
    own_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Waits)
        await Waits().schedule()
        async with mesh.working():
            await wait_until(lambda: began, description="it runs")
            await asyncio.to_thread(own_server.kill)
            await wait_until(lambda: not mesh.connection.is_connected, description="the outage was noticed")
            go.set()
            await wait_until(lambda: "test:Waits waits for the server" in caplog.text, description="it waits")
            await asyncio.to_thread(own_server.start)
            await wait_until(lambda: mesh.connection.generation == 1, description="connected again")
            await wait_until(lambda: _settled(mesh), description="it is settled")
        assert (began, ended) == (["waits"], ["waits"])
        assert not await mesh.residue()


async def test_a_task_that_ends_in_the_very_moment_of_an_outage_does_not_hold_the_loop(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:

        class EndsWithTheConnection(Waits):
            async def execute(self) -> None:
                began.append("ends")
                # The client knows at once, and tells nobody for some turns of the loop.
                while mesh.connection.client.is_connected:  # noqa: ASYNC110
                    await asyncio.sleep(0)

        mesh.register(EndsWithTheConnection)
        await EndsWithTheConnection().schedule()
        async with mesh.working():
            await wait_until(lambda: began, description="it runs")
            await asyncio.to_thread(own_server.restart)
            await wait_until(lambda: mesh.connection.generation == 1, description="connected again")
            await wait_until(lambda: _settled(mesh), description="it is settled")
        assert began == ["ends"]


async def test_a_worker_goes_on_pulling_after_a_restart_of_the_server(
    own_server: EmbeddedServer, namespace: str
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Long)
        async with mesh.working(slots=1):
            for restarts in range(3):
                await wait_until(
                    lambda expected=restarts: mesh.connection.generation == expected,  # type: ignore[misc]
                    description="connected again",
                )
                await Long(0).schedule()
                await wait_until(
                    lambda expected=restarts: len(ended) == expected + 1,  # type: ignore[misc]
                    description="it ran",
                )
                await asyncio.to_thread(own_server.restart)


async def _settled(mesh: TaskMesh) -> bool:
    return await mesh.waiting() == 0


async def test_outages_longer_than_the_lease_of_a_healthy_task_are_no_crashes(
    own_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TaskMesh.open(own_server.url, namespace) as mesh:
        mesh.register(Waits)
        await mesh.set_ack_wait(1)
        await Waits().schedule()
        # Its first execution is not counted; the next ones are.
        async with mesh.working():
            for outages in range(1, 4):
                await wait_until(lambda n=outages: len(began) == n, description="it runs")  # type: ignore[misc]
                await asyncio.to_thread(own_server.kill)
                await wait_until(
                    lambda n=outages: caplog.text.count("left test:Waits unsettled: the lease") == n,  # type: ignore[misc]
                    description="its lease lapsed",
                )
                await asyncio.to_thread(own_server.start)
            await wait_until(lambda: len(began) == 4, description="it runs")
            await wait_until(lambda: _crashes_are(mesh, 1), description="the present execution alone is unended")
            go.set()
            await wait_until(lambda: _settled(mesh), description="it is settled")
        assert cancelled == ["waits"] * 3
        assert not await mesh.residue()


async def _crashes_are(mesh: TaskMesh, count: int) -> bool:
    return (await AttemptStore(mesh.attempts).read(await first_delivery(mesh, 1))).record.crashes == count
