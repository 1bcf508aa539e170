"""The classes that task authors subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import NoRetry, RetryPolicyBase
from diracx.tasks.plumbing.schedules import TaskScheduleBase
from diracx.tasks.plumbing.submitter import current_submitter


class BaseTask(ABC):
    """A unit of work: a dataclass whose fields travel as JSON, and an `execute()`.

    Decorate the subclass with `@dataclasses.dataclass` (frozen, slots and kw_only included), or give it no fields.
    The attributes below belong to the class; write them without an annotation.
    """

    priority: ClassVar[Priority] = Priority.NORMAL
    """Strict: a lower priority waits while a higher one has tasks."""

    size: ClassVar[Size] = Size.MEDIUM
    """Which workers run it. Small ones share an event loop, so a small task must not block."""

    retry_policy: ClassVar[RetryPolicyBase] = NoRetry()
    """Whether and when a failed execution is tried again; an instance."""

    dlq_eligible: ClassVar[bool] = False
    """True: kept as a dead letter when its retries are used up. False: dropped with a warning."""

    timeout_seconds: ClassVar[float | None] = None
    """An execution that runs longer, in seconds, is cancelled and counts as failed."""

    @abstractmethod
    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work. Keyword parameters are injected, see `depends`.

        At least once: after a crash it runs again, so make it repeatable. It has succeeded when it returns and
        its dependencies have closed without an error (a transaction has committed).
        """

    @property
    def execution_locks(self) -> list[BaseLock]:
        """The locks that one execution holds. A busy one delays the task and costs no retry."""
        return []

    async def schedule(self, at_time: datetime | None = None, labels: Mapping[str, str] | None = None) -> str:
        """Submit the task, to run once.

        Args:
            at_time: When to run it, aware; a past time or None means at once.
            labels: Free text for people and filters; carried, never interpreted.

        Returns:
            The id of the task, the same through every retry, once the server has stored it.

        Raises:
            RuntimeError: No broker is bound.
            SendTaskError: The server did not store it: full, missing, no permission, unreachable.
            ValueError: `at_time` is naive.
        """
        return await current_submitter().submit(self, at_time=at_time, labels=labels)


class PeriodicBaseTask(BaseTask):
    """A task that the scheduler submits on a schedule. Executions never overlap, by a mutex on the class."""

    default_schedule: ClassVar[TaskScheduleBase]
    """When it runs, unless the configuration says otherwise."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A mutex on the class, so that an occurrence waits for the one before it."""
        return [MutexLock(TASK, *_class_path(type(self)))]


class PeriodicVoAwareBaseTask(PeriodicBaseTask):
    """A periodic task that runs once for each virtual organisation; the subclass has the field `vo: str`."""

    vo: str

    @property
    def execution_locks(self) -> list[BaseLock]:
        """A mutex on the class and the VO: two VOs run side by side."""
        return [MutexLock(TASK, *_class_path(type(self)), self.vo)]


def _class_path(task_class: type) -> tuple[str, ...]:
    return (*task_class.__module__.split("."), task_class.__qualname__)
