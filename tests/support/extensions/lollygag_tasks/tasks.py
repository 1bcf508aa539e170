"""The tasks of a small extension, for the tests of the console script."""

import asyncio
import dataclasses
import os
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.depends import DBDepends
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.lock_registry import LockedObjectType, register_locked_object_type
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.schedules import IntervalSeconds

LOLLYGAG = register_locked_object_type("lollygag")
FOLDER = Path(os.environ["LOLLYGAG_FOLDER"])


class _LollygagDB:
    def __init__(self, connection):
        self.connection = connection

    @classmethod
    async def transaction(cls):
        connection = sqlite3.connect(FOLDER / "owners.db")
        connection.execute("CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY, name TEXT)")
        try:
            yield cls(connection)
            connection.commit()
        finally:
            connection.close()

    async def insert_owner(self, name):
        return self.connection.execute("INSERT INTO owners (name) VALUES (?)", [name]).lastrowid


LollygagDB = Annotated[_LollygagDB, DBDepends(_LollygagDB.transaction)]


def note(line):
    """One line in the journal, which the test reads."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line}\n")


@dataclasses.dataclass
class SyncOwnersTask(BaseTask):
    owner_name: str

    priority = Priority.NORMAL
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=5, max_retries=3)
    dlq_eligible = True

    @property
    def execution_locks(self):
        return [MutexLock(LockedObjectType(LOLLYGAG), self.owner_name, ttl_ms=3000)]

    async def execute(self, lollygag_db: LollygagDB, **kwargs):
        note(f"sync {self.owner_name}")
        owner_id = await lollygag_db.insert_owner(self.owner_name)
        return owner_id  # noqa: RET504 - as in the guide


class OwnerCleanupTask(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self, **kwargs):
        return None


@dataclasses.dataclass
class Typed(BaseTask):
    when: datetime
    wait: timedelta
    key: UUID
    tags: list[int] = dataclasses.field(default_factory=list)

    size = Size.SMALL

    async def execute(self):
        return f"{self.when:%Y} {self.wait.total_seconds():g} {type(self.key).__name__} {self.tags}"


@dataclasses.dataclass
class Dies(BaseTask):
    why: str

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self, lollygag_db: LollygagDB):
        await lollygag_db.insert_owner("rolled back")
        raise ValueError(self.why)


class Retried(BaseTask):
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=5, max_retries=3)

    async def execute(self):
        raise ValueError("not yet")


class Exits(BaseTask):
    async def execute(self):
        raise SystemExit("out")


class Limited(BaseTask):
    timeout_seconds = 0.1

    async def execute(self):
        await asyncio.sleep(0.01)
        return "in time"


class AsksForRetry(BaseTask):
    async def execute(self):
        raise TaskRetryRequestedError("upstream not ready")


@dataclasses.dataclass
class Recovers(BaseTask):
    name: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0.05, max_retries=5)

    async def execute(self):
        note(f"try {self.name}")
        if (FOLDER / "journal").read_text().count(f"try {self.name}\n") < 3:
            raise RuntimeError("not yet")
        note(f"recovered {self.name}")


@dataclasses.dataclass
class Waits(BaseTask):
    """Runs until the file of its name exists."""

    name: str
    blocking: bool = False

    size = Size.SMALL

    @property
    def execution_locks(self):
        return [MutexLock(LockedObjectType(LOLLYGAG), self.name, ttl_ms=3000)]

    async def execute(self):
        note(f"begin {self.name}")
        try:
            while not (FOLDER / self.name).exists():
                if self.blocking:
                    time.sleep(0.02)  # noqa: ASYNC251 - that is the point
                else:
                    await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note(f"cancelled {self.name}")
            raise
        note(f"end {self.name}")
        return self.name


class Stubborn(BaseTask):
    size = Size.SMALL

    async def execute(self):
        note("begin stubborn")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                note("refused")


@dataclasses.dataclass
class Submits(BaseTask):
    owner_name: str

    size = Size.SMALL

    async def execute(self):
        return await SyncOwnersTask(self.owner_name).schedule()


class Unpreparable(BaseTask):
    size = Size.SMALL

    async def execute(self, database):
        return None


class NoDataclass(BaseTask):
    def __init__(self, owner_name):
        self.owner_name = owner_name

    async def execute(self):
        return None
