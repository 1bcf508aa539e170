"""Jobs whose `execute()` a test writes as a function, for an executor without a server or a process to end."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.locks import BaseLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.wire.envelope import Envelope

WORKER = "host-1-small"
LATER = datetime(2030, 1, 1, tzinfo=UTC)


class Policy(RetryPolicyBase):
    """A retry policy that returns or raises the given answer, and records its calls."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[int, BaseException]] = []

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        self.asked.append((attempt, exception))
        if isinstance(self.answer, BaseException):
            raise self.answer
        answer: datetime | None = self.answer
        return answer


@dataclasses.dataclass
class Call(BaseTask):
    """A task that runs the body and takes the locks that a test sets on a subclass."""

    body: ClassVar[Callable[[], Awaitable[Any]]]
    locks: ClassVar[list[BaseLock] | BaseException | None] = None

    async def execute(self) -> Any:
        return await type(self).body()

    @property
    def execution_locks(self) -> list[BaseLock]:
        if isinstance(self.locks, BaseException):
            raise self.locks
        return self.locks or []


def job(body: Callable[[], Awaitable[Any]], attempt: int = 0, **attributes: Any) -> Job:
    """A job that runs `body`. The attributes, e.g. `locks` or `retry_policy`, are set on its class."""
    task_class = type("Called", (Call,), {"body": staticmethod(body), **attributes})
    registered = TaskRegistry().add("test:Called", task_class)
    return Job(registered, Envelope(name="test:Called", id="the-id"), task_class(), attempt)


def raising(error: BaseException) -> Callable[[], Awaitable[Any]]:
    async def body() -> None:
        raise error

    return body


async def nothing() -> str:
    return "done"


async def forever() -> None:
    await asyncio.Event().wait()


@dataclasses.dataclass
class Retires(LastResort):
    """Records what it is asked for, and the process goes on."""

    asked: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(lambda: self.asked.append("end"))
        self.on_retire = lambda: self.asked.append("retire")
