"""The tasks of a small extension, for the tests of the console script."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.depends import CallbackSpawner, DBDepends
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.lock_registry import LockedObjectType, register_locked_object_type
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.schedules import IntervalSeconds

LOLLYGAG = register_locked_object_type("lollygag")
FOLDER = Path(os.environ["LOLLYGAG_FOLDER"])


class _LollygagDB:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @classmethod
    async def transaction(cls) -> AsyncIterator[_LollygagDB]:
        connection = sqlite3.connect(FOLDER / "owners.db")
        connection.execute("CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY, name TEXT)")
        try:
            yield cls(connection)
            connection.commit()
        finally:
            connection.close()

    async def insert_owner(self, name: str) -> int | None:
        return self.connection.execute("INSERT INTO owners (name) VALUES (?)", [name]).lastrowid


LollygagDB = Annotated[_LollygagDB, DBDepends(_LollygagDB.transaction)]


def note(line: str) -> None:
    """Append one line to the journal, which the test reads; closing the file writes it, whatever happens next."""
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
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(LockedObjectType(LOLLYGAG), self.owner_name, ttl_ms=3000)]

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> int | None:
        note(f"sync {self.owner_name}")
        owner_id = await lollygag_db.insert_owner(self.owner_name)
        return owner_id  # noqa: RET504 - as in the guide


class OwnerCleanupTask(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self, **kwargs: Any) -> None:
        return None


@dataclasses.dataclass
class Typed(BaseTask):
    when: datetime
    wait: timedelta
    key: UUID
    tags: list[int] = dataclasses.field(default_factory=list)

    size = Size.SMALL

    async def execute(self) -> str:
        return f"{self.when:%Y} {self.wait.total_seconds():g} {type(self.key).__name__} {self.tags}"


@dataclasses.dataclass
class Dies(BaseTask):
    why: str

    size = Size.SMALL
    dlq_eligible = True

    async def execute(self, lollygag_db: LollygagDB) -> None:
        await lollygag_db.insert_owner("rolled back")
        raise ValueError(self.why)


class Retried(BaseTask):
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=5, max_retries=3)

    async def execute(self) -> None:
        raise ValueError("not yet")


class Exits(BaseTask):
    async def execute(self) -> None:
        raise SystemExit("out")


class Limited(BaseTask):
    timeout_seconds = 0.1

    async def execute(self) -> str:
        await asyncio.sleep(0.01)
        return "in time"


class AsksForRetry(BaseTask):
    async def execute(self) -> None:
        raise TaskRetryRequestedError("upstream not ready")


@dataclasses.dataclass
class Recovers(BaseTask):
    name: str

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0.05, max_retries=5)

    async def execute(self) -> None:
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
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(LockedObjectType(LOLLYGAG), self.name, ttl_ms=3000)]

    async def execute(self) -> str:
        note(f"begin {self.name}")
        try:
            while not (FOLDER / self.name).exists():
                if self.blocking:
                    time.sleep(0.02)  # noqa: ASYNC251 - it is meant to block
                else:
                    await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note(f"cancelled {self.name}")
            raise
        note(f"end {self.name}")
        return self.name


class Stubborn(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
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

    async def execute(self) -> str:
        return await SyncOwnersTask(self.owner_name).schedule()


class Spawns(BaseTask):
    size = Size.SMALL

    async def execute(self, spawn_with_callback: CallbackSpawner) -> str:
        return await spawn_with_callback([SyncOwnersTask("bob"), SyncOwnersTask("carol")], SyncOwnersTask("dave"))


class Unpreparable(BaseTask):
    size = Size.SMALL

    async def execute(self, database: object) -> None:
        return None


class NoDataclass(BaseTask):
    def __init__(self, owner_name: str) -> None:
        self.owner_name = owner_name

    async def execute(self) -> None:
        return None


class Kills(BaseTask):
    """Kills its worker."""

    size = Size.SMALL

    async def execute(self) -> None:
        note("begin Kills")
        # By then the tasks that were pulled with it have begun.
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass
class Bystander(BaseTask):
    """Runs beside `Kills` for a moment."""

    number: int

    size = Size.SMALL

    async def execute(self) -> None:
        await asyncio.sleep(0.1)
        note(f"end Bystander {self.number}")
