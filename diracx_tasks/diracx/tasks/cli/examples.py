"""A command line that a person can try at once, for what is installed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final, get_type_hints

from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry

_VALUES: Final[dict[Any, object]] = {str: "...", int: 1, float: 1.0, bool: False}


def example(registry: TaskRegistry) -> str | None:
    """What follows the name of the program; None where no task is installed.

    A task that is submitted by hand rather than by the scheduler, and one whose fields can be filled in, if there is.
    """
    tasks = list(registry)
    by_hand = [task for task in tasks if not task.periodic]
    for task in by_hand:
        if (fields := _fields(task)) is not None:
            return f"submit {task.name}" + (f" --kwargs '{json.dumps(fields)}'" if fields else "")
    if by_hand:
        return f"submit {by_hand[0].name} --kwargs '{{...}}'"
    for task in tasks:
        per_vo = issubclass(task.task_class, PeriodicVoAwareBaseTask)
        return f"schedule run {task.name}" + (" --vo NAME" if per_vo else "")
    return None


def _fields(task: RegisteredTask) -> dict[str, object] | None:
    """A value for each field that has no default; None where only the author knows one."""
    kinds = get_type_hints(task.task_class)
    needed = [
        field.name
        for field in task.codec.fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if any(kinds[name] not in _VALUES for name in needed):
        return None
    values = {name: _VALUES[kinds[name]] for name in needed}
    try:
        task.codec.from_arguments([], values)
    except MalformedTaskError:
        return None
    return values
