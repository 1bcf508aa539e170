"""`diracx-task-run schedule list`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec
import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.commands.schedule.run import hint
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, print_document
from diracx.tasks.cli.terminal.tables import Prose, print_table
from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.operations.schedules import ListedSchedule, list_schedules
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler.store import JetStreamScheduleStore
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations


def command(*, vos: Sequence[str], as_json: bool, access: Access) -> None:
    registry = installed_tasks()
    listed, without_vo = asyncio.run(_schedules(access, registry, vos))
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


def check_vos(named: Sequence[str], known: Collection[str]) -> None:
    """Check VOs against those that are known; if none is, any may be meant.

    Raises:
        click.UsageError: One of them is not known.
    """
    for vo in named:
        if known and vo not in known:
            raise click.UsageError(f"no VO {vo!r} is known here; {hint(vo, sorted(known))}")


async def _schedules(
    access: Access, registry: TaskRegistry, named: Sequence[str]
) -> tuple[list[ListedSchedule], list[str]]:
    """Read the schedules, and the names of the tasks that have none since no VO is known.

    Raises:
        click.UsageError: A named VO is neither one of those in force nor one that has schedules.
    """
    namespace = namespace_of(access)
    async with operator_connection(access, "schedule") as connection:
        follower = ConfigurationFollower(connection, namespace)
        with mesh_expected(namespace):
            await follower.refresh()
            store = JetStreamScheduleStore(connection, namespace)
            states = await store.read_all()
        virtual_organisations = VirtualOrganisations()
        await virtual_organisations.read(follower.current)
        vos = virtual_organisations.current(follower.current) or ()
        if named:
            # The scheduler may have been given others than those in force; it has written states of them.
            check_vos(named, {*vos, *(key.vo for key in states if key.vo)})
            vos = tuple(named)
        listed = list_schedules(registry, follower.current, vos, states, store.unreadable, connection.clock.now())
    found = {each.task for each in listed}
    per_vo = (task.name for task in registry if issubclass(task.task_class, PeriodicVoAwareBaseTask))
    return listed, [] if vos else sorted(name for name in per_vo if name not in found)
