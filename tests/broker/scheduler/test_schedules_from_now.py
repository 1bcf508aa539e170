"""Schedules that answer from now, as DiracX's do, against a real server."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.testing import wait_until
from support.scheduling import SchedulingMesh, Ticks, more_than_once


class InASecond(TaskScheduleBase):
    asked = 0

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        InASecond.asked += 1
        return datetime.now(UTC) + timedelta(seconds=1)


class InAnHour(TaskScheduleBase):
    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(hours=1)


class Often(Ticks):
    default_schedule: ClassVar[TaskScheduleBase] = InASecond()


class Rarely(Ticks):
    default_schedule: ClassVar[TaskScheduleBase] = InAnHour()


async def more_than(mesh: SchedulingMesh, count: int) -> bool:
    return await mesh.waiting() > count


async def test_it_is_asked_once_for_each_occurrence_also_by_two_schedulers_and_over_restarts(
    mesh: SchedulingMesh,
) -> None:
    mesh.register(Often)
    InASecond.asked = 0
    for turn in range(2):
        async with mesh.scheduling(name=f"one-{turn}"), mesh.scheduling(name=f"two-{turn}"):
            seen = await mesh.waiting()
            await wait_until(partial(more_than, mesh, seen + 1), description="two occurrences", timeout=20)

    async def none_held() -> bool:
        return not await mesh.held()

    await wait_until(none_held, description="the last one has fallen due")
    arrived = await mesh.arrived()
    assert not more_than_once(arrived)
    dues = sorted(each.due for each in arrived)
    assert all(later - due >= timedelta(seconds=1) for due, later in itertools.pairwise(dues))
    assert InASecond.asked == len(arrived)


async def test_a_restart_does_not_put_the_known_occurrence_off(mesh: SchedulingMesh) -> None:
    mesh.register(Rarely)
    held = []
    for turn in range(3):
        async with mesh.scheduling(name=f"{turn}") as scheduler:
            await wait_until(lambda: scheduler.leads, description="it leads")
            await wait_until(mesh.held, description="its next occurrence is held")
            state = await mesh.schedule_state("Rarely")
            assert state is not None
            assert scheduler.next_occurrence in (None, *state.pending)
        held.append(await mesh.held())
    assert held[0] == held[1] == held[2]
    assert len(held[0]) == 1


async def test_an_error_harms_no_other_schedule(mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TaskScheduleBase):
        def next_occurrence(self) -> datetime:  # type: ignore[override]
            raise SystemExit(3)

    class Fails(Ticks):
        default_schedule: ClassVar[TaskScheduleBase] = Broken()

    mesh.register(Fails, Ticks)
    async with mesh.scheduling():
        await wait_until(lambda: more_than(mesh, 1), description="the other goes on")
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert (
        told == "test:Fails is not scheduled for now; its schedule is asked again every 60 s: "
        f"{Broken()} (SystemExit(3))"
    )
