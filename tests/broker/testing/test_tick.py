"""`Mesh.tick`: periodic tasks as if their time had come."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds, RRuleSchedule, TaskScheduleBase
from diracx.tasks.testing import Mesh, Succeeded

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@dataclasses.dataclass
class Report(PeriodicVoAwareBaseTask):
    vo: str
    default_schedule = CronSchedule("0 0 1 * *")

    async def execute(self) -> str:
        return f"report for {self.vo}"


@dataclasses.dataclass
class Cleanup(PeriodicBaseTask):
    folder: str = "tmp"
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> str:
        return f"clean {self.folder}"


class Once(PeriodicBaseTask):
    default_schedule = RRuleSchedule("DTSTART:20270101T003000Z RRULE:FREQ=DAILY;COUNT=1")

    async def execute(self) -> str:
        return "once"


class FromNow(TaskScheduleBase):
    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC)


class Backwards(TaskScheduleBase):
    def next_occurrence(self, after: datetime | None = None) -> datetime:
        return NEW_YEAR


class Naive(TaskScheduleBase):
    def next_occurrence(self, after: datetime | None = None) -> datetime:
        return datetime(2027, 1, 1)  # noqa: DTZ001


class Timeless(PeriodicBaseTask):
    default_schedule = FromNow()

    async def execute(self) -> None: ...


class Stuck(PeriodicBaseTask):
    default_schedule = Backwards()

    async def execute(self) -> None: ...


class Unaware(PeriodicBaseTask):
    default_schedule = Naive()

    async def execute(self) -> None: ...


@dataclasses.dataclass
class NeedsAValue(PeriodicBaseTask):
    folder: str
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None: ...


TASKS = (Report, Cleanup, Once, Timeless, Stuck, Unaware, NeedsAValue)


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    registry = TaskRegistry()
    for task_class in TASKS:
        registry.add(f"test:{task_class.__name__}", task_class)
    async with Mesh.on(server.url, namespace, registry) as mesh:
        yield mesh


async def test_a_task_runs_once_for_each_vo_when_its_time_has_come(mesh: Mesh) -> None:
    delivered = await mesh.tick(Report, to=NEW_YEAR, vos=["lhcb", "gridpp.ac.uk"])
    assert {(each.task, each.id, each.outcome) for each in delivered} == {
        ("test:Report", "test:Report@lhcb-20270101T000000Z", Succeeded("report for lhcb")),
        ("test:Report", "test:Report@gridpp=2Eac=2Euk-20270101T000000Z", Succeeded("report for gridpp.ac.uk")),
    }
    assert mesh.submitted() == [], "the schedule runs them, no code submits them"


async def test_a_tick_runs_what_fell_due_since_the_one_before_in_order(mesh: Mesh) -> None:
    tasks = (Report, Cleanup, Once)
    assert await mesh.tick(*tasks, to=NEW_YEAR - timedelta(minutes=1), vos=["lhcb"]) == []
    delivered = await mesh.tick(*tasks, to=NEW_YEAR + timedelta(hours=1), vos=["lhcb"])
    assert [each.id.rpartition("-")[2] for each in delivered] == ["20270101T000000Z"] * 2 + [
        "20270101T003000Z",
        "20270101T010000Z",
    ]
    assert {each.task for each in delivered[:2]} == {"test:Report", "test:Cleanup"}
    assert [each.outcome for each in delivered[2:]] == [Succeeded("once"), Succeeded("clean tmp")]
    assert await mesh.tick(*tasks, to=NEW_YEAR + timedelta(hours=1, minutes=59), vos=["lhcb"]) == []


async def test_the_configuration_of_the_mesh_counts(mesh: Mesh) -> None:
    await ConfigurationBucket(mesh.broker.connection, mesh.broker.namespace).write(
        "vos: [lhcb]\n"
        "tasks:\n"
        "  test:Cleanup:\n"
        "    entries:\n"
        "      scratch: {schedule: {interval: 60}, args: {folder: scratch}}\n"
        "      home: {enabled: false, args: {folder: home}}\n"
    )
    await mesh.tick(Cleanup, Report, to=NEW_YEAR - timedelta(seconds=30))
    delivered = await mesh.tick(Cleanup, Report, to=NEW_YEAR + timedelta(seconds=90))
    assert [each.id for each in delivered if each.task == "test:Cleanup"] == [
        "test:Cleanup+scratch-20270101T000000Z",
        "test:Cleanup+scratch-20270101T000100Z",
    ]
    assert [each.outcome for each in delivered if each.task == "test:Report"] == [Succeeded("report for lhcb")]


async def test_a_tick_that_cannot_tell_what_is_due_says_what_to_change(mesh: Mesh) -> None:
    hour = timedelta(hours=1)
    with pytest.raises(ValueError, match=r"give an aware datetime, e\.g\. datetime\(2027, 1, 1, tzinfo=UTC\)"):
        await mesh.tick(Cleanup, to=datetime(2027, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"test:Report runs once for each VO: name them, e\.g\. tick\(\.\.\., vos="):
        await mesh.tick(Report, to=NEW_YEAR)
    with pytest.raises(ValueError, match=r"vos is the text 'lhcb'; give a list, \['lhcb'\]"):
        await mesh.tick(Report, to=NEW_YEAR, vos="lhcb")
    with pytest.raises(ValueError, match=r"^test:Timeless: FromNow\(\) answers from now"):
        await mesh.tick(Timeless, to=NEW_YEAR)
    with pytest.raises(ValueError, match=r"^Naive\(\): next_occurrence gave .* return an aware datetime"):
        await mesh.tick(Unaware, to=NEW_YEAR)
    with pytest.raises(ValueError, match=r"^test:NeedsAValue is not scheduled: it cannot be made without arguments"):
        await mesh.tick(NeedsAValue, to=NEW_YEAR)
    await mesh.tick(Once, to=NEW_YEAR)
    with pytest.raises(ValueError, match=r"tick before went to 2027-01-01T00:00:00\+00:00, give a later time"):
        await mesh.tick(Cleanup, to=NEW_YEAR)
    with pytest.raises(ValueError, match=r"^Backwards\(\) does not advance"):
        await mesh.tick(Stuck, to=NEW_YEAR + hour)
    with pytest.raises(ValueError, match=r"more than 1000 occurrences since 2027-01-01.*, many of test:Cleanup"):
        await mesh.tick(Cleanup, to=NEW_YEAR + 2000 * hour)


async def test_a_tick_takes_installed_periodic_tasks_only(mesh: Mesh) -> None:
    class Elsewhere(Cleanup): ...

    with pytest.raises(TaskDefinitionError, match=r"Elsewhere'> is no installed periodic task; list its class in"):
        await mesh.tick(Elsewhere, to=NEW_YEAR)
