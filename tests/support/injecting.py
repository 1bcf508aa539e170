"""A task with any `execute()`, what an injector makes of it, and dependencies to ask for."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.injector import Injector

AnyCallable = Callable[..., Any]


def task_with(execute: AnyCallable) -> BaseTask:
    """A task of a class that has this `execute`."""
    task_class: Any = type("SomeTask", (BaseTask,), {"execute": execute, "__module__": execute.__module__})
    task: BaseTask = task_class()
    return task


async def run(execute: AnyCallable, **how: Any) -> Any:
    task = task_with(execute)
    return await Injector(**how).prepare(type(task))(task)


def refusal(execute: AnyCallable, **how: Any) -> str:
    with pytest.raises(TaskDefinitionError) as refused:
        Injector(**how).prepare(type(task_with(execute)))
    return str(refused.value)


class Story:
    """Databases that write down what happens to them."""

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


STORY_KINDS = ["generator", "sync_generator", "gives_async_manager", "awaited_manager", "gives_sync_manager"]


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
