"""How a scheduler ends: when it is stopped in the middle of a round, or when a part of it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import BackgroundEndedError, ServerUnavailableError
from diracx.tasks.plumbing.locks import AcquiredKey
from diracx.tasks.plumbing.operations.scheduler_service import SchedulerHealth
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.scheduler import scheduler as scheduler_module
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import BACKEND_URL, VirtualOrganisations
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.scheduling import Report, SchedulingMesh, Ticks

LEADER_KEY = "leader.task.scheduler"


class BrokenError(BaseException):
    """No `except Exception` takes it for an error of a single request."""


async def breaks(*args: Any) -> Any:
    raise BrokenError("boom")


async def test_a_scheduler_leads_only_once_it_has_read_the_configuration(
    mesh: SchedulingMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Ticks, Report)
    await mesh.configuration.write("vos: [lhcb]\ntasks: {test:Ticks: {enabled: false}}")
    read, tries = ConfigurationBucket.read, 0

    async def fails_twice(bucket: ConfigurationBucket) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ServerUnavailableError("no answer")
        problems.append(scheduler.problem)
        return await read(bucket)

    problems: list[str | None] = []
    monkeypatch.setattr(ConfigurationBucket, "read", fails_twice)
    async with mesh.scheduling() as scheduler:
        await wait_until(mesh.held, description="the enabled one is supplied")
        assert tries > 2
        assert await mesh.schedule_state("Ticks") is None
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "the configuration cannot be read yet: no answer" in told
    assert problems[0] == "the configuration cannot be read yet: no answer"
    assert scheduler.problem is None


@pytest.mark.parametrize(
    ("owner", "method", "name"),
    [(ConfigurationBucket, "read", "configuration follower"), (AcquiredKey, "renew", "lock renewal")],
)
async def test_a_scheduler_whose_part_ends_gives_up_the_leadership_and_ends(
    mesh: SchedulingMesh,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    method: str,
    name: str,
) -> None:
    mesh.register(Ticks)
    scheduler = mesh.scheduler()
    running = asyncio.create_task(scheduler.run())
    await wait_until(mesh.waiting, description="an occurrence")
    monkeypatch.setattr(owner, method, breaks)
    with pytest.raises(BackgroundEndedError, match=f"{name} ended: BrokenError: boom"):
        await asyncio.wait_for(running, 15)
    assert not scheduler.leads
    assert LEADER_KEY not in await mesh.locks.keys(), "a standby can lead at once"
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.getMessage().startswith(f"{name} ended: BrokenError: boom; the process ends")
    assert record.exc_info is not None


@pytest.mark.parametrize("how", ["stop", "stop_now"])
async def test_a_round_that_does_not_end_is_broken_off_and_the_leadership_given_up(
    mesh: SchedulingMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    reading = asyncio.Event()

    async def never_answers(store: JetStreamScheduleStore) -> Any:
        reading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(JetStreamScheduleStore, "read_all", never_answers)
    if how == "stop":
        monkeypatch.setattr(scheduler_module, "STOP_SECONDS", 0.2)
    async with mesh.scheduling() as scheduler:
        await reading.wait()
        getattr(scheduler, how)()
        scheduler.stop()
    assert "the round in progress was broken off" in caplog.text
    assert LEADER_KEY not in await mesh.locks.keys()


async def test_a_scheduler_that_was_stopped_before_it_ran_never_leads(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = mesh.scheduler()
    scheduler.stop_now()
    with caplog.at_level(logging.INFO, "diracx.tasks.scheduler"):
        await scheduler.run()
    assert "is the leader" not in caplog.text


async def test_a_time_out_of_another_kind_is_an_error(mesh: SchedulingMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    async def times_out(store: JetStreamScheduleStore) -> Any:
        raise TimeoutError("of its own")

    monkeypatch.setattr(JetStreamScheduleStore, "read_all", times_out)
    with pytest.raises(TimeoutError, match="of its own"):
        await mesh.scheduler().run()


class HangingGit:
    """A source of the VOs whose git answers when it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def latest_revision(self) -> tuple[str, datetime]:
        self.asked += 1
        self.let_go.wait()
        return "a revision", datetime.now(UTC)

    def read_raw(self, hexsha: str, modified: datetime) -> Any:
        return SimpleNamespace(registry={"atlas": {}})


async def test_a_git_that_hangs_holds_up_no_schedule_and_no_stop_and_fails_the_health(mesh: SchedulingMesh) -> None:
    mesh.register(Ticks, Report)
    async with mesh.scheduling("lhcb"):
        await wait_until(lambda: mesh.schedule_state("Report", "lhcb"), description="a VO is scheduled")
    git, clock = HangingGit(), ManualClock()
    vos = VirtualOrganisations(environ={BACKEND_URL: "git+file:///cs"}, clock=clock, opener=lambda url: git)
    try:
        async with mesh.scheduling(vos=vos) as scheduler:
            health = SchedulerHealth(scheduler, mesh.connection)
            await wait_until(lambda: more_waiting(mesh, 2), description="other schedules go on")
            assert health.why_not_live() is None
            clock.now = 90
            assert "git has not answered for 90 s" in (health.why_not_live() or "")
            state = await mesh.schedule_state("Report", "lhcb")
            assert state is not None
            assert state.enabled, "a VO counts as removed only once the VOs are known"
            git.let_go.set()
            await wait_until(lambda: mesh.schedule_state("Report", "atlas"), description="the answer counts after all")
            assert health.why_not_live() is None
            git.let_go.clear()
            asked, clock.now = git.asked, 100
            await wait_until(lambda: git.asked > asked, description="git is asked again, and hangs")
    finally:
        git.let_go.set()


async def more_waiting(mesh: SchedulingMesh, count: int) -> bool:
    return await mesh.waiting() > count
