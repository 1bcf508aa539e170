"""Tasks of virtual organisations: one that is periodic, and one whose executions are limited."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter
from diracx.tasks.plumbing.schedules import IntervalSeconds

FOLDER = Path(os.environ["VO_TASKS_FOLDER"])


def note(line: str) -> None:
    """Append one line to the journal, which the test reads."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line}\n")


@dataclasses.dataclass
class ReportTask(PeriodicVoAwareBaseTask):
    vo: str

    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class TransferTask(BaseTask):
    """Runs until the file `go` exists."""

    vo: str
    number: int

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(TASK, "TransferTask")]

    async def execute(self) -> None:
        note(f"begin {self.vo}")
        while not (FOLDER / "go").exists():  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(0.02)
