"""The classes that authors of tasks subclass."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

import msgspec

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import NoRetry, RetryPolicyBase
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.submitter import current_submitter


class BaseTask(ABC):
    """A unit of work: fields that travel to a worker as JSON, and an `execute()` that runs there.

        @dataclasses.dataclass
        class SyncOwnersTask(BaseTask):
            owner_name: str
            retry_policy = ExponentialBackoff(max_retries=3)

            async def execute(self, lollygag_db: LollygagDB) -> None:
                await lollygag_db.insert_owner(self.owner_name)

        task_id = await SyncOwnersTask("alice").schedule()

    A subclass with fields is a dataclass (`frozen`, `slots` and `kw_only` work too). The types of the fields are those
    that msgspec supports, and pydantic models. Values arrive as they were sent, or `schedule()` refuses them. The class
    may also be a pydantic dataclass, or a pydantic model as `class SyncOwnersTask(BaseTask, BaseModel)`. A subclass
    without fields needs no decorator. The entry point group `diracx.tasks.<category>` of its distribution lists the
    class.

    The attributes below belong to the class. Write them without an annotation, since an annotation would make them
    fields; in a pydantic model annotate them with `ClassVar`.
    """

    priority: ClassVar[Priority] = Priority.NORMAL
    """Its urgency. Tasks of a lower priority wait while tasks of a higher priority are due."""

    size: ClassVar[Size] = Size.MEDIUM
    """The size of the workers that run it. Small tasks share one event loop, so a small task must not block."""

    retry_policy: ClassVar[RetryPolicyBase] = NoRetry()
    """Decides whether and when a failed execution is tried again. An instance, not a class."""

    dlq_eligible: ClassVar[bool] = False
    """Once the task has failed for good, True stores it as a dead letter; False drops it with a warning in the log."""

    timeout_seconds: ClassVar[float | None] = None
    """The longest execution, in seconds. A longer one is cancelled and counts as failed. None means no limit."""

    result_ttl_seconds: ClassVar[float | None] = None
    """How long the result of the task is kept, in seconds, a year at most; see `JetStreamBroker.result`. None: it is
    kept only where the submitter says so."""

    @abstractmethod
    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work. The worker injects the keyword parameters, see `diracx.tasks.plumbing.depends`.

        The task succeeds when this returns and its dependencies have closed without an error (a transaction has
        committed). Any exception is a failure, and goes to the retry policy.

        A task runs at least once: after a crash it runs again. So make `execute()` repeatable.

        Returns:
            Any value; `diracx-task-run call` prints it.

        Raises:
            TaskRetryRequestedError: Ask for a retry. The log shows no traceback.
            UnretryableError: Fail for good, whatever the policy says.
        """

    @property
    def execution_locks(self) -> list[BaseLock]:
        """The locks to hold during an execution. A busy lock delays the task, without limit, and costs no retry."""
        return []

    def lock_retry_delay(self, refusals: int) -> timedelta | None:
        """How long the task waits before it asks for a busy lock again.

        Override it where the worker's way is wrong for the task: 5 s (`--lock-retry-delay`) at first, and the longer
        the more often in a row a lock was busy, up to a minute.

            def lock_retry_delay(self, refusals: int) -> timedelta:
                return timedelta(seconds=2)

        A lock that knows when to ask again wins: a rate limiter, or a writer's lock behind readers. Many tasks behind
        one lock come back one at a time.

        Args:
            refusals: How often in a row a lock of the task was busy, this time included: 1 at the first time. A
                delivery that was given back before it began, e.g. by a worker that stopped, counts as well.

        Returns:
            The wait, more than 0 and a year at the most; None leaves it to the worker. Any other value, or an error, is
            logged once, and leaves it to the worker.
        """
        return None

    async def schedule(
        self,
        at_time: datetime | None = None,
        labels: Mapping[str, Any] | None = None,
        *,
        keep_result: float | bool | None = None,
    ) -> str:
        """Submit the task, to be run once.

        A broker is bound inside `execute()`, and inside `async with JetStreamBroker.connect(url)`. To submit many
        tasks, use `JetStreamBroker.submit_many`.

        Args:
            at_time: The time to run it, aware. None or a past time means at once.
            labels: JSON values by name, for people and filters. They travel with the task, and nothing interprets them.
            keep_result: For how many seconds its result is kept for `JetStreamBroker.result`, a year at most. True:
                for a day. None: as `result_ttl_seconds` of the class says.

        Returns:
            The id of the task, once the server has stored it. It stays the same through all retries.

        Raises:
            RuntimeError: No broker is bound.
            SendTaskError: The server did not store the task: a stream is full or missing, permission is missing, or no
                server is reachable.
            TaskDefinitionError: No entry point lists the class.
            MalformedTaskError: A field holds a value that its type does not allow or that would arrive as another one,
                or a label is no JSON value.
            ValueError: `at_time` is naive, or later than the server can hold a task, in 2262; or `keep_result` is not
                above 0, or more than a year.
            TypeError: `at_time` is no datetime, or `keep_result` no number.
        """
        return await current_submitter().submit(self, at_time=at_time, labels=labels, keep_result=keep_result)

    def serialize(self) -> tuple[Any, ...]:
        """Return the values of the fields as a tuple, in their order; that of a nested dataclass is a tuple, too.

        It is there for code that was written for DiracX. Tasks do not travel in this form.
        """
        task: Any = self
        if dataclasses.is_dataclass(type(self)):
            return dataclasses.astuple(task)
        return tuple(getattr(task, name) for name in getattr(type(self), "__pydantic_fields__", ()))


class TaskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule of a periodic task, as the configuration of the mesh sets it."""

    name: str = ""
    """The name of the entry; empty: it has none, or the task has one schedule."""
    args: Mapping[str, Any] = {}
    """The values of fields, by name, as JSON has them. The VO of a VO-aware task is not among them."""
    enabled: bool = True
    schedule: TaskScheduleBase


class PeriodicBaseTask(BaseTask):
    """A task that the scheduler submits by a schedule. A mutex on the class keeps its executions from overlapping.

        class OwnerCleanupTask(PeriodicBaseTask):
            default_schedule = CronSchedule("0 6 * * *", "Europe/Zurich")

            async def execute(self, lollygag_db: LollygagDB) -> None: ...

    The scheduler gives no values, so each field of the subclass needs a default.
    """

    default_schedule: ClassVar[TaskScheduleBase]
    """The schedule, an instance. The configuration of the mesh may override it."""

    _enabled: ClassVar[bool] = True
    """False: it is off by default, and runs only where the configuration of the mesh says `enabled: true`."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A mutex on the class: an occurrence waits for the previous one. An override should include it."""
        return [MutexLock(TASK, *_class_path(type(self)))]

    @staticmethod
    def validate_config(config: list[TaskConfig]) -> None:
        """Check what a configuration sets for the class, before it is put in force. Override it for checks of your own.

        `diracx-task-run config set` asks it once for the common settings, and once for those of each VO. It has checked
        the arguments against the fields before.

        Args:
            config: The schedules of the task, with what they inherit from the task and from the code.

        Raises:
            ValueError: The configuration is refused. The text says why.
        """


class PeriodicVoAwareBaseTask(PeriodicBaseTask):
    """A periodic task that runs once for each virtual organisation (VO).

        @dataclasses.dataclass
        class OwnerReportTask(PeriodicVoAwareBaseTask):
            vo: str
            default_schedule = IntervalSeconds(3600)

            async def execute(self) -> None: ...

    The subclass is a dataclass with the field `vo: str`, the only one that the scheduler fills.
    """

    vo: str

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A mutex on the class and the VO: the tasks of two VOs run side by side."""
        return [MutexLock(TASK, *_class_path(type(self)), self.vo)]


def _class_path(task_class: type) -> tuple[str, ...]:
    return (*task_class.__module__.split("."), task_class.__qualname__)
