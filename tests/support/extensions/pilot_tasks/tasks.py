"""Periodic tasks that note their arguments in a journal."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

from diracx.tasks.plumbing.base_task import PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase


def note(line: str) -> None:
    with Path("journal").open("a") as journal:
        journal.write(line + "\n")


@dataclasses.dataclass
class SubmitPilots(PeriodicVoAwareBaseTask):
    vo: str
    ce_regex: str = "any"
    count: int = 1

    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        note(f"{self.vo} {self.ce_regex} {self.count}")


class DummyMonitor(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(1)
    _enabled = False

    async def execute(self) -> None:
        note("dummy")


class InASecond(TaskScheduleBase):
    """As DiracX has them: without `after`, and without a text."""

    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + timedelta(seconds=1)


class AsksFromNow(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = InASecond()

    async def execute(self) -> None:
        note("from now")
