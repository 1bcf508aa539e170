"""The declarations of the commands of schedules: `schedule list` and `run`."""

from __future__ import annotations

import rich_click as click

from diracx.tasks.cli.options import (
    VoName,
    complete_tasks,
    declared,
    json_option,
    log_option,
    runs,
    server_options,
)


@declared("list")
@click.option(
    "--vo",
    "vos",
    type=VoName(),
    metavar="NAME",
    multiple=True,
    help="A virtual organisation, as given to the scheduler; repeatable.",
)
@json_option
@log_option("warning")
@server_options
@runs("schedule.list")
def list_() -> None:
    """List the schedules of the installed periodic tasks.

    The list shows the last and the next run of each task, or the reason why it does not run. A task with entries in the
    configuration has a line for each of them.
    """


@declared("run")
@click.argument(
    "task",
    metavar="TASK",
    help="The task, <category>:<ClassName>; `schedule list` lists them.",
    shell_complete=complete_tasks,
)
@click.option("--vo", metavar="NAME", help="The virtual organisation, for a task that runs per VO.")
@click.option("--entry", metavar="NAME", help="The entry, for a task that has entries in the configuration.")
@log_option("warning")
@server_options
@runs("schedule.run")
def run() -> None:
    """Submit a periodic task once, now, in addition to its schedule, and print its id.

    The task waits for its locks like any occurrence. It runs even if its schedule is disabled. An entry runs with its
    arguments.
    """
