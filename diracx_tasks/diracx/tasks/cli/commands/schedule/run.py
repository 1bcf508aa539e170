"""`diracx-task-run schedule run`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import producer
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.operations.run_now import Started, check_choice, run_now
from diracx.tasks.plumbing.operations.schedules import NoSuchScheduleError
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry


def command(*, task: str, vo: str | None, entry: str | None, access: Access) -> None:
    registry, registered = installed_task(task)
    try:
        check_choice(registered, vo)  # before a server is asked
        started = asyncio.run(_submit(access, registry, registered, vo, entry))
    except NoSuchScheduleError as error:
        raise click.UsageError(str(error)) from None
    if started.unchecked is not None:
        note(f"warning: {started.unchecked}")
    say(started.id)


async def _submit(
    access: Access, registry: TaskRegistry, registered: RegisteredTask, vo: str | None, entry: str | None
) -> Started:
    async with producer(access, registry, "schedule") as broker:
        return await run_now(broker, registered, vo, entry)
