"""A whole mesh for one test: a namespace of its own on a real server, with workers in this process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.execution.job import Outcome, Retry
from diracx.tasks.plumbing.groups.records import Ended, callback_id
from diracx.tasks.plumbing.groups.store import JetStreamGroupStore
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.state import occurrence_id
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.testing.occurrences import chosen, occurrences
from diracx.tasks.testing.submissions import RecordingBroker, Submitted, matching, only_match
from diracx.tasks.testing.waiting import POLL_SECONDS
from diracx.tasks.testing.working import Delivered, Work, may_have_changed, waits

T = TypeVar("T", bound=BaseTask)

SETTLING_SECONDS: Final = 3.0
LIMIT: Final = 1_000

Overrides = Mapping[Callable[..., Any], Callable[..., Any]]


class LeakError(AssertionError):
    """A test ended with locks held or messages unsettled."""


class Mesh:
    """Submits tasks, executes them and returns the outcomes. The fixture `mesh` makes one for each test."""

    def __init__(self, broker: RecordingBroker) -> None:
        self.broker: JetStreamBroker = broker
        self.outcomes: list[Delivered] = []
        """The outcome of each delivery, in order."""
        self.locks = Bucket(broker.connection, broker.namespace.locks_bucket)
        """The store of locks; a test can hold a lock in it against a task."""
        self._broker = broker
        self._ticked_to: datetime | None = None
        self._leaks_allowed = False

    @classmethod
    @asynccontextmanager
    async def on(
        cls, url: str, namespace: str | None = None, registry: TaskRegistry | None = None
    ) -> AsyncIterator[Mesh]:
        """Open a mesh. Its end checks for leaks and removes the namespace.

        Args:
            url: The URL of a server.
            namespace: The namespace on that server; None: a new one.
            registry: The tasks that the mesh knows; None: the installed ones.

        Raises:
            LeakError: The test left locks or unsettled messages, and did not call `leave_leftovers`.
        """
        name = namespace or f"test_{secrets.token_hex(6)}"
        async with RecordingBroker.connect(url, namespace=name, registry=registry) as broker:
            assert isinstance(broker, RecordingBroker)
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
        self,
        task: BaseTask,
        *,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        keep_result: float | bool | None = None,
    ) -> str:
        """Submit a task as `task.schedule()` does, and return its id."""
        return await self.broker.submit(task, at_time=at_time, labels=labels, keep_result=keep_result)

    async def result(self, task_id: str) -> Any:
        """Return the kept result of a task that `work` has executed, as JSON has it; see `JetStreamBroker.result`.

        Raises:
            TaskFailedError: The task failed for good, expired, or was cancelled.
            ResultIsMissingError: It has not ended, or its result is not kept.
        """
        return await self.broker.result(task_id, timeout=0)

    async def work(
        self,
        *,
        overrides: Overrides | None = None,
        max_concurrent_tasks: int = 10,
        timeout: float = 60,
        limit: int = LIMIT,
    ) -> list[Delivered]:
        """Execute the due tasks of all sizes until each one has ended, or waits for something outside of this mesh.

        It waits for a lock that a task of this mesh holds, and for the callback of a group whose children have ended.
        It does not wait for the time of a retry, for a lock that somebody else holds, for a rate limiter, for the
        configuration that holds a task, nor for the time of a task that was submitted for later, or of the callback of
        a group whose children have not ended. Such a task is left where it is, and the last outcome that is returned
        of it is `Retry`, `LockBusy`, `Held` or `Interrupted`.

        Args:
            overrides: Callables that replace dependencies.
            max_concurrent_tasks: The number of tasks at once.
            timeout: The longest time, in seconds.
            limit: How many more executions may end than tasks waited at the beginning.

        Returns:
            The outcomes in order. A wait that was over before the end of this call is left out; `outcomes` has all.

        Raises:
            AssertionError: The time is over, since a task does not end; or the limit is, since tasks submit tasks, or
                retry, for ever. The text names them.
        """
        waiting = await self.waiting()
        refused = [each for each in self._left() if waiting and may_have_changed(each)]
        return await self._run(Work(waiting + limit, timeout, refused), overrides, max_concurrent_tasks)

    async def _run(self, work: Work, overrides: Overrides | None, slots: int) -> list[Delivered]:
        burst = partial(self._burst, overrides=overrides, slots=slots, work=work)
        try:
            return await work.run([partial(burst, size) for size in Size], self._groups_move)
        except AssertionError:
            self.leave_leftovers()
            raise

    async def _groups_move(self) -> bool:
        """Whether a callback of a group, or the storing of its children, falls due in a moment."""
        delivered = {each.id for each in self.outcomes}
        groups = JetStreamGroupStore(self.broker.connection, self.broker.namespace)
        for group in self._broker.groups:
            known = None if callback_id(group) in delivered else await groups.read_group(group)
            if known is None:
                continue
            if known.record.ended is Ended.COMPLETE:
                return True
            parts = [await groups.read_part(group, number) for number in range(len(known.record.starts))]
            if known.record.ended is None and any(part is not None and not part.record.stored for part in parts):
                return True
        return False

    async def drain(
        self, *, overrides: Overrides | None = None, max_concurrent_tasks: int = 10, timeout: float = 30
    ) -> list[Delivered]:
        """Execute tasks as `work` does until no task is left, and wait for those that wait for a retry or a lock.

        A task that was submitted for later is not waited for until it falls due.

        Args:
            timeout: The longest wait, in seconds.

        Raises:
            AssertionError: Tasks are left after that time, or will be: their retries are later. The text names them.
        """
        before = len(self.outcomes)
        deadline = time.monotonic() + timeout
        while True:
            limit = await self.waiting() + LIMIT
            work = Work(limit, max(deadline - time.monotonic(), SETTLING_SECONDS))
            await self._run(work, overrides, max_concurrent_tasks)
            left = await self.waiting()
            if not left:
                return self.outcomes[before:]
            rest = deadline - time.monotonic()
            end = self.broker.connection.clock.now() + timedelta(seconds=rest)
            if rest <= 0 or self._retries_after(end) >= left:
                self.leave_leftovers()
                raise AssertionError(
                    f"{left} tasks are left, and do not end within {timeout:g} s:{waits(self._left())}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def tick(
        self,
        *tasks: type[PeriodicBaseTask],
        to: datetime,
        vos: Iterable[str] | None = None,
        overrides: Overrides | None = None,
        max_concurrent_tasks: int = 10,
    ) -> list[Delivered]:
        """Move the time of the schedules on, and execute each occurrence on the way, in order, as `work` does.

        The first tick begins right before `to`: it executes what falls due at this very time. Each further tick
        executes what falls due after the tick before. No clock is waited for, and none is moved: a task that asks for
        the time gets that of the machine. The configuration of the mesh counts: schedules, entries, what it disables.

        Args:
            tasks: The classes to look at; none: all installed periodic tasks.
            to: The time at which the tick ends, aware, later than that of the tick before.
            vos: The virtual organisations for which VO-aware tasks run; None: those of the configuration of the mesh.
            overrides: Callables that replace dependencies.
            max_concurrent_tasks: The number of tasks at once.

        Returns:
            The outcomes in order. The id of an occurrence is `<task>[@<vo>][+<entry>]-<time>`, e.g.
            `acme:OwnerReportTask@lhcb-20270101T000000Z`.

        Raises:
            ValueError: `to` is naive, or not later than before; the VOs are not known; a schedule cannot be looked
                ahead; or there are more than 1,000 occurrences.
            TaskDefinitionError: One of the classes is not installed.
        """
        follower = ConfigurationFollower(self.broker.connection, self.broker.namespace)
        await follower.refresh()
        found = occurrences(chosen(self.registry, tasks), follower.current, vos, self._ticked_to, to)
        self._ticked_to = to
        delivered = []
        for due, instances in found:
            for instance in instances:
                await self._publish(instance, due)
            delivered += await self.work(overrides=overrides, max_concurrent_tasks=max_concurrent_tasks)
        return delivered

    def submitted(self, task: type[T] | T | None = None, /, **fields: Any) -> list[Submitted[T]]:
        """Return what was submitted so far, by the test and by tasks, in order. Occurrences of a tick are not in it.

            mesh.submitted(SyncOwnersTask)                          of this class
            mesh.submitted(SyncOwnersTask, owner_name="alice")      with this value in a field
            mesh.submitted(SyncOwnersTask("alice"))                 equal to this task

        Args:
            task: A class or a task; None: everything.
            fields: The values of fields, by name.

        Raises:
            TypeError: The class has no field of that name.
        """
        return matching(self._broker.submitted, task, fields)

    def assert_submitted(self, task: type[T] | T, /, **fields: Any) -> Submitted[T]:
        """Check that such a task was submitted, and only once; see `submitted`.

        Returns:
            The submission, with its `id`, `at_time`, `labels` and `parent`.

        Raises:
            AssertionError: There is none, or there are several. The text lists what was submitted.
        """
        __tracebackhide__ = True
        return only_match(self._broker.submitted, task, fields)

    async def waiting(self) -> int:
        """Return the number of unsettled tasks: those that wait for a worker, a retry or a lock."""
        self._broker.check_loop()
        info = await self.broker.connection.api(f"STREAM.INFO.{self.broker.namespace.tasks_stream}")
        return int(info["state"]["messages"])

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the dead letters."""
        self._broker.check_loop()
        return await DeadLetterReader(self.broker.connection, self.broker.namespace).all()

    async def held_locks(self) -> list[str]:
        """Return the keys of the locks that are held."""
        self._broker.check_loop()
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
            left = waits(self._left())
            leaks.append(f"{unsettled} messages were delivered but not settled (a retry that waits counts, too):{left}")
        return leaks

    def _left(self) -> list[Delivered]:
        """The latest delivery of each task that has not ended."""
        latest = {(each.task, each.id): each for each in self.outcomes}
        return [each for each in latest.values() if each.wait is not None]

    def _retries_after(self, time: datetime) -> int:
        outcomes = [each.outcome for each in self._left()]
        return sum(isinstance(outcome, Retry) and outcome.at > time for outcome in outcomes)

    async def _publish(self, instance: Instance, due: datetime) -> None:
        identity = occurrence_id(instance.key, due)
        envelope = Envelope(name=instance.key.task, id=identity, submitted=self.broker.connection.clock.now(), due=due)
        subject = self.broker.namespace.task_subject(instance.priority, instance.size)
        await publish(self.broker.connection, subject, instance.body, envelope.to_headers())

    async def _remove(self) -> None:
        """Remove the namespace, since many tests share one server and its disk."""
        for asset in assets(self.broker.namespace):
            if asset.kind != "consumer":
                await self.broker.connection.api(f"STREAM.DELETE.{asset.stream}")

    async def _burst(self, size: Size, *, overrides: Overrides | None, slots: int, work: Work) -> None:
        settings = WorkerSettings(
            size=size,
            max_concurrent_tasks=slots,
            burst=True,
            grace=timedelta(0),
            lock_retry_delay=timedelta(seconds=0.2),
        )
        resources = self._resources(size, overrides)
        async with resources.opened() as injector:
            worker = Worker(
                self.broker.connection,
                self.broker.namespace,
                self.registry,
                injector,
                settings,
                on_outcome=partial(self._record, work),
            )
            with work.stopping(worker):
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

    def _record(self, work: Work, task: str, task_id: str, outcome: Outcome) -> None:
        delivered = Delivered(task, task_id, outcome)
        self.outcomes.append(delivered)
        work.record(delivered)
