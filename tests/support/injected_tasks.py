"""Tasks whose `execute()` a test writes as a function, their execution with injection, and dependencies to ask for."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.exceptions import ResourceError, TaskDefinitionError
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources

AnyCallable = Callable[..., Any]


def task_with(execute: AnyCallable) -> BaseTask:
    """A task of a class `SomeTask` with this `execute`."""
    task_class: Any = type("SomeTask", (BaseTask,), {"execute": execute, "__module__": execute.__module__})
    task: BaseTask = task_class()
    return task


async def run(execute: AnyCallable, **how: Any) -> Any:
    """Execute once, with the resources that it needs. The options are those of `Resources`."""
    resources, task = Resources(**how), task_with(execute)
    invocation = resources.prepare(type(task))
    async with resources.opened():
        return await invocation(task)


def refusal(execute: AnyCallable, **how: Any) -> str:
    """The text with which an injector without resources refuses the task. The options are those of `Injector`."""
    with pytest.raises(TaskDefinitionError) as refused:
        Injector(**how).prepare(type(task_with(execute)))
    return str(refused.value)


def missing(execute: AnyCallable, **how: Any) -> list[str]:
    """The lines about the resources that the task `acme:SomeTask` lacks."""
    resources = Resources(**how)
    resources.prepare(type(task_with(execute)), "acme:SomeTask")
    with pytest.raises(ResourceError) as refused:
        resources.check()
    return list(refused.value.lines)


class RecordingDatabases:
    """Transactions of each kind, which record their events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.opened = 0

    async def generator(self) -> AsyncIterator[str]:
        self.opened += 1
        self.events.append("begin")
        try:
            yield f"db{self.opened}"
        except BaseException as error:
            self.events.append(f"rollback {type(error).__name__}")
            raise
        self.events.append("commit")

    def sync_generator(self) -> Iterator[str]:
        self.events.append("begin")
        try:
            yield "db"
        except BaseException as error:
            self.events.append(f"rollback {type(error).__name__}")
            raise
        self.events.append("commit")

    def gives_async_manager(self) -> Any:
        return asynccontextmanager(self.generator)()

    async def awaited_manager(self) -> Any:
        return asynccontextmanager(self.generator)()

    def gives_sync_manager(self) -> Any:
        return contextmanager(self.sync_generator)()


TRANSACTION_KINDS = ["generator", "sync_generator", "gives_async_manager", "awaited_manager", "gives_sync_manager"]


def configured() -> str:
    return "configured"


class Settings:
    default: Any = Depends(configured)

    def __init__(self, value: str = Depends(configured)) -> None:
        self.value = value


@dataclass(frozen=True)
class Reader:
    what: str

    async def __call__(self) -> str:
        return f"read {self.what}"
