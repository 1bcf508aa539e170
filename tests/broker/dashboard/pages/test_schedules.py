"""The page of schedules, beside a scheduler and a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.testing import wait_until
from support.dashboard_client import HOSTILE, Client, visiting
from support.scheduling import Hourly, OffByDefault, Report, SchedulingMesh, Ticks


class Odd(TaskScheduleBase):
    """An author's own schedule, with a name that others chose."""

    def next_occurrence(self, after: datetime | None = None) -> datetime:
        raise ValueError(HOSTILE)

    def __str__(self) -> str:
        return HOSTILE


class Oddly(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = Odd()

    async def execute(self) -> None:
        """Nothing."""


class Ends(Ticks):
    """Fails."""

    async def execute(self) -> None:
        raise ValueError("no mice")


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


@pytest.fixture
async def client(mesh: SchedulingMesh) -> AsyncIterator[Client]:
    async with visiting(mesh.connection, mesh.namespace, mesh.registry) as client:
        yield client


async def test_the_day_and_the_list_tell_what_is_due_and_what_is_not_and_why(
    mesh: SchedulingMesh, client: Client
) -> None:
    mesh.register(Hourly, Ticks, Report, OffByDefault)
    await mesh.configuration.write('vos: ["lhcb"]')
    before = await client.get("/schedules")
    assert "no scheduler has taken it up yet" in before.text
    async with mesh.scheduling():

        async def taken_up() -> bool:
            client.dashboard.mesh.forget()
            return "no scheduler has taken it up yet" not in (await client.get("/schedules")).text

        await wait_until(taken_up, description="the scheduler has taken them up")
    page = await client.get("/schedules")
    assert "test:Hourly every 3600 s" in page.text
    assert "test:Report for lhcb" in page.text
    assert "test:Ticks every 1 s" in page.text
    strips = [values for tag, values in page.tags if tag == "svg" and values.get("class") == "strip"]
    assert len(strips) == 3
    assert [str(values["aria-label"])[:12] for values in strips] == ["24 times, fr", "24 times, fr", "more than 96"]
    assert "off by default" in page.text


async def test_the_outcome_of_the_last_run_is_told(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Ends)
    async with mesh.scheduling(), mesh.working():

        async def told() -> bool:
            client.dashboard.mesh.forget()
            return "failed: ValueError" in (await client.get("/schedules")).text

        await wait_until(told, description="a run has failed", timeout=20)


async def test_vo_aware_tasks_without_a_vo_are_named(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Report)
    assert "no VO is known" in (await client.get("/schedules")).text


async def test_texts_of_others_are_harmless(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Oddly)
    page = await client.get("/schedules")
    page.assert_harmless()
    assert "<script>alert(1)</script>" in page.text


async def test_run_now_submits_one_more_run_after_a_question(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Hourly, Report)
    await mesh.configuration.write('vos: ["lhcb"]')
    confirmation = await client.confirm("run-now", task="test:Report", vo="lhcb")
    assert "One more run goes into normal-small at once" in confirmation.text
    assert await mesh.arrived() == []
    assert "submitted as" in (await client.do("run-now", task="test:Report", vo="lhcb")).text
    page = await client.do("run-now", task="test:Hourly")
    _, _, submitted = page.text.partition("submitted as ")
    assert f"/task?id={submitted.split()[0]}" in page.links
    assert [each.body for each in await mesh.arrived()] == [b'{"vo":"lhcb"}', b"{}"]
    forms = [form for form in (await client.get("/schedules")).forms if form.action == "/actions/run-now"]
    assert [dict(form.values) for form in forms] == [{"task": "test:Hourly"}, {"task": "test:Report", "vo": "lhcb"}]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"task": HOSTILE}, "alert(1)"),
        ({"task": "test:Report"}, "runs per VO"),
        ({"task": "test:Hourly", "vo": "lhcb"}, "does not run per VO"),
        ({"task": "test:Report", "vo": "\x1b"}, "cannot be printed"),
    ],
)
async def test_what_is_no_schedule_is_refused(
    mesh: SchedulingMesh, client: Client, values: dict[str, str], why: str
) -> None:
    mesh.register(Hourly, Report)
    page = await client.confirm("run-now", **values)
    assert page.status == 409
    assert why in page.text
    page.assert_harmless()


async def test_an_unknown_vo_or_entry_is_refused_with_the_near_names(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Hourly, Report)
    await mesh.configuration.write('vos: ["lhcb"]')
    assert "did you mean lhcb?" in (await client.do("run-now", task="test:Report", vo="lhbc")).text
    assert "has no entry 'Big'" in (await client.do("run-now", task="test:Hourly", entry="Big")).text
    assert await mesh.arrived() == []


async def test_only_who_may_act_runs_one(mesh: SchedulingMesh, client: Client) -> None:
    mesh.register(Hourly)
    values = [("task", "test:Hourly")]
    assert (await client.post("run-now", values)).status == 403
    async with visiting(mesh.connection, mesh.namespace, mesh.registry, acts=False) as observer:
        assert not [form for form in (await observer.get("/schedules")).forms if "run-now" in form.action]
        assert (await observer.confirm("run-now", *values)).status == 403
    assert await mesh.arrived() == []
