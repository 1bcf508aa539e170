"""The tasks of a soak run: each kind leaves something behind while it runs, and must leave nothing once it has ended.

The names of locks, owners and VOs never come twice: whatever keeps something for each name that it has seen grows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import ClassVar, Final

import probe
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLimiter,
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase

if probe.FOLDER_VARIABLE in os.environ:
    probe.start()


@dataclasses.dataclass
class Quick(BaseTask):
    """Succeeds at once."""

    number: int
    size = Size.SMALL

    async def execute(self) -> None:
        """Do nothing."""


@dataclasses.dataclass
class Locked(BaseTask):
    """Holds a lock and two limiters of its own name, and one that it shares with others."""

    number: int
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A new key each, and a reader and a writer of ten keys that many want."""
        shared = (SharedRWLock if self.number % 3 else ExclusiveRWLock)(JOB, "shared", self.number % 10)
        return [MutexLock(JOB, f"owner-{self.number}"), shared]

    @property
    def execution_limiters(self) -> list[BaseLimiter]:
        """Of keys that never come again."""
        return [
            ConcurrencyLimiter(JOB, f"site-{self.number}", limit=2),
            RateLimiter(JOB, f"rate-{self.number}", limit=5, window_seconds=2),
        ]

    async def execute(self) -> None:
        """Take a moment."""
        await asyncio.sleep(0.02)


@dataclasses.dataclass
class Crowded(BaseTask):
    """Finds its lock busy more often than not."""

    number: int
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A key that twenty tasks want, and then nobody."""
        return [MutexLock(JOB, f"crowd-{self.number // 20}")]

    async def execute(self) -> None:
        """Take a moment."""
        await asyncio.sleep(0.05)


@dataclasses.dataclass
class Fails(BaseTask):
    """Fails for good after two retries, and becomes a dead letter."""

    number: int
    size = Size.SMALL
    dlq_eligible = True
    retry_policy: ClassVar[RetryPolicyBase] = ExponentialBackoff(base_delay_seconds=0.3, max_retries=2)

    async def execute(self) -> None:
        """Fail with a message of its own."""
        raise ValueError(f"failure {self.number}")


@dataclasses.dataclass
class Late(BaseTask):
    """Is cancelled at its timeout, and dropped."""

    number: int
    size = Size.SMALL
    timeout_seconds = 0.2

    async def execute(self) -> None:
        """Wait for what never comes."""
        await asyncio.Event().wait()


@dataclasses.dataclass
class Blocks(BaseTask):
    """Blocks the thread that it has to itself."""

    number: int
    size = Size.MEDIUM

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A new key each."""
        return [MutexLock(JOB, f"block-{self.number}")]

    async def execute(self) -> None:
        """Block, and submit another task."""
        time.sleep(0.05)  # noqa: ASYNC251 - it is meant to block
        await Quick(self.number).schedule()


@dataclasses.dataclass
class LeavesThread(BaseTask):
    """Waits for a thread when its time is over."""

    number: int
    size = Size.MEDIUM
    timeout_seconds = 0.2

    async def execute(self) -> None:
        """Outlive the timeout."""
        await asyncio.to_thread(time.sleep, 1)


@dataclasses.dataclass
class Exits(BaseTask):
    """Raises what is no Exception, and becomes a dead letter."""

    number: int
    size = Size.MEDIUM
    dlq_eligible = True

    async def execute(self) -> None:
        """Ask the process to end."""
        raise SystemExit(2)


@dataclasses.dataclass
class Visits(PeriodicVoAwareBaseTask):
    """Runs for each VO, of which some come and go."""

    vo: str
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(5)

    async def execute(self) -> None:
        """Do nothing."""


class Ticks(PeriodicBaseTask):
    """Runs every three seconds."""

    size = Size.MEDIUM
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(3)

    async def execute(self) -> None:
        """Do nothing."""


SUBMITTED: Final[tuple[tuple[type[BaseTask], float], ...]] = (
    (Quick, 0.45),
    (Locked, 0.2),
    (Crowded, 0.1),
    (Fails, 0.08),
    (Late, 0.03),
    (Blocks, 0.08),
    (LeavesThread, 0.02),
    (Exits, 0.04),
)
"""What the producer submits, and the share of each."""

KINDS: Final[tuple[type[BaseTask], ...]] = (*(kind for kind, _ in SUBMITTED), Visits, Ticks)
