"""The tasks of `parked`: one that is parked for an hour, one that fails until it is due, and a brief one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from datetime import UTC, datetime

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from noop import Noop

PARKED_SECONDS = 3600.0
LONGEST_BRIEF_SECONDS = 0.02


@dataclasses.dataclass
class Parked(BaseTask):
    """Fails, and is retried in an hour."""

    owner_name: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=PARKED_SECONDS, max_retries=3)

    async def execute(self) -> None:
        """Fail."""
        raise ConnectionError("no route to example.org")


@dataclasses.dataclass
class Brief(BaseTask):
    """Takes a random number of milliseconds, so that tasks which began together end one by one."""

    owner_name: str

    size = Size.SMALL

    async def execute(self) -> None:
        """Wait."""
        await asyncio.sleep(random.uniform(0, LONGEST_BRIEF_SECONDS))


class NotDueError(Exception):
    """The task was executed before its time."""

    def __init__(self, due: float) -> None:
        super().__init__(f"not before {due:.3f}")
        self.due = due


class WhenDue(RetryPolicyBase):
    """Retries at the time in the error."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return the time in the error; None for other errors."""
        return datetime.fromtimestamp(exception.due, UTC) if isinstance(exception, NotDueError) else None


@dataclasses.dataclass
class Due(BaseTask):
    """Fails until it is due; prints for each execution its number and how many seconds late it is."""

    number: int
    due: float
    """In seconds since the epoch."""

    size = Size.SMALL
    retry_policy = WhenDue()

    async def execute(self) -> None:
        """Fail if it is not due yet."""
        now = time.time()
        print(json.dumps([self.number, now - self.due]), flush=True)
        if now < self.due:
            raise NotDueError(self.due)


def registry() -> TaskRegistry:
    """A registry of these tasks and `Noop`."""
    tasks = TaskRegistry()
    for task_class in (Noop, Brief, Parked, Due):
        tasks.add(f"bench:{task_class.__name__}", task_class)
    return tasks
