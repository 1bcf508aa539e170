"""The installed tasks: loading them, with warnings about broken ones, and completing their names in a shell."""

from __future__ import annotations

import sys
from collections.abc import Callable

import rich_click as click

from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.registry.entry_points import module_of, task_entry_points


def installed_tasks(without: str = "", warn: Callable[[str], object] | None = None) -> TaskRegistry:
    """Load the installed tasks and warn of each one that cannot be loaded.

    Args:
        without: The name of a task to give no warning for, since `registry.get` raises its error.
        warn: Takes each warning; None prints it on standard error.
    """
    registry = TaskRegistry.installed()
    for problem in registry.problems:
        if not without or not problem.startswith((f"{without}:", f"{without} ")):
            if warn is not None:
                warn(problem)
            else:
                print(f"warning: {problem}", file=sys.stderr)
    return registry


def installed_task(entry_point: str) -> tuple[TaskRegistry, RegisteredTask]:
    """Return the registry and the task with this name.

    Raises:
        UnknownTaskError: No task of this name is installed.
        TaskDefinitionError: The task is installed, but broken.
    """
    registry = installed_tasks(without=entry_point)
    return registry, registry.get(entry_point)


def complete_tasks(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Return the names of installed tasks that begin with the typed text, without importing any task."""
    return sorted(name for name in task_entry_points() if name.startswith(typed))


def packages_with_tasks() -> set[str]:
    """Return the top-level packages with tasks, without importing them."""
    modules = (module_of(point) for points in task_entry_points().values() for point in points)
    return {module.split(".")[0] for module in modules if module}
