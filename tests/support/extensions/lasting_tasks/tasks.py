"""Tasks that outlast what they are given: a lease, a lock, the patience of the loop."""

import asyncio
import dataclasses
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase

FOLDER = Path(os.environ["LASTING_FOLDER"])


def note(line):
    """One line in the journal, in one write, with the process that it comes from."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line} {os.getpid()}\n")


class AtOnce(RetryPolicyBase):
    def schedule_retry(self, attempt, exception):
        return datetime.now(UTC) + timedelta(seconds=0.1)


@dataclasses.dataclass
class Sleeps(BaseTask):
    """Holds up its thread, and frees the GIL."""

    seconds: float

    size = Size.MEDIUM

    @property
    def execution_locks(self):
        return [MutexLock(JOB, "sleeper", ttl_ms=2001)]

    async def execute(self):
        note("begin")
        time.sleep(self.seconds)  # noqa: ASYNC251 - that is the point
        note("end")


@dataclasses.dataclass
class Lasts(BaseTask):
    """Runs until the file `<pid>` exists, and fails if that says so."""

    size = Size.SMALL
    retry_policy = AtOnce()

    async def execute(self):
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


class LastsOnAThread(Lasts):
    size = Size.MEDIUM


@dataclasses.dataclass
class HoldsUp(BaseTask):
    """Holds up the loop of all small tasks until the file `free` exists."""

    size = Size.SMALL

    async def execute(self):
        while not (FOLDER / "free").exists():
            time.sleep(0.02)  # noqa: ASYNC251 - the bug that is to be named
