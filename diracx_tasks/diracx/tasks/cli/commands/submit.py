"""`diracx-task-run submit`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import rich_click as click

from diracx.tasks.cli.access import connection_name, producer
from diracx.tasks.cli.arguments import labels_from, task_from
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access, log_option, server_options, task_arguments
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.cli.terminal.output import say
from diracx.tasks.cli.times import Seconds, due_time
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.registry import TaskRegistry


@click.command("submit")
@task_arguments
@click.option(
    "--at", metavar="TIME", help="The time to run the task, RFC 3339 with an offset or Z. A past time means now."
)
@click.option("--delay", metavar="SECONDS", type=Seconds(), help="Run the task after this many seconds.")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A label to store with the task; repeatable."
)
@log_option("warning")
@server_options
def command(
    *,
    entry_point: str,
    args: str | None,
    kwargs: str | None,
    at: str | None,
    delay: timedelta | None,
    labels: Sequence[str],
    access: Access,
) -> None:
    """Submit a task to the workers, and print its id.

    The command prints the id, and nothing else on standard output, after the server has stored the task.
    """
    registry, registered = installed_task(entry_point)
    task = task_from(registered, args, kwargs)
    with telemetry_from(os.environ, f"{access.namespace}-producer", connection_name("producer", "submit")):
        due = due_time(at, delay)
        say(asyncio.run(_submit(access, registry, registered.name, task, due, labels_from(labels))))


async def _submit(
    access: Access,
    registry: TaskRegistry,
    name: str,
    task: BaseTask,
    due: datetime | timedelta | None,
    labels: Mapping[str, str],
) -> str:
    async with producer(access, registry, "submit") as broker:
        if isinstance(due, timedelta):
            due = broker.connection.clock.now() + due  # the clock of this machine may be wrong
        return await broker.submit(task, at_time=due, labels=labels, name=name)
