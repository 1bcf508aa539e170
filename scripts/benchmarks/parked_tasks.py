"""The tasks of `parked`: one that fails and waits for an hour, one that fails until it is due, and a brief one."""

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
    """Fails, and is to be tried again in an hour."""

    owner_name: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=PARKED_SECONDS, max_retries=3)

    async def execute(self) -> None:
        """Fail."""
        raise ConnectionError("no route to example.org")


@dataclasses.dataclass
class Brief(BaseTask):
    """Takes some milliseconds, each its own, so that those which began together end one by one."""

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
    """A retry at the time that the error names."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Return that time."""
        return datetime.fromtimestamp(exception.due, UTC) if isinstance(exception, NotDueError) else None


@dataclasses.dataclass
class Due(BaseTask):
    """Fails until it is due, and writes each execution to standard output: its number, and how late it is in s."""

    number: int
    due: float
    """In seconds since the epoch."""

    size = Size.SMALL
    retry_policy = WhenDue()

    async def execute(self) -> None:
        """Fail, or be done."""
        now = time.time()
        print(json.dumps([self.number, now - self.due]), flush=True)
        if now < self.due:
            raise NotDueError(self.due)


def registry() -> TaskRegistry:
    """A registry with these, and the one that does nothing."""
    tasks = TaskRegistry()
    for task_class in (Noop, Brief, Parked, Due):
        tasks.add(f"bench:{task_class.__name__}", task_class)
    return tasks
