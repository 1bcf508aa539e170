"""The declarations of the commands that run until they are stopped: `worker`, `scheduler`, `dev`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import rich_click as click

from diracx.tasks.cli.options import (
    Command,
    Number,
    VoName,
    declared,
    log_option,
    namespace_option,
    runs,
    server_options,
)
from diracx.tasks.cli.times import Seconds
from diracx.tasks.plumbing.enums import Size

MAX_SLOTS: Final = 100_000
"""More tasks at once are a typing error."""

LOOPS: Final = ("auto", "asyncio", "uvloop")

_loop_option: Final = click.option(
    "--loop",
    type=click.Choice(LOOPS),
    default="auto",
    show_default=True,
    metavar="LOOP",
    envvar="DIRACX_TASKS_LOOP",
    show_envvar=True,
    help="The event loop: uvloop, asyncio, or auto, which is uvloop where that is installed.",
)


def _health_options(command: Command) -> Command:
    """Add `--health-port` and `--health-host`."""
    for option in (
        click.option(
            "--health-host",
            default="127.0.0.1",
            show_default=True,
            metavar="HOST",
            envvar="DIRACX_TASKS_HEALTH_HOST",
            show_envvar=True,
            help="The address on which --health-port listens.",
        ),
        click.option(
            "--health-port",
            type=Number(0, 65535),
            metavar="PORT",
            envvar="DIRACX_TASKS_HEALTH_PORT",
            show_envvar=True,
            help="Serve /live and /ready over HTTP. 0 takes a free port; the log names it.",
        ),
    ):
        command = option(command)
    return command


@declared("worker")
@click.option(
    "--worker-size",
    "size",
    type=click.Choice([size.value for size in Size]),
    required=True,
    metavar="SIZE",
    help="The size of the tasks to execute: small, medium or large.",
)
@click.option(
    "--max-concurrent-tasks",
    "slots",
    type=Number(1, MAX_SLOTS),
    metavar="N",
    help="The number of tasks at once; 100 for small, 10 for medium, 1 for large.",
)
@click.option("--burst", is_flag=True, help="End when no due task is left.")
@click.option(
    "--grace",
    type=Seconds(),
    default="30",
    show_default=True,
    metavar="SECONDS",
    help="The time that running tasks have to end after a signal.",
)
@click.option(
    "--lock-retry-delay",
    type=Seconds(),
    default="5",
    show_default=True,
    metavar="SECONDS",
    help="The first wait of a task whose lock is held, give or take a quarter. It grows up to a minute.",
)
@_loop_option
@_health_options
@click.option("--stop-with-input", is_flag=True, hidden=True, help="Stop when standard input ends.")
@log_option("info")
@server_options
@runs("worker")
def worker() -> None:
    """Execute submitted tasks of one size.

    SIGTERM and Ctrl-C stop the worker: it begins no more tasks and gives running tasks the grace period. Tasks that
    have not ended by then are cancelled and given back to other workers, which does not count as a retry. A second
    signal ends the grace period at once.
    """


@declared("scheduler")
@click.option(
    "--vo",
    "vos",
    type=VoName(),
    metavar="NAME",
    multiple=True,
    help="A virtual organisation; repeatable. These VOs replace those of the configuration and of DiracX.",
)
@click.option(
    "--takeover",
    type=Seconds(),
    default="12",
    show_default=True,
    metavar="SECONDS",
    help="A standby replaces a vanished leader within this time; 5 or more. The server holds the occurrences of at "
    "least twice this time ahead.",
)
@_loop_option
@_health_options
@click.option("--stop-with-input", is_flag=True, hidden=True, help="Stop when standard input ends.")
@log_option("info")
@server_options
@runs("scheduler")
def scheduler() -> None:
    """Submit periodic tasks on their schedules.

    Any number of schedulers may run, with the same options: one leads, the others stand by. On SIGTERM or Ctrl-C a
    scheduler gives up the leadership and ends.

    A task that runs per VO gets a schedule for each VO. The VOs are those of --vo, or else those of `vos:` in the
    configuration, or else those of the DiracX configuration (DIRACX_CONFIG_BACKEND_URL).
    """


@declared("dev")
@click.option(
    "--port",
    type=Number(1, 65535),
    metavar="PORT",
    help="The port of the server; 4222 by default, or a free port if it is taken.",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".diracx-tasks"),
    show_default=True,
    metavar="FOLDER",
    help="The folder in which the server keeps its streams from one run to the next.",
)
@click.option("--no-dashboard", is_flag=True, help="Start no dashboard.")
@namespace_option
@runs("dev")
def dev() -> None:
    """Run a server, one worker of each size, a scheduler and the dashboard, until Ctrl-C.

    Submitted tasks survive a restart, in the folder of --store. Workers load changed code when this command is started
    again. The server admits you alone: your other commands on this host find its password by themselves.
    """
