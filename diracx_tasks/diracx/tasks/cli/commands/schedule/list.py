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


def command(*, vos: Sequence[str], as_json: bool, access: Access) -> None:
    registry = installed_tasks()
    listed, without_vo, _ = asyncio.run(_schedules(access, registry, vos))
    if as_json:
        print_document(listed)
    elif listed:
        _print(listed)
    if without_vo:
        note(
            f"not listed, since no VO is known: {', '.join(without_vo)}; give --vo NAME, or `vos:` in the configuration"
        )
    elif not listed and not as_json:
        note("no periodic task is installed here, or none has an entry")
    if registry.problems:
        note("warning: not all installed tasks can be loaded, so schedules may be missing; see `diracx-task-run tasks`")


def _print(listed: Sequence[ListedSchedule]) -> None:
    columns: list[str | Prose] = ["task", "vo", Prose("schedule"), "last", Prose("next")]
    rows: list[list[object]] = [
        [each.task, each.vo, each.schedule, each.last, each.next or each.why_not] for each in listed
    ]
    if any(each.entry or each.args for each in listed):
        columns[2:2] = ["entry", Prose("arguments")]
        for row, each in zip(rows, listed, strict=True):
            row[2:2] = [each.entry, msgspec.json.encode(each.args).decode() if each.args else None]
    print_table(columns, rows)


async def _schedules(access: Access, registry: TaskRegistry, named: Sequence[str]) -> Schedules:
    namespace = namespace_of(access)
    async with operator_connection(access, "schedule") as connection:
        with mesh_expected(namespace):
            try:
                return await ScheduleReader(connection, namespace, registry).read(named)
            except NoSuchScheduleError as error:
                raise click.UsageError(str(error)) from None
