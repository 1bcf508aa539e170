"""`diracx-task-run schedule run`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import producer
from diracx.tasks.cli.installed import complete_tasks, installed_task
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry


@click.command("run")
@click.argument(
    "task",
    metavar="TASK",
    help="The task, <category>:<ClassName>; `schedule list` lists them.",
    shell_complete=complete_tasks,
)
@click.option("--vo", metavar="NAME", help="The virtual organisation, for a task that runs per VO.")
@log_option("warning")
@server_options
def command(*, task: str, vo: str | None, access: Access) -> None:
    """Submit a periodic task once, now, in addition to its schedule, and print its id.

    The task waits for its locks like any occurrence. It runs even if its schedule is disabled.
    """
    registry, registered = installed_task(task)
    print(asyncio.run(_submit(access, registry, _task(registered, vo))))


def _task(registered: RegisteredTask, vo: str | None) -> BaseTask:
    if not registered.periodic:
        raise click.UsageError(f"{registered.name} has no schedule; hand it to the workers with `submit`")
    per_vo = issubclass(registered.task_class, PeriodicVoAwareBaseTask)
    if per_vo and not vo:
        raise click.UsageError(f"{registered.name} runs per VO; say for which with --vo")
    if vo and not per_vo:
        raise click.UsageError(f"{registered.name} does not run per VO; leave --vo out")
    try:
        return registered.codec.from_arguments([], {"vo": vo} if vo else {})
    except MalformedTaskError as error:
        raise MalformedTaskError(f"{registered.name} cannot be made without arguments: {error}") from None


async def _submit(access: Access, registry: TaskRegistry, task: BaseTask) -> str:
    async with producer(access, registry, "schedule") as broker:
        return await broker.submit(task)
