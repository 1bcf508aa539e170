"""The installed tasks: loading them, and their names."""

from __future__ import annotations

from collections.abc import Callable

from diracx.tasks.cli.containment import contained
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.registry.entry_points import module_of, task_entry_points


def installed_tasks(warn: Callable[[str], object] = lambda problem: None) -> TaskRegistry:
    """Load the installed tasks.

    Args:
        warn: Takes a line for each one that cannot be loaded. Only commands that are about all tasks warn: the others
            would repeat what is of no concern to their users.
    """
    with contained():
        registry = TaskRegistry.installed()
    for problem in registry.problems:
        warn(problem)
    return registry


def installed_task(entry_point: str) -> tuple[TaskRegistry, RegisteredTask]:
    """Return the registry and the task with this name.

    Raises:
        UnknownTaskError: No task of this name is installed.
        TaskDefinitionError: The task is installed, but broken.
    """
    registry = installed_tasks()
    return registry, registry.get(entry_point)


def names_with(beginning: str) -> list[str]:
    """Return the names of installed tasks that begin with a text, sorted, without importing any task."""
    return sorted(name for name in task_entry_points() if name.startswith(beginning))


def packages_with_tasks() -> set[str]:
    """Return the top-level packages with tasks, without importing them."""
    modules = (module_of(point) for points in task_entry_points().values() for point in points)
    return {module.split(".")[0] for module in modules if module}
