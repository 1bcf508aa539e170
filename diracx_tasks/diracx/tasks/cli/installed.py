"""The installed tasks, with what could not be loaded told on standard error; their names, for a shell to complete."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rich_click as click

from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.registry.entry_points import task_entry_points


def installed_tasks(but: str = "", tell: Callable[[str], object] | None = None) -> TaskRegistry:
    """Load what is installed; each problem is a warning.

    Args:
        but: A task whose own problem is not told, since `registry.get` raises it.
        tell: Takes each warning; None writes it on standard error.
    """
    registry = TaskRegistry.installed()
    for problem in registry.problems:
        if not but or not problem.startswith((f"{but}:", f"{but} ")):
            if tell is not None:
                tell(problem)
            else:
                print(f"warning: {problem}", file=sys.stderr)
    return registry


def installed_task(entry_point: str) -> tuple[TaskRegistry, RegisteredTask]:
    """The registry, and the task of that name in it.

    Raises:
        UnknownTaskError: None is installed.
        TaskDefinitionError: It is installed, but cannot work.
    """
    registry = installed_tasks(but=entry_point)
    return registry, registry.get(entry_point)


def complete_tasks(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The installed tasks whose name begins so; none is imported for it."""
    return sorted(name for name in task_entry_points() if name.startswith(typed))


def packages_with_tasks() -> set[str]:
    """The top level packages of their authors; none is imported for it."""
    return {point.module.split(".")[0] for points in task_entry_points().values() for point in points}
