"""What an operator does in the browser."""

from __future__ import annotations

import asyncio
import logging

import pytest

from diracx.tasks.dashboard import actions
from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.snapshot import Counters
from support.dashboards import signed_in
from support.mesh import TaskMesh


class Waits(BaseTask):
    """Runs until it is cancelled."""

    size = Size.SMALL

    async def execute(self) -> None:
        await asyncio.Event().wait()


async def test_a_queue_is_paused_for_a_time_and_resumed(
    connection: Connection, topology: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diracx.tasks.dashboard")
    async with signed_in(connection, topology) as site:
        assert "0 tasks wait in it" in await site.text("/actions/pause", queue="normal-small")
        told = await site.act("pause", {"seconds": "900"}, queue="normal-small")
        assert told.startswith("normal-small is paused until 20")
        assert "paused until 20" in await site.text("/")
        assert await site.act("resume", queue="normal-small") == "normal-small is resumed"
        assert await site.act("resume", queue="normal-small") == "normal-small was not paused"
        assert await site.act("pause", queue="background-large") == "background-large is paused until it is resumed"
    assert "the holder of the token: Pause normal-small" in caplog.text


async def test_what_cannot_be_done_is_said_in_a_line(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        answer = await site.client.get("/actions/pause", params={"queue": "<b>nothing</b>"})
        assert answer.status_code == 409
        assert "&lt;b&gt;nothing&lt;/b&gt;&#39; is no queue" in answer.text
        values = await site.form("/actions/pause", queue="normal-small")
        made_up = await site.client.post("/actions/pause", data=values | {"seconds": "12"})
        page = await site.client.get(made_up.headers["location"])
        assert "this duration is none of those on offer" in page.text
        assert (await site.client.get("/actions/cancel")).status_code == 409
        answer = await site.client.get("/actions/cancel", params={"id": "none"})
        assert (answer.status_code, "one cannot be cancelled" in answer.text) == (409, True)


async def test_a_task_is_cancelled_while_it_waits_and_while_it_runs(mesh: TaskMesh) -> None:
    mesh.register(Waits)
    mesh.allows_residue = True
    async with signed_in(mesh.connection, mesh.namespace, registry=mesh.registry) as site:
        waiting = await Waits().schedule()
        assert "it is dropped when its turn comes" in await site.text("/actions/cancel", id=waiting)
        assert await site.act("cancel", id=waiting) == "it is dropped when its turn comes"
        assert "Cancel this task" not in await site.text("/task", id=waiting)
        async with mesh.working() as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
            running = await Waits().schedule()
            await site.sees("task", "document", "running", id=running)
            assert "its code is told to end" in await site.text("/actions/cancel", id=running)
            assert await site.act("cancel", id=running) == "it is cancelled, and has ended"


class Slow:
    """An action that takes until it is let go."""

    name = "slow"

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        return Plan(title="Be slow", sentences=["It takes long."], button="Do it", back="/tasks", values=[])

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        job.total, job.done = 10, 4
        await self.go.wait()
        if values.get("fail") == "refused":
            raise RefusedError("nobody wants that")
        if values.get("fail"):
            raise ValueError("a bug")
        return "all of it is done"


@pytest.mark.parametrize(
    ("fail", "text"),
    [("", "All of it is done"), ("refused", "Nobody wants that"), ("bug", "An unforeseen error")],
)
async def test_an_action_that_takes_long_shows_its_progress_and_then_its_result(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch, fail: str, text: str
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.0)
    slow = Slow()
    async with signed_in(connection, topology) as site:
        site.dashboard._actions["slow"] = slow
        values = await site.form("/actions/slow")
        answer = await site.client.post("/actions/slow", data=values | {"fail": fail})
        path, _, job = answer.headers["location"].partition("?id=")
        assert path == "/job"
        assert "4 of 10" in await site.text(path, id=job)
        ended = asyncio.create_task(site.sees("job", "progress", text, id=job))
        slow.go.set()
        await ended


async def test_a_job_that_goes_on_is_known_however_many_others_come_after_it(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.05)
    monkeypatch.setattr(actions, "MAX_JOBS", 2)
    slow = Slow()
    async with signed_in(connection, topology) as site:
        site.dashboard._actions["slow"] = slow
        answer = await site.client.post("/actions/slow", data=await site.form("/actions/slow"))
        job = answer.headers["location"].partition("?id=")[2]
        for _ in range(4):
            await site.act("resume", queue="normal-small")
        assert "4 of 10" in await site.text("/job", id=job)
        assert [each.id for each in site.dashboard.jobs.running()] == [job]
        assert len(site.dashboard.jobs._jobs) == 2
        slow.go.set()
        await site.sees("job", "progress", "All of it is done", id=job)


async def test_the_end_of_the_dashboard_breaks_an_action_off(
    connection: Connection,
    topology: Namespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", 0.0)
    async with signed_in(connection, topology) as site:
        site.dashboard._actions["slow"] = Slow()
        values = await site.form("/actions/slow")
        await site.client.post("/actions/slow", data=values)
    assert "Be slow: broken off after 4 of 10" in caplog.text


async def test_a_button_that_is_pressed_twice_acts_once(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        first, second = [await site.form("/actions/pause", queue="normal-small") for _ in range(2)]
        answers = [
            await site.client.post("/actions/pause", data=each | {"seconds": ""}) for each in (first, first, second)
        ]
        told = [answer.headers["location"].rpartition("=")[2] for answer in answers]
        assert told[0] == told[1] != told[2]
