"""`diracx-task-run find`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, missing_text, namespace_of, operator_connection
from diracx.tasks.cli.arguments import labels_from
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.storage import StorageReader
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import (
    MAX_MESSAGES,
    STATES,
    FoundTask,
    SearchResult,
    TaskSearch,
    Wanted,
)
from diracx.tasks.plumbing.worker.snapshot import MAX_ENDED

MAX_LIMIT: Final = 10_000
"""The highest value of `--limit`."""
_MAX_NAMED: Final = 5
"""More workers are counted."""

_COLUMNS = ("id", "task", "state", "queue", "submitted", "until", "attempts", "worker", "since", Prose("reason"))


def command(
    *, states: Sequence[str], task: str | None, labels: Sequence[str], limit: int, as_json: bool, access: Access
) -> None:
    wanted = Wanted([State(each) for each in states] or STATES, task, labels_from(labels), limit)
    if wanted.labels and set(wanted.states) == {State.FAILED}:
        problem = "workers do not keep the labels of what failed: search it by --task, or search other states"
        raise click.BadParameter(problem, param_hint=["--label"])
    result, missing = asyncio.run(_find(access, wanted))
    if as_json:
        print_document(result.tasks)
    elif result.tasks:
        print_table(_COLUMNS, [_row(each) for each in result.tasks])
    else:
        note("no task is found")
    if missing:
        note(f"warning: {missing_text(missing)}")
    for line in gaps(wanted, result):
        note(line)


def gaps(wanted: Wanted, result: SearchResult) -> Iterator[str]:
    """What the search does not tell, a line each."""
    if result.limited:
        limit = min(10 * wanted.limit, MAX_LIMIT)
        advice = f"; --limit {limit} shows more" if limit > wanted.limit else ""
        yield f"there may be more that are {' or '.join(result.limited)}{advice}"
    if unread := [state for state in result.unread if state is not State.FAILED]:
        yield f"{MAX_MESSAGES:,} messages were read and not all: there may be more that are {' or '.join(unread)}"
    if State.FAILED in result.unread:
        yield f"workers were asked for the latest {MAX_ENDED} failures: there may be more that are failed"
    if wanted.labels and State.FAILED in wanted.states:
        yield "workers do not keep the labels of what failed: none that is failed is listed"
    if not result.workers_known:
        yield "this user may not ask the workers: running tasks are listed as parked"
        if State.FAILED in wanted.states:
            yield "this user may not ask the workers: none that is failed is listed"
    if not {State.RUNNING, State.PARKED} & set(wanted.states):
        return
    if result.silent:
        yield f"no answer from {_listed(result.silent)}: running tasks may be listed as parked"
    if result.left_off:
        yield f"workers did not name {result.left_off:,} of their running tasks: these may be listed as parked"


def _listed(workers: Sequence[str]) -> str:
    more = len(workers) - _MAX_NAMED
    return ", ".join(map(shown, workers[:_MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


async def _find(access: Access, wanted: Wanted) -> tuple[SearchResult, list[str]]:
    """Search; return what was found, and which streams that were to be searched are missing."""
    namespace = namespace_of(access)
    registry = installed_tasks()
    async with operator_connection(access, "find") as connection, mesh_expected(connection, namespace):
        result = await TaskSearch(connection, namespace, registry).find(wanted)
        missing, _ = await StorageReader(connection, namespace).missing()
    places = {State.DELAYED: namespace.later_stream, State.DEAD: namespace.dead_letters_stream}
    searched = [f"stream {stream}" for state, stream in places.items() if state in wanted.states]
    return result, [each for each in searched if each in missing]


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
        found.since,
        found.reason,
    ]
