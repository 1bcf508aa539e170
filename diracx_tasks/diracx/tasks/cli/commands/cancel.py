"""`diracx-task-run cancel`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry


@click.command("cancel")
@click.argument("id", metavar="ID", help="The id that `submit` printed.")
@log_option("warning")
@server_options
def command(*, id: str, access: Access) -> int:  # noqa: A002 - the name that the help shows
    """Cancel a task that was submitted with --at or --delay and has not fallen due.

    The exit code is 1 if no such task is waiting: it has fallen due, was cancelled before, or was never submitted.
    """
    if not id:
        raise click.BadParameter("it is empty", param_hint=["ID"])
    if asyncio.run(_cancel(access, id)):
        say(f"cancelled {id}")
        return ExitCode.DONE
    note(f"{id} is not waiting: it has fallen due, was cancelled before, or was never submitted for later")
    return ExitCode.TASK_FAILED


async def _cancel(access: Access, task_id: str) -> bool:
    namespace = namespace_of(access)
    async with operator_connection(access, "cancel") as connection:
        with mesh_expected(namespace):
            return await JetStreamBroker(connection, namespace, TaskRegistry()).cancel(task_id)
