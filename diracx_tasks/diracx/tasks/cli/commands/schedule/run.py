"""`diracx-task-run schedule run`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.installed import complete_tasks, installed_task
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry


@click.command("run")
@click.argument(
    "task", metavar="TASK", help="<category>:<ClassName>; see `schedule list`.", shell_complete=complete_tasks
)
@click.option("--vo", metavar="NAME", help="For which virtual organisation; for tasks that run per VO.")
@log_option("warning")
@server_options
def command(*, task: str, vo: str | None, access: Access) -> None:
    """Run a periodic task once now, beside its schedule, and print the id of the task.

    It waits for its locks as an occurrence does. It makes no difference whether the schedule is enabled.
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
    async with JetStreamBroker.connect(
        settings=settings_of(access),
        namespace=namespace_of(access).name,
        registry=registry,
        name=connection_name("producer", "schedule"),
    ) as broker:
        return await broker.submit(task)
