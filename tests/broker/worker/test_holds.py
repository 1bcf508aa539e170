"""`enabled: false` holds tasks that are submitted one by one, for all VOs or for one."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.job import Discarded, Held, Outcome, Succeeded
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, ConfigurationFollower
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, ran

HOLD = "tasks: {test:OfVo: {enabled: false}}"


@dataclasses.dataclass
class OfVo(Record):
    vo: str = ""


class ByHand(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        ran.append("by hand")


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


async def configure(mesh: TaskMesh, text: str) -> int:
    return await ConfigurationBucket(mesh.connection, mesh.namespace).write(text)


async def test_held_tasks_stay_uncounted_until_they_are_enabled_and_others_run(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="diracx.tasks.worker")
    mesh.register(OfVo, Record)
    outcomes: list[tuple[str, Outcome]] = []
    await configure(mesh, HOLD)
    ids = [await OfVo(n, "atlas").schedule(labels={"of": "atlas"}) for n in range(3)]
    async with mesh.working(on_outcome=lambda name, task_id, outcome: outcomes.append((task_id, outcome))):
        await Record(9).schedule()
        held = Held("tasks.test:OfVo.enabled")
        await wait_until(lambda: outcomes.count((ids[2], held)) > 3, description="it was held again and again")
        assert ran == [9], "the configuration is known before the first task"
        assert {task_id for task_id, outcome in outcomes if outcome == held} == set(ids)
        assert await mesh.attempts.keys() == []
        await configure(mesh, "tasks: {test:OfVo: {enabled: true}}")
        await wait_until(lambda: sorted(ran) == [0, 1, 2, 9], description="they run")
    assert sum(outcome == Succeeded() for _, outcome in outcomes) == 4
    lines = [record for record in caplog.records if "is held by tasks.test:OfVo.enabled: false" in record.message]
    assert lines[0].levelname == "INFO"
    assert len(lines) < len(outcomes) / 2, "about one line a second"


async def test_a_vo_may_be_held_and_a_vo_may_be_exempt(mesh: TaskMesh) -> None:
    mesh.register(OfVo)
    await configure(mesh, "tasks: {OfVo: {vos: {atlas: {enabled: false}}}}")
    await OfVo(1, "atlas").schedule()
    await OfVo(2, "lhcb").schedule()
    await mesh.burst()
    assert ran == [2]
    await configure(mesh, "tasks: {OfVo: {enabled: false, vos: {atlas: {enabled: true}}}}")
    await OfVo(3, "lhcb").schedule()
    async with mesh.working():
        await wait_until(lambda: 1 in ran, description="atlas is exempt")
    assert ran == [2, 1]
    await configure(mesh, "{}")
    async with mesh.working():
        await wait_until(lambda: 3 in ran, description="all are enabled")


async def test_a_burst_ends_when_only_held_tasks_are_left(mesh: TaskMesh) -> None:
    mesh.register(OfVo)
    await configure(mesh, HOLD)
    for n in range(5):
        await OfVo(n).schedule()
    worker = await mesh.burst(lock_retry_delay=timedelta(hours=1))
    assert worker.processed == 5, "each was looked at once"
    assert await mesh.residue() == {"tasks": 5, "in flight": 5}
    mesh.allows_residue = True


async def test_the_configuration_is_read_before_the_first_task(mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never_reads(self: ConfigurationFollower) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ConfigurationFollower, "run", never_reads)
    mesh.register(OfVo)
    await configure(mesh, HOLD)
    await OfVo(1).schedule()
    await mesh.burst(lock_retry_delay=timedelta(hours=1))
    assert ran == []
    mesh.allows_residue = True


async def test_a_periodic_task_that_is_submitted_by_hand_runs(mesh: TaskMesh) -> None:
    mesh.register(ByHand)
    await configure(mesh, "tasks: {test:ByHand: {enabled: false}}")
    await ByHand().schedule()
    await mesh.burst()
    assert ran == ["by hand"]


async def test_a_held_task_expires_all_the_same(mesh: TaskMesh) -> None:
    mesh.register(OfVo)
    outcomes: list[Outcome] = []
    await configure(mesh, HOLD)
    expires = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    await mesh.publish_by_hand(({"Task-Name": "test:OfVo", "Task-Expires": expires}, b'{"n": 1}'))
    async with mesh.working(on_outcome=lambda name, task_id, outcome: outcomes.append(outcome)):
        await wait_until(lambda: any(isinstance(each, Discarded) for each in outcomes), description="it is dropped")
    assert Held("tasks.test:OfVo.enabled") in outcomes
    assert ran == []
