"""`diracx-task-run tasks`."""

from __future__ import annotations

from typing import Any

from diracx.tasks.cli.exit_codes import NOTHING_INSTALLED, NOTHING_WORKS
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Columns, Prose, print_table
from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.registry import RegisteredTask


def command(*, as_json: bool) -> None:
    registry, resources = installed_tasks(_warn), Resources()
    described = [_describe(task) for task in registry if _works(task, resources)]
    if as_json:
        print_document(described)
    elif not described:
        note(NOTHING_WORKS if registry.problems or len(registry) else NOTHING_INSTALLED)
    else:
        rows = [
            [
                task["name"],
                task["priority"],
                task["size"],
                f"{task['schedule']} (off by default)" if task["enabled_by_default"] is False else task["schedule"],
                task["retry_policy"],
                "yes" if task["dlq_eligible"] else "no",
                task["distribution"],
            ]
            for task in described
        ]
        columns: Columns = ["task", "priority", "size", Prose("schedule"), Prose("retry policy"), "dlq", "distribution"]
        print_table(columns, rows)


def _warn(problem: str) -> None:
    note(f"warning: {problem}")


def _works(task: RegisteredTask, resources: Resources) -> bool:
    try:
        resources.prepare(task.task_class, task.name)
    except TaskDefinitionError as error:
        _warn(f"{task.name}: {error}")
        return False
    return True


def _describe(task: RegisteredTask) -> dict[str, Any]:
    kind = task.task_class
    return {
        "name": task.name,
        "priority": kind.priority,
        "size": kind.size,
        "periodic": task.periodic,
        "schedule": _text(kind.default_schedule) if issubclass(kind, PeriodicBaseTask) else None,
        "retry_policy": _text(kind.retry_policy),
        "dlq_eligible": kind.dlq_eligible,
        "distribution": task.distribution,
        "enabled_by_default": kind._enabled if issubclass(kind, PeriodicBaseTask) else None,
    }


def _text(value: object) -> str:
    """Return the text of a value, or the name of its class if it would be an address in memory."""
    kind = type(value)
    has_text = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    return str(value) if has_text else kind.__qualname__
