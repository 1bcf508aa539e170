"""Tasks around owners."""

from __future__ import annotations

import dataclasses
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.schedules import CronSchedule, IntervalSeconds
from gubbins.tasks.depends import LollygagDB
from gubbins.tasks.lock_types import LOLLYGAG


@dataclasses.dataclass
class SyncOwnersTask(BaseTask):
    """Stores one owner; two syncs of the same owner exclude each other."""

    owner_name: str

    priority = Priority.NORMAL
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=5, max_retries=3)
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A mutex for each owner."""
        return [MutexLock(LockedObjectType(LOLLYGAG), self.owner_name)]

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> int:
        """Return the id of the owner."""
        return await lollygag_db.insert_owner(self.owner_name)


class OwnerCleanupTask(PeriodicBaseTask):
    """Looks through all owners, every hour."""

    default_schedule = IntervalSeconds(3600)

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> list[str]:
        """Return the names of the owners."""
        return await lollygag_db.get_owner()


@dataclasses.dataclass
class OwnerReportTask(PeriodicVoAwareBaseTask):
    """Reports the owners to one VO, daily at 06:00 UTC."""

    vo: str

    default_schedule = CronSchedule("0 6 * * *")

    async def execute(self, lollygag_db: LollygagDB, **kwargs: Any) -> dict[str, list[str]]:
        """Return the names of the owners, under that of the VO."""
        return {self.vo: await lollygag_db.get_owner()}
