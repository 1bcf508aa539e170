"""The periodic tasks: what they do, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diracx.tasks.testing import run_task
from gubbins.db.sql import LollygagDB
from gubbins.tasks.lollygag import OwnerCleanupTask, OwnerReportTask, SyncOwnersTask

HALF_PAST_FIVE = datetime(2026, 3, 1, 5, 30, tzinfo=UTC)


@pytest.fixture
async def three_owners(lollygag_db: LollygagDB) -> list[str]:
    names = ["alice", "bob", "carol"]
    for name in names:
        await run_task(SyncOwnersTask(name))
    return names


async def test_the_cleanup_looks_through_all_owners(three_owners: list[str]) -> None:
    assert await run_task(OwnerCleanupTask()) == three_owners


async def test_the_report_is_for_one_vo(three_owners: list[str]) -> None:
    assert await run_task(OwnerReportTask("lhcb")) == {"lhcb": three_owners}


def test_the_cleanup_runs_every_hour() -> None:
    assert OwnerCleanupTask.default_schedule.next_occurrence(HALF_PAST_FIVE) == datetime(2026, 3, 1, 6, tzinfo=UTC)


def test_the_report_runs_daily_at_six() -> None:
    schedule = OwnerReportTask.default_schedule
    six = schedule.next_occurrence(HALF_PAST_FIVE)
    assert six == datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert schedule.next_occurrence(six) == datetime(2026, 3, 2, 6, tzinfo=UTC)


def test_reports_for_two_vos_run_side_by_side() -> None:
    keys = {lock.key for vo in ("lhcb", "dteam") for lock in OwnerReportTask(vo).execution_locks}
    assert len(keys) == 2
