"""`diracx-task-run schedule list`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.operations.schedules import ListedSchedule, NoSuchScheduleError, ScheduleReader, Schedules
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.times import readable_time


def command(*, vos: Sequence[str], as_json: bool, access: Access) -> None:
    registry = installed_tasks()
    read = asyncio.run(_schedules(access, registry, vos))
    listed = sorted([*read.listed, *read.without_vo], key=lambda each: each.task)
    if as_json:
        print_document(listed)
    elif listed:
        _print(listed)
    elif not as_json:
        note("no periodic task is installed here, or none has an entry")
    if read.runs_problem is not None:
        note(f"warning: how the latest runs have ended cannot be read: {read.runs_problem}")
    if registry.problems:
        note("warning: not all installed tasks can be loaded, so schedules may be missing; see `diracx-task-run tasks`")


def _print(listed: Sequence[ListedSchedule]) -> None:
    columns: list[str | Prose] = ["task", "vo", Prose("schedule"), "last", Prose("last run"), Prose("next")]
    rows: list[list[object]] = [
        [each.task, each.vo, each.schedule, each.last, _last_run(each), each.next or each.why_not] for each in listed
    ]
    if any(each.entry or each.args for each in listed):
        columns[2:2] = ["entry", Prose("arguments")]
        for row, each in zip(rows, listed, strict=True):
            row[2:2] = [each.entry, msgspec.json.encode(each.args).decode() if each.args else None]
    print_table(columns, rows)


def _last_run(listed: ListedSchedule) -> str | None:
    """How the latest run has ended: `last` was handed over, run or not."""
    if (ran := listed.ran) is None:
        return None if listed.last is None else "not known"
    error = "" if ran.error is None else f" ({ran.error})"
    late = "" if ran.due == listed.last else f", that of {readable_time(ran.due)}"
    return f"{ran.outcome}{error} at {readable_time(ran.ended)} after {ran.duration:.1f} s{late}"


async def _schedules(access: Access, registry: TaskRegistry, named: Sequence[str]) -> Schedules:
    namespace = namespace_of(access)
    async with operator_connection(access, "schedule") as connection, mesh_expected(connection, namespace):
        try:
            return await ScheduleReader(connection, namespace, registry).read(named)
        except NoSuchScheduleError as error:
            raise click.UsageError(str(error)) from None
