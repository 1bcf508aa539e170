"""The tasks of a chaos run. They record each step before they take it, so that the journal of a killed process is true.

Each process appends to a journal of its own, one `write` a line:
`<event> <task id> <kind> <number> <pid> <execution> <seconds>`, the execution counted by the process, the seconds by
CLOCK_BOOTTIME. The events: `begin`; `done`; `cancelled`; `failed <attempt> <retry at>`, written by the retry policy,
with `-` where it gives no retry; `submitted <child id>`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.submitter import current_task_id

FOLDER_VARIABLE: Final = "CHAOS_FOLDER"
SIZE_VARIABLE: Final = "CHAOS_SIZE"
RETRIES: Final = 3

_numbers = itertools.count(1)
_execution: ContextVar[int] = ContextVar("execution")


@functools.cache
def _journal(pid: int) -> int:
    path = Path(os.environ[FOLDER_VARIABLE]) / f"{pid}.journal"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(event: str, task: Journaled, execution: int, *more: object) -> None:
    """Append one line to the journal of this process."""
    pid = os.getpid()
    who = (current_task_id.get(), type(task).__name__, task.number, pid, execution)
    words = (event, *who, f"{boottime():.6f}", *more)
    os.write(_journal(pid), (" ".join(map(str, words)) + "\n").encode())


class PlannedError(Exception):
    """A planned failure, or a child that could not be submitted, with the execution that raised it."""

    def __init__(self, task: Journaled, execution: int, message: str) -> None:
        super().__init__(message)
        self.task = task
        self.execution = execution


class JournaledBackoff(RetryPolicyBase):
    """An exponential backoff that records its questions and answers."""

    backoff = ExponentialBackoff(base_delay_seconds=0.4, max_retries=RETRIES)

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Decide as the backoff does, and record the decision."""
        at = self.backoff.schedule_retry(attempt, exception)
        if isinstance(exception, PlannedError):
            wait = None if at is None else (at - datetime.now(UTC)).total_seconds()
            write(
                "failed",
                exception.task,
                exception.execution,
                attempt,
                "-" if wait is None else f"{boottime() + wait:.6f}",
            )
        return at


@dataclasses.dataclass
class Journaled(BaseTask):
    """Records when it began and when it ended."""

    number: int

    size = Size(os.environ.get(SIZE_VARIABLE, Size.SMALL.value))
    retry_policy: ClassVar[RetryPolicyBase] = JournaledBackoff()
    dlq_eligible = True

    async def execute(self) -> None:
        """Run `work` between two lines in the journal."""
        execution = next(_numbers)
        _execution.set(execution)
        write("begin", self, execution)
        try:
            await self.work()
        except asyncio.CancelledError:
            write("cancelled", self, execution)
            raise
        except Exception as error:
            raise PlannedError(self, execution, f"{type(error).__name__}: {error}") from error
        write("done", self, execution)

    async def work(self) -> None:
        """Do nothing; subclasses override this."""


class Quick(Journaled):
    """Succeeds at once."""


@dataclasses.dataclass
class Sleeps(Journaled):
    """Takes some time."""

    seconds: float = 0.0

    async def work(self) -> None:
        await asyncio.sleep(self.seconds)


@dataclasses.dataclass
class Recovers(Journaled):
    """Fails a few times. A file counts the failures, since a process may be killed."""

    times: int = 1

    async def work(self) -> None:
        tries = Path(os.environ[FOLDER_VARIABLE]) / f"{self.number}.tries"
        before = tries.stat().st_size if tries.exists() else 0
        if before < self.times:
            with tries.open("ab") as file:
                file.write(b".")
            raise ValueError(f"failure {before + 1} of {self.times}")


class Dies(Journaled):
    """Always fails, and becomes a dead letter."""

    async def work(self) -> None:
        raise ValueError("always")


class GivesUp(Dies):
    """Always fails, and becomes no dead letter."""

    dlq_eligible = False


class Submits(Journaled):
    """Submits another task."""

    async def work(self) -> None:
        child = await Child(self.number).schedule()
        write("submitted", self, _execution.get(), child)


class Child(Journaled):
    """Is submitted by another task."""


KINDS: Final[tuple[type[Journaled], ...]] = (Quick, Sleeps, Recovers, Dies, GivesUp, Submits, Child)
