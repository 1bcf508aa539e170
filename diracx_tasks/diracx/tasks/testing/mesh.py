"""A whole mesh for one test: a namespace of its own on a real server, with workers in this process."""

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

SETTLING_SECONDS: Final = 3.0

Overrides = Mapping[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome of one delivery to a worker of the mesh."""

    task: str
    """The name of the task, `<category>:<ClassName>`."""
    id: str
    outcome: Outcome


class LeakError(AssertionError):
    """A test ended with locks held or messages unsettled."""


class Mesh:
    """Submits tasks, executes them and returns the outcomes. The fixture `mesh` makes one for each test."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.broker = broker
        self.outcomes: list[Delivered] = []
        """The outcome of each delivery, in order."""
        self.locks = Bucket(broker.connection, broker.namespace.locks_bucket)
        """The store of locks; a test can hold a lock in it against a task."""
        self._leaks_allowed = False

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, namespace: str, registry: TaskRegistry | None = None) -> AsyncIterator[Mesh]:
        """Open a mesh in this namespace. Its end checks for leaks and removes the namespace.

        Raises:
            LeakError: The test left locks or unsettled messages, and did not call `leave_leftovers`.
        """
        async with JetStreamBroker.connect(url, namespace=namespace, registry=registry) as broker:
            mesh = cls(broker)
            try:
                yield mesh
                if not mesh._leaks_allowed:
                    await mesh.check_for_leaks()
            finally:
                await mesh._remove()

    @property
    def registry(self) -> TaskRegistry:
        """The tasks that the mesh knows. A test can `add` a task that is not installed."""
        return self.broker.registry

    async def submit(
        self, task: BaseTask, *, at_time: datetime | None = None, labels: Mapping[str, Any] | None = None
    ) -> str:
        """Submit a task as `task.schedule()` does, and return its id."""
        return await self.broker.submit(task, at_time=at_time, labels=labels)

    async def work(self, *, overrides: Overrides | None = None, max_concurrent_tasks: int = 10) -> list[Delivered]:
        """Execute the due tasks of all sizes until none is left, and return their outcomes.

        Args:
            overrides: Callables that replace dependencies.
            max_concurrent_tasks: The number of tasks at once.
        """
        before = len(self.outcomes)
        progress = -1
        # A task of one size may submit a task of another size, so this repeats until a whole round executes nothing.
        while progress != len(self.outcomes):
            progress = len(self.outcomes)
            for size in Size:
                await self._burst(size, overrides, max_concurrent_tasks)
        return self.outcomes[before:]

    async def drain(
        self, *, overrides: Overrides | None = None, max_concurrent_tasks: int = 10, timeout: float = 30
    ) -> list[Delivered]:
        """Execute tasks as `work` does until no task is left, and wait for those that wait for a retry or a lock.

        Args:
            timeout: The longest wait, in seconds.

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
        """Return the number of unsettled tasks: those that wait for a worker, a retry or a lock."""
        info = await self.broker.connection.api(f"STREAM.INFO.{self.broker.namespace.tasks_stream}")
        return int(info["state"]["messages"])

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters."""
        return await DeadLetterReader(self.broker.connection, self.broker.namespace).all()

    async def held_locks(self) -> list[str]:
        """Return the keys of the locks that are held."""
        return await self.locks.keys()

    def leave_leftovers(self) -> None:
        """Allow this test to end with unsettled messages, e.g. of tasks that wait for a retry, or with locks held."""
        self._leaks_allowed = True

    async def check_for_leaks(self) -> None:
        """Check that no lock is held and no message is unsettled.

        Raises:
            LeakError: A lock is held or a message is unsettled; the text names the locks and the number of messages.
        """
        # The server queues acks and processes them a moment later.
        deadline = time.monotonic() + SETTLING_SECONDS
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
        """Remove the namespace, since many tests share one server and its disk."""
        for asset in assets(self.broker.namespace):
            if asset.kind != "consumer":
                await self.broker.connection.api(f"STREAM.DELETE.{asset.stream}")

    async def _burst(self, size: Size, overrides: Overrides | None, slots: int) -> None:
        settings = WorkerSettings(
            size=size, max_concurrent_tasks=slots, burst=True, lock_retry_delay=timedelta(seconds=0.2)
        )
        resources = self._resources(size, overrides)
        async with resources.opened() as injector:
            worker = Worker(
                self.broker.connection,
                self.broker.namespace,
                self.registry,
                injector,
                settings,
                on_outcome=self._record,
            )
            await worker.run()

    def _resources(self, size: Size, overrides: Overrides | None) -> Resources:
        """Prepare the tasks of a size. A task that lacks a resource is left out, and fails only if it is executed."""
        resources = Resources(overrides)
        for task in self.registry:
            if task.task_class.size is not size:
                continue
            trial = Resources(overrides)
            with suppress(TaskDefinitionError):
                trial.prepare(task.task_class, task.name)
                trial.check()
                resources.prepare(task.task_class, task.name)
        return resources

    def _record(self, task: str, task_id: str, outcome: Outcome) -> None:
        self.outcomes.append(Delivered(task, task_id, outcome))
