"""Tasks that record their executions, for tests with workers in this process."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase

ran: list[Any] = []
"""The numbers of the tasks that were executed to their end."""
running: list[int] = []
"""The numbers of the `Wait` tasks that execute now."""
most_at_once: list[int] = []
"""How many of them executed at each start of one."""
attempts_seen: list[int] = []
"""The `attempt` of each call of `Soon`."""
go = asyncio.Event()
"""Ends every `Wait`."""


def reset() -> None:
    """Forget the last test. The event is made anew, since it belongs to the loop of its test."""
    global go
    go = asyncio.Event()
    for record in (ran, running, most_at_once, attempts_seen):
        record.clear()


class Soon(RetryPolicyBase):
    """One immediate retry; records its calls."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        attempts_seen.append(attempt)
        return datetime.now(UTC) if attempt < 1 else None


@dataclasses.dataclass
class Record(BaseTask):
    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        ran.append(self.n)


class RecordRealtime(Record):
    priority = Priority.REALTIME


class RecordBackground(Record):
    priority = Priority.BACKGROUND


@dataclasses.dataclass
class Wait(BaseTask):
    """Runs until the test sets `go`."""

    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        running.append(self.n)
        most_at_once.append(len(running))
        try:
            await go.wait()
        finally:
            running.remove(self.n)
        ran.append(self.n)


class WaitRealtime(Wait):
    priority = Priority.REALTIME


class WaitBackground(Wait):
    priority = Priority.BACKGROUND
