"""Tasks that run longer than their lease or their lock lasts, and tasks that block."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase

FOLDER = Path(os.environ["LONG_TASKS_FOLDER"])


def note(event: str) -> None:
    """Append one line to the journal, with the pid of this process."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{event} {os.getpid()}\n")


class AtOnce(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=0.1)


@dataclasses.dataclass
class BlocksThread(BaseTask):
    """Blocks its thread with `time.sleep`, which frees the GIL, under a lock of two seconds."""

    seconds: float

    size = Size.MEDIUM

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "sleeper", ttl_ms=2001)]

    async def execute(self) -> None:
        note("begin")
        time.sleep(self.seconds)  # noqa: ASYNC251 - it is meant to block
        note("end")


@dataclasses.dataclass
class Long(BaseTask):
    """Runs until the file `<pid>` exists; fails if the file has a text."""

    size = Size.SMALL
    retry_policy = AtOnce()

    async def execute(self) -> None:
        note("begin")
        end = FOLDER / str(os.getpid())
        try:
            while not end.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note("cancelled")
            raise
        note("end")
        if end.read_text():
            raise ValueError(end.read_text())


class LongOnThread(Long):
    size = Size.MEDIUM


class LongAndLarge(Long):
    size = Size.LARGE


@dataclasses.dataclass
class BlocksLoop(BaseTask):
    """Blocks the loop of all small tasks until the file `free` exists."""

    size = Size.SMALL

    async def execute(self) -> None:
        while not (FOLDER / "free").exists():
            time.sleep(0.02)  # noqa: ASYNC251 - the mistake that the worker reports
