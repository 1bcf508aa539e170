"""Schedulers against a real server."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.scheduler.scheduler import Scheduler
from diracx.tasks.plumbing.schedules import RRuleSchedule, TaskScheduleBase
from diracx.tasks.testing import wait_until
from support.scheduling import Hourly, Report, SchedulingMesh, Ticks, more_than_once


async def settled(mesh: SchedulingMesh, task: str, vo: str = "", *, enabled: bool = True) -> None:
    """Wait until the schedule is stored as enabled or disabled."""

    async def is_settled() -> bool:
        state = await mesh.schedule_state(task, vo)
        return state is not None and state.enabled is enabled

    await wait_until(is_settled, description=f"{task} {vo} is {'enabled' if enabled else 'disabled'}")


async def test_an_occurrence_is_a_task_of_its_own_with_due_and_expiry(mesh: SchedulingMesh) -> None:
    mesh.register(Ticks)
    async with mesh.scheduling():
        await wait_until(mesh.waiting, description="an occurrence has fallen due")
    first = (await mesh.arrived())[0]
    assert first.headers["Task-Name"] == "test:Ticks"
    assert first.id == f"test:Ticks-{first.due:%Y%m%dT%H%M%SZ}"
    assert first.due.microsecond == 0
    assert datetime.fromisoformat(first.headers["Task-Expires"]) == first.due + timedelta(seconds=5)
    assert first.body == b"{}"
    assert 0 <= first.late < 1


async def test_every_occurrence_comes_once_while_two_schedulers_take_turns(mesh: SchedulingMesh) -> None:
    mesh.register(Ticks)
    for turn in range(3):
        async with mesh.scheduling(name=f"odd-{turn}") as odd, mesh.scheduling(name=f"even-{turn}") as even:
            await wait_until(partial(one_leads, odd, even), description="one of them leads")
            assert not (odd.leads and even.leads)
            seen = await mesh.waiting()
            await wait_until(partial(more_than, mesh, seen), description="an occurrence falls due while this pair runs")
    arrived = await mesh.arrived()
    assert not more_than_once(arrived)
    dues = sorted(each.due for each in arrived)
    assert all(b - a == timedelta(seconds=1) for a, b in itertools.pairwise(dues))


def one_leads(*schedulers: Scheduler) -> bool:
    return any(scheduler.leads for scheduler in schedulers)


async def more_than(mesh: SchedulingMesh, count: int) -> bool:
    return await mesh.waiting() > count


async def test_a_standby_leads_at_once_when_the_leader_stops_in_order(mesh: SchedulingMesh) -> None:
    mesh.register(Hourly)
    minute = timedelta(minutes=1)  # so long it would wait for a leader that vanished
    async with mesh.scheduling(name="second", takeover=minute) as second:
        await wait_until(lambda: second.leads, description="the only one leads")
        async with mesh.scheduling(name="first", takeover=minute) as first:
            second.stop()
            await wait_until(lambda: first.leads, description="the standby leads")


async def test_published_occurrences_fall_due_without_any_scheduler(mesh: SchedulingMesh) -> None:
    mesh.register(Ticks)
    async with mesh.scheduling():
        await settled(mesh, "Ticks")
    # The horizon reaches far beyond this.
    seen = await mesh.waiting()
    await wait_until(lambda: more_than(mesh, seen + 2), description="three more occurrences")
    assert not more_than_once(await mesh.arrived())


async def test_an_hourly_task_stays_hourly_through_restarts(mesh: SchedulingMesh) -> None:
    mesh.register(Hourly)
    held = set()
    for _ in range(3):
        async with mesh.scheduling():
            await settled(mesh, "Hourly")
        held |= set(await mesh.held())
    state = await mesh.schedule_state("Hourly")
    assert state is not None
    assert all(due.minute == due.second == 0 for due in state.pending)
    # Two, if the hour is about to end.
    assert len(held) in (1, 2)


async def test_vos_come_and_go_while_it_runs(mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.register(Report)
    line = "not scheduled, since no VO is known: test:Report; write `vos:` in the configuration, or give --vo NAME"
    async with mesh.scheduling():
        await wait_until(lambda: caplog.messages.count(line) == 1, description="the leader names the task without a VO")
        await mesh.configuration.write('vos: [lhcb, "my vo.org"]')
        await settled(mesh, "Report", "lhcb")
        await settled(mesh, "Report", "my vo.org")
        assert all(
            subject.startswith(("test.Report.lhcb.", "test.Report.my=20vo=2Eorg.")) for subject in await mesh.held()
        )
        await mesh.configuration.write("vos: [lhcb, atlas]")
        await settled(mesh, "Report", "atlas")
        await settled(mesh, "Report", "my vo.org", enabled=False)
        await wait_until(
            lambda: _none_held(mesh, "test.Report.my=20vo=2Eorg"), description="the occurrence is withdrawn"
        )
        assert {subject.split(".")[2] for subject in await mesh.held()} == {"lhcb", "atlas"}


async def _none_held(mesh: SchedulingMesh, prefix: str) -> bool:
    return not [subject for subject in await mesh.held() if subject.startswith(prefix)]


async def test_an_occurrence_for_a_vo_carries_the_vo(mesh: SchedulingMesh) -> None:
    mesh.register(Report)
    await mesh.configuration.write("tasks: {'test:Report': {schedule: {interval: 1}}}")
    async with mesh.scheduling("my vo.org"):
        await wait_until(mesh.waiting, description="an occurrence")
    arrived = (await mesh.arrived())[0]
    assert arrived.body == b'{"vo":"my vo.org"}'
    assert arrived.id.startswith("test:Report@my=20vo=2Eorg-")


async def test_a_disabled_schedule_stops_and_an_enabled_one_continues(mesh: SchedulingMesh) -> None:
    mesh.register(Ticks)
    async with mesh.scheduling():
        await wait_until(mesh.waiting, description="an occurrence")
        await mesh.configuration.write("tasks: {'test:Ticks': {enabled: false}}")
        await settled(mesh, "Ticks", enabled=False)
        await wait_until(lambda: _none_held(mesh, "test.Ticks"), description="everything is withdrawn")
        await mesh.configuration.write("tasks: {'test:Ticks': {enabled: true}}")
        await settled(mesh, "Ticks")
        assert await mesh.held()
    assert not more_than_once(await mesh.arrived())


async def test_a_task_that_another_scheduler_knows_is_left_alone(mesh: SchedulingMesh) -> None:
    mesh.register(Report)
    async with mesh.scheduling("lhcb"):
        await settled(mesh, "Report", "lhcb")
    held = await mesh.held()
    stranger = SchedulingMesh(mesh.broker)
    stranger.registry = type(mesh.registry)()
    stranger.register(Hourly)
    async with stranger.scheduling("atlas", name="stranger"):
        await settled(mesh, "Hourly")
        assert set(held) <= set(await mesh.held())
        await settled(mesh, "Report", "lhcb")


async def test_an_ended_rule_is_logged_once(mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture) -> None:
    class Over(Ticks):
        default_schedule: ClassVar[TaskScheduleBase] = RRuleSchedule(
            "DTSTART:20250101T120000Z RRULE:FREQ=HOURLY;COUNT=3"
        )

    mesh.register(Over)
    with caplog.at_level(logging.INFO, "diracx.tasks.scheduler"):
        for _ in range(2):
            async with mesh.scheduling():
                await settled(mesh, "Over")
    assert len([record for record in caplog.records if " ends" in record.message]) == 1
    assert not await mesh.held()


async def test_a_schedule_that_raises_is_logged_once_and_stops_no_other(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    class StandsStill(TaskScheduleBase):
        def next_occurrence(self, after: datetime | None = None) -> datetime:
            return datetime(2026, 1, 1, tzinfo=UTC)

    class Broken(Ticks):
        default_schedule: ClassVar[TaskScheduleBase] = StandsStill()

    @dataclasses.dataclass
    class Unmakeable(Ticks):
        number: int

    mesh.register(Broken, Unmakeable, Hourly, Ticks)
    async with mesh.scheduling():
        await settled(mesh, "Hourly")
        await wait_until(lambda: more_than(mesh, 1), description="the others go on")
    told = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 2
    assert "test:Unmakeable is not scheduled: it cannot be made without arguments" in told[0]
    assert re.search(
        r"test:Broken is not scheduled until its schedule is changed: .*StandsStill\(\) \(ValueError\(", told[1]
    )
    assert "does not advance" in told[1]
