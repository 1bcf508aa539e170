"""Tasks that fail on purpose, to see what becomes of them."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff


@dataclasses.dataclass
class FailsTwiceTask(BaseTask):
    """Asks twice for a retry, then succeeds, as when a service upstream is not ready yet."""

    tally: str
    """Path of a file that gets a byte for each execution: it remembers what a rolled back transaction would not."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0.5, max_retries=5)
    dlq_eligible = True

    async def execute(self) -> int:
        """Return how often it was executed."""
        executions = await asyncio.to_thread(_count, Path(self.tally))
        if executions <= 2:
            raise TaskRetryRequestedError(f"upstream not ready at execution {executions}")
        return executions


@dataclasses.dataclass
class FailsAlwaysTask(BaseTask):
    """Fails until its retries are used up, and ends as a dead letter."""

    reason: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0.5, max_retries=1)
    dlq_eligible = True

    async def execute(self) -> None:
        """Raise."""
        raise ValueError(self.reason)


def _count(tally: Path) -> int:
    with tally.open("ab") as file:
        file.write(b".")
        return file.tell()
