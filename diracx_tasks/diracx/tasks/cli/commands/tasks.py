"""`diracx-task-run tasks`."""

from __future__ import annotations

import sys
from typing import Any

import rich_click as click

from diracx.tasks.cli.exit_codes import NOTHING_INSTALLED
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import json_option, log_option
from diracx.tasks.cli.terminal.output import print_document, print_table
from diracx.tasks.cli.terminal.tables import Columns, Prose
from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.registry import RegisteredTask


@click.command("tasks")
@json_option
@log_option("warning")
def command(*, as_json: bool) -> None:
    """List the tasks that are installed here.

    What could not be loaded, and what asks for something that cannot be injected, is a warning on standard error.
    """
    registry, resources = installed_tasks(), Resources()
    described = [_describe(task) for task in registry if _works(task, resources)]
    if as_json:
        print_document(described)
    elif not described:
        print(NOTHING_INSTALLED, file=sys.stderr)
    else:
        rows = [
            [
                task["name"],
                task["priority"],
                task["size"],
                task["schedule"],
                task["retry_policy"],
                "yes" if task["dlq_eligible"] else "no",
                task["distribution"],
            ]
            for task in described
        ]
        columns: Columns = ["task", "priority", "size", Prose("schedule"), Prose("retry policy"), "dlq", "distribution"]
        print_table(columns, rows)


def _works(task: RegisteredTask, resources: Resources) -> bool:
    try:
        resources.prepare(task.task_class, task.name)
    except TaskDefinitionError as error:
        print(f"warning: {task.name}: {error}", file=sys.stderr)
        return False
    return True


def _describe(task: RegisteredTask) -> dict[str, Any]:
    kind = task.task_class
    return {
        "name": task.name,
        "priority": kind.priority,
        "size": kind.size,
        "periodic": task.periodic,
        "schedule": _in_words(kind.default_schedule) if issubclass(kind, PeriodicBaseTask) else None,
        "retry_policy": _in_words(kind.retry_policy),
        "dlq_eligible": kind.dlq_eligible,
        "distribution": task.distribution,
    }


def _in_words(value: object) -> str:
    """Its own words; the name of the class for one that has none, in place of an address in memory."""
    kind = type(value)
    has_words = kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
    return str(value) if has_words else kind.__qualname__
