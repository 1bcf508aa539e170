"""`run_task` of `diracx.tasks.testing`, as an author of tasks uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.testing import InMemoryLockStore, run_task, sqlite_database


async def greeting() -> str:
    return "hello"


@dataclasses.dataclass
class Greets(BaseTask):
    name: str

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.name)]

    async def execute(self, word: Annotated[str, Depends(greeting)], **kwargs: Any) -> str:
        return f"{word} {self.name}"


@dataclasses.dataclass
class Fails(BaseTask):
    async def execute(self) -> None:
        raise ValueError("no such owner")


async def test_a_task_is_executed_once_with_its_dependencies() -> None:
    assert await run_task(Greets("alice")) == "hello alice"


async def test_overrides_replace_dependencies() -> None:
    assert await run_task(Greets("alice"), overrides={greeting: lambda: "hi"}) == "hi alice"


async def test_the_exception_of_the_task_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="no such owner"):
        await run_task(Fails())


async def test_a_coroutine_that_is_returned_unawaited_is_an_error() -> None:
    @dataclasses.dataclass
    class Forgets(BaseTask):
        async def execute(self) -> Any:
            return greeting()

    with pytest.raises(
        TypeError, match=r"^execute\(\) returned greeting\(\) unawaited, so it has not run; put `await`"
    ):
        await run_task(Forgets())


async def test_fields_that_do_not_fit_the_wire_format_are_refused() -> None:
    with pytest.raises(MalformedTaskError, match=r"\$\.name"):
        await run_task(Greets(1))  # type: ignore[arg-type]


async def test_a_class_that_is_not_a_valid_task_is_refused() -> None:
    class Takes(BaseTask):
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self) -> None:
            return None

    with pytest.raises(TaskDefinitionError, match="dataclass"):
        await run_task(Takes("alice"))


async def test_a_class_in_place_of_a_task_is_told() -> None:
    with pytest.raises(TaskDefinitionError, match=r"^\w+ is a class; give a task, run_task\(\w+\(\.\.\.\)\)$"):
        await run_task(BaseTask)  # type: ignore[arg-type]


async def test_calls_that_share_a_lock_store_exclude_each_other() -> None:
    store = InMemoryLockStore()
    other = LockOwner.new(task="other", id="1", worker="w")
    await MutexLock(JOB, "alice").acquire(store, other)
    with pytest.raises(UnableToAcquireLockError, match="other"):
        await run_task(Greets("alice"), lock_store=store)
    assert await run_task(Greets("bob"), lock_store=store) == "hello bob"
    assert await store.keys() == [MutexLock(JOB, "alice").key]


async def test_a_class_that_is_no_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Greets'> is no SQL database; give a subclass of diracx-db's BaseSQLDB"):
        async with sqlite_database(Greets, tmp_path):  # type: ignore[type-var]
            pass
