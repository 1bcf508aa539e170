"""`diracx-task-run find`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.arguments import labels_from
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import STATES, FoundTask, SearchResult, TaskSearch, Wanted

_COLUMNS = ("id", "task", "state", "queue", "submitted", "until", "attempts", "worker", Prose("reason"))


def command(
    *, states: Sequence[str], task: str | None, labels: Sequence[str], limit: int, as_json: bool, access: Access
) -> None:
    wanted = Wanted([State(each) for each in states] or STATES, task, labels_from(labels), limit)
    result = asyncio.run(_find(access, wanted))
    if as_json:
        print_document(result.tasks)
    elif result.tasks:
        print_table(_COLUMNS, [_row(each) for each in result.tasks])
    else:
        note("no task is found")
    if result.incomplete:
        note(f"there may be more that are {' or '.join(result.incomplete)}; --limit {10 * limit} shows more")
    if not result.workers_known:
        note("this user may not ask the workers: running tasks are listed as parked")


async def _find(access: Access, wanted: Wanted) -> SearchResult:
    namespace = namespace_of(access)
    registry = installed_tasks()
    async with operator_connection(access, "find") as connection:
        with mesh_expected(namespace):
            return await TaskSearch(connection, namespace, registry).find(wanted)


def _row(found: FoundTask) -> list[object]:
    attempts = found.attempts or None
    return [
        shown(found.id),
        shown(found.task),
        found.state,
        found.queue,
        found.submitted,
        found.until,
        attempts,
        found.worker,
        found.reason,
    ]
