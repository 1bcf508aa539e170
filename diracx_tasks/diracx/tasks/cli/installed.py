"""The installed tasks, with what could not be loaded told on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry


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
