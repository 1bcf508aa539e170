"""A whole mesh for one test: a namespace of its own on a real server, and workers in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.execution.job import Outcome
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.testing.waiting import wait_until

_SETTLING_SECONDS: Final = 3.0

Overrides = Mapping[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery that a worker of the mesh carried to its end."""

    task: str
    """The name of the task, `<category>:<ClassName>`."""
    id: str
    outcome: Outcome


class LeakError(AssertionError):
    """A test ended with locks held or messages unsettled."""


class Mesh:
    """Submit, work, look. Made by the fixture `mesh`."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.broker = broker
        self.outcomes: list[Delivered] = []
        """What became of each delivery, in order."""
        self.locks = Bucket(broker.connection, broker.namespace.locks_bucket)
        """The store of locks, to hold one against a task."""
        self._tolerated = False

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, namespace: str, registry: TaskRegistry | None = None) -> AsyncIterator[Mesh]:
        """A mesh in a namespace of its own; at the end nothing may be left in hand.

        Raises:
            LeakError: At the end, unless `leave_leftovers` was called.
        """
        async with JetStreamBroker.connect(url, namespace=namespace, registry=registry) as broker:
            mesh = cls(broker)
            try:
                yield mesh
                if not mesh._tolerated:
                    await mesh.check_for_leaks()
            finally:
                await mesh._remove()

    @property
    def registry(self) -> TaskRegistry:
        """The tasks that are known here; `add` to it what is not installed."""
        return self.broker.registry

    async def submit(
        self, task: BaseTask, *, at_time: datetime | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        """Submit a task, as `task.schedule()` does; return its id."""
        return await self.broker.submit(task, at_time=at_time, labels=labels)

    async def work(self, *, overrides: Overrides | None = None, max_concurrent_tasks: int = 10) -> list[Delivered]:
        """Execute what is due, of all sizes, until nothing is left that is due; return what became of it.

        Args:
            overrides: What to call in place of a dependency.
            max_concurrent_tasks: How many at once.
        """
        before = len(self.outcomes)
        progress = -1
        # A task of one size may submit one of another: go round until a whole round brings nothing.
        while progress != len(self.outcomes):
            progress = len(self.outcomes)
            for size in Size:
                await self._burst(size, overrides, max_concurrent_tasks)
        return self.outcomes[before:]

    async def drain(
        self, *, overrides: Overrides | None = None, max_concurrent_tasks: int = 10, timeout: float = 30
    ) -> list[Delivered]:
        """Like `work`, and go on until no task is left: what waits for a retry or a lock is waited for.

        Args:
            timeout: How long, in seconds.

        Raises:
            AssertionError: Tasks are left after that time.
        """
        before = len(self.outcomes)

        async def empty() -> bool:
            await self.work(overrides=overrides, max_concurrent_tasks=max_concurrent_tasks)
            return await self.waiting() == 0

        await wait_until(empty, description="no task is left", timeout=timeout)
        return self.outcomes[before:]

    async def waiting(self) -> int:
        """How many tasks are not settled: those that wait for their turn, for a retry or for a lock."""
        info = await self.broker.connection.api(f"STREAM.INFO.{self.broker.namespace.tasks_stream}")
        return int(info["state"]["messages"])

    async def dead_letters(self) -> list[DeadLetter]:
        """The tasks that will not run again."""
        return await DeadLetterReader(self.broker.connection, self.broker.namespace).all()

    async def held_locks(self) -> list[str]:
        """The keys of the locks that are held."""
        return await self.locks.keys()

    def leave_leftovers(self) -> None:
        """Say that this test means to end with tasks that wait for a retry, or with locks held."""
        self._tolerated = True

    async def check_for_leaks(self) -> None:
        """Look for what a test forgot.

        Raises:
            LeakError: Names the locks that are held and how many messages are not settled.
        """
        # The server takes acks in a queue of its own, a moment after they were sent.
        deadline = time.monotonic() + _SETTLING_SECONDS
        while leaks := await self._leaks():
            if time.monotonic() >= deadline:
                raise LeakError(f"{'; '.join(leaks)}. If the test means it, call mesh.leave_leftovers()")
            await asyncio.sleep(0.05)

    async def _leaks(self) -> list[str]:
        leaks = []
        if locks := await self.held_locks():
            leaks.append(f"locks are still held: {', '.join(sorted(locks))}")
        consumers = await self.broker.connection.api(f"CONSUMER.LIST.{self.broker.namespace.tasks_stream}")
        if unsettled := sum(consumer["num_ack_pending"] for consumer in consumers["consumers"]):
            leaks.append(f"{unsettled} messages were delivered but not settled (a retry that waits counts, too)")
        return leaks

    async def _remove(self) -> None:
        """Remove the namespace: many tests share one server, and its disk."""
        for asset in assets(self.broker.namespace):
            if asset.kind != "consumer":
                await self.broker.connection.api(f"STREAM.DELETE.{asset.stream}")

    async def _burst(self, size: Size, overrides: Overrides | None, slots: int) -> None:
        settings = WorkerSettings(size=size, max_concurrent_tasks=slots, burst=True, busy_delay=timedelta(seconds=0.2))
        resources = self._resources(size, overrides)
        async with resources.opened() as injector:
            worker = Worker(
                self.broker.connection,
                self.broker.namespace,
                self.registry,
                injector,
                settings,
                on_outcome=self._note,
            )
            await worker.run()

    def _resources(self, size: Size, overrides: Overrides | None) -> Resources:
        """What the tasks of a size need. One that lacks something fails when it is executed: no other test minds."""
        resources = Resources(overrides)
        for task in self.registry:
            if task.task_class.size is not size:
                continue
            alone = Resources(overrides)
            with suppress(TaskDefinitionError):
                alone.prepare(task.task_class, task.name)
                alone.check()
                resources.prepare(task.task_class, task.name)
        return resources

    def _note(self, task: str, task_id: str, outcome: Outcome) -> None:
        self.outcomes.append(Delivered(task, task_id, outcome))
