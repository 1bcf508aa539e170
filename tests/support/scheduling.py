"""A mesh with schedulers in this process, periodic tasks for them, and the occurrences that arrive."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, subjects_of
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from support.mesh import TaskMesh

TAKEOVER = timedelta(seconds=5)


class Ticks(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(1)

    async def execute(self) -> None:
        """Nothing."""


class Hourly(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class Report(PeriodicVoAwareBaseTask):
    vo: str

    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class SubmitPilots(PeriodicVoAwareBaseTask):
    vo: str
    ce_regex: str = ".*"
    count: int = 1

    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


class OffByDefault(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(1)
    _enabled = False

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class Delayed(BaseTask):
    number: int

    size = Size.SMALL

    async def execute(self) -> None:
        """Nothing."""


class Arrived:
    """A task in the work queue."""

    def __init__(self, message: StoredMessage) -> None:
        self.headers = message.headers
        self.body = message.body
        self.id = message.headers["Task-Id"]
        self.at = message.stored
        """When the server stored it in the work queue."""

    @property
    def due(self) -> datetime:
        return datetime.fromisoformat(self.headers["Task-Due"])

    @property
    def late(self) -> float:
        """By how many seconds it arrived after it was due."""
        return (self.at - self.due).total_seconds()


class SchedulingMesh(TaskMesh):
    """A mesh with a view of its schedules, whose broker is not bound."""

    binds = False

    def __init__(self, broker: JetStreamBroker) -> None:
        super().__init__(broker)
        self.store = JetStreamScheduleStore(broker.connection, broker.namespace)
        self.configuration = ConfigurationBucket(broker.connection, broker.namespace)

    def scheduler(
        self, *options: str, name: str = "one", vos: VirtualOrganisations | None = None, **settings: Any
    ) -> Scheduler:
        """A scheduler, not started.

        Args:
            options: The names of its VOs.
            vos: Where it reads its VOs, instead.
        """
        return Scheduler(
            self.connection,
            self.namespace,
            self.registry,
            vos or VirtualOrganisations(options, environ={}),
            SchedulerSettings(**({"takeover": TAKEOVER} | settings)),
            name=name,
        )

    @asynccontextmanager
    async def scheduling(self, *options: str, **settings: Any) -> AsyncIterator[Scheduler]:
        """A scheduler that runs during the block and is stopped gracefully at its end; arguments as for `scheduler`."""
        scheduler = self.scheduler(*options, **settings)
        running = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            scheduler.stop()
            async with asyncio.timeout(20):
                await running

    async def schedule_state(self, task: str, vo: str = "", entry: str = "") -> ScheduleState | None:
        """What the schedulers have stored for `test:<task>`; None if nothing."""
        key = ScheduleKey(f"test:{task}", vo, entry)
        stored = (await self.store.read([key])).get(key)
        return None if stored is None else stored.state

    async def held(self) -> list[str]:
        """The subjects of the occurrences that are scheduled on the server, without `<namespace>.periodic.`."""
        prefix = f"{self.namespace.name}.periodic."
        found = await subjects_of(self.connection, self.namespace.later_stream, f"{prefix}>")
        return sorted(subject.removeprefix(prefix) for subject in found)

    async def arrived(self) -> list[Arrived]:
        """The tasks in the work queue, the oldest first; no worker takes them in these tests."""
        return [Arrived(message) for message in await self.stored(self.namespace.tasks_stream)]


def more_than_once(arrived: list[Arrived]) -> list[str]:
    """The ids that arrived more than once."""
    return [identity for identity, times in Counter(each.id for each in arrived).items() if times > 1]
