"""One execution of an `execute()` that a test writes down, with what DiracX gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.resources import Resources

AnyCallable = Callable[..., Any]


def task_with(execute: AnyCallable, name: str = "SomeTask") -> BaseTask:
    """A task of a class that has this `execute`."""
    task_class: Any = type(name, (BaseTask,), {"execute": execute, "__module__": __name__})
    task: BaseTask = task_class()
    return task


async def run(execute: AnyCallable, **how: Any) -> Any:
    """Execute once, with what is opened for it."""
    resources, task = Resources(**how), task_with(execute)
    invocation = resources.prepare(type(task))
    async with resources.opened():
        return await invocation(task)


def missing(execute: AnyCallable, **how: Any) -> list[str]:
    """What `acme:SomeTask` with this `execute()` is told to lack."""
    resources = Resources(**how)
    resources.prepare(type(task_with(execute)), "acme:SomeTask")
    with pytest.raises(ResourceError) as refused:
        resources.check()
    return list(refused.value.lines)
