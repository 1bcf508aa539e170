"""The installed tasks, with what could not be loaded told on standard error; their names, for a shell to complete."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator

import rich_click as click

from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.registry.registry import TASK_GROUP


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
    names = {f"{point.group.removeprefix(TASK_GROUP)}:{point.name}" for point in _entry_points()}
    return sorted(name for name in names if name.startswith(typed))


def packages_with_tasks() -> set[str]:
    """The top level packages of their authors; none is imported for it."""
    return {point.module.split(".")[0] for point in _entry_points()}


def _entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points()
    for group in points.groups:
        if group.startswith(TASK_GROUP):
            yield from points.select(group=group)
