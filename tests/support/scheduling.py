"""A mesh with schedulers in this process: what the tests of schedules stand on."""

from __future__ import annotations

import asyncio
import dataclasses
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.stream_messages import subjects_of
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, ScheduleState
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.schedules import IntervalSeconds

TAKEOVER = timedelta(seconds=5)


class Ticks(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(1)

    async def execute(self) -> None:
        """Nothing."""


class Hourly(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class Report(PeriodicVoAwareBaseTask):
    vo: str

    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


@dataclasses.dataclass
class Delayed(BaseTask):
    number: int

    size = Size.SMALL

    async def execute(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Arrived:
    """A task in the work queue."""

    id: str
    headers: dict[str, str]
    body: bytes
    at: datetime
    """When the server stored it there."""

    @property
    def due(self) -> datetime:
        return datetime.fromisoformat(self.headers["Task-Due"])

    @property
    def late(self) -> float:
        """Seconds."""
        return (self.at - self.due).total_seconds()


class SchedulingMesh:
    """A broker in a namespace of its own, and what there is to see."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.broker = broker
        self.connection = broker.connection
        self.namespace = broker.namespace
        self.registry = broker.registry
        self.store = JetStreamScheduleStore(broker.connection, broker.namespace)
        self.configuration = ConfigurationBucket(broker.connection, broker.namespace)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, namespace: str) -> AsyncIterator[SchedulingMesh]:
        async with JetStreamBroker.connect(url, namespace=namespace, registry=TaskRegistry(), bind=False) as broker:
            yield cls(broker)

    async def remove(self) -> None:
        """Every stream and bucket: their reserved space would fill a server that many tests share."""
        for asset in reversed(assets(self.namespace)):
            if asset.kind != "consumer":
                await self.connection.api(f"STREAM.DELETE.{asset.stream}")

    def register(self, *classes: type[BaseTask]) -> None:
        for task_class in classes:
            self.registry.add(f"test:{task_class.__name__}", task_class)

    @asynccontextmanager
    async def scheduling(self, *vos: str, name: str = "one", **settings: Any) -> AsyncIterator[Scheduler]:
        """A scheduler that runs for the block, and is stopped in order at its end."""
        scheduler = Scheduler(
            self.connection,
            self.namespace,
            self.registry,
            VirtualOrganisations(vos, environ={}),
            SchedulerSettings(**({"takeover": TAKEOVER} | settings)),
            name=name,
        )
        running = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            scheduler.stop()
            async with asyncio.timeout(20):
                await running

    async def state(self, task: str, vo: str = "") -> ScheduleState | None:
        key = ScheduleKey(f"test:{task}", vo)
        stored = (await self.store.read([key])).get(key)
        return None if stored is None else stored.state

    async def held(self) -> list[str]:
        """The subjects of the occurrences that the server holds, without `<namespace>.periodic.`."""
        prefix = f"{self.namespace.name}.periodic."
        found = await subjects_of(self.connection, self.namespace.later_stream, f"{prefix}>")
        return sorted(subject.removeprefix(prefix) for subject in found)

    async def waiting(self) -> int:
        info = await self.connection.api(f"STREAM.INFO.{self.namespace.tasks_stream}")
        return int(info["state"]["messages"])

    async def arrived(self) -> list[Arrived]:
        """What has come into the work queue; nobody takes it from there."""
        info = await self.connection.api(f"STREAM.INFO.{self.namespace.tasks_stream}")
        sequences = range(1, info["state"]["last_seq"] + 1)
        found: list[Arrived] = []
        for start in range(0, len(sequences), 100):
            found += await asyncio.gather(*map(self._arrived, sequences[start : start + 100]))
        return found

    async def _arrived(self, sequence: int) -> Arrived:
        answer = await self.connection.api(f"STREAM.MSG.GET.{self.namespace.tasks_stream}", {"seq": sequence})
        message = answer["message"]
        lines = b64decode(message["hdrs"]).decode().split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = b64decode(message.get("data", ""))
        return Arrived(headers["Task-Id"], headers, body, _time(message["time"]))


def _time(text: str) -> datetime:
    """The server writes nanoseconds, without trailing zeros."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{fraction.ljust(6, '0')[:6]}+00:00")


def more_than_once(arrived: list[Arrived]) -> list[str]:
    return [identity for identity, times in Counter(each.id for each in arrived).items() if times > 1]
