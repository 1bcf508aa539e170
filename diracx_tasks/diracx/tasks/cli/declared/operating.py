"""The declarations of the commands that show the mesh and steer its queues: `status`, `tasks`, `pause` and others."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import rich_click as click

from diracx.tasks.cli.options import (
    Command,
    Number,
    complete_tasks,
    declared,
    json_option,
    log_option,
    runs,
    server_options,
)
from diracx.tasks.cli.times import Duration, Seconds
from diracx.tasks.plumbing.enums import Priority, Size

SHORTEST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(days=3_650)
ALERTS: Final = (
    "stream-missing",
    "bucket-missing",
    "consumer-missing",
    "no-leader",
    "storage-full",
    "stream-full",
    "dead-letters-full",
    "bucket-full",
    "due-not-sourced",
    "no-scheduler",
    "queue-not-served",
    "worker-gone",
    "storage-filling",
    "stream-filling",
    "bucket-filling",
    "replicas-behind",
    "wrong-clock",
    "task-not-served",
    "worker-isolated",
    "dead-letters",
    "queue-paused",
    "task-held",
    "history-missing",
)
"""The names of alerts, for completion: their module takes several times as long to import as a help page."""


def _complete_queues(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    names = (f"{priority}-{size}" for priority in Priority for size in Size)
    return [name for name in names if name.startswith(typed)]


def _complete_alerts(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    return [name for name in ALERTS if name.startswith(typed)]


def _queue_arguments(command: Command) -> Command:
    """Add `QUEUE...` and `--all`."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All nine queues."),
        click.argument(
            "queues",
            metavar="[QUEUE]...",
            nargs=-1,
            shell_complete=_complete_queues,
            help="A queue, <priority>-<size>, e.g. normal-small; or its subject.",
        ),
    ):
        command = option(command)
    return command


@declared("status")
@click.option("--watch", is_flag=True, help="Show the status again and again until Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(),
    default="2",
    show_default=True,
    metavar="SECONDS",
    help="The time between two updates of --watch.",
)
@click.option("--check", "checks", is_flag=True, help="For monitors: look once; the exit code tells the worst alert.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="NAME",
    shell_complete=_complete_alerts,
    help="An alert that does not count for --check, e.g. dead-letters; may be given several times.",
)
@json_option
@log_option("error")
@server_options
@runs("status")
def status() -> None:
    """Show the queues, locks, scheduler and workers.

    Waiting tasks have not been delivered yet. Running tasks are with a worker. Parked tasks wait for a retry or a lock.
    `oldest` is the age of the oldest waiting task. A worker that does not answer within two seconds is not listed.
    An isolated task may be killing its workers: the worker runs it alone at first.
    Alerts say what is wrong, each with the command that mends it.

    With --watch, --json prints one document a line. With --check, as for Nagios: 0 OK, 1 WARNING, 2 CRITICAL, also for
    bad usage, 3 UNKNOWN (no server, or no permission); the first line says why, and each further alert has one more.
    """


@declared("task")
@click.argument("id", metavar="ID", help="The id of a task, as `submit` printed it, or of a group.")
@json_option
@log_option("warning")
@server_options
@runs("task")
def task() -> None:
    """Show where a task is now, and why it does not run.

    A task without an id of its own has the sequence of its message as its id. The locks that a task waits for are known
    where its class is installed. The exit code is 1 if nothing of this id is stored.
    """


@declared("find")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["running", "parked", "waiting", "delayed", "failed", "dead"]),
    help="Only tasks in this state. Repeatable.",
)
@click.option(
    "--task",
    metavar="NAME",
    help="Only tasks of this name, <category>:<ClassName>.",
    shell_complete=complete_tasks,
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only tasks with this label. Repeatable: all of them.",
)
@click.option(
    "--limit", type=Number(1, 10_000), default=50, show_default=True, metavar="N", help="The most in each state."
)
@json_option
@log_option("warning")
@server_options
@runs("find")
def find() -> None:
    """List the tasks that are in a queue, run, wait for later, have failed, or are dead letters.

    They come by state, the oldest first; dead letters and failures the latest first. A parked task waits for a retry or
    a lock, and the reason says which one where its class is installed. `failed` lists the latest failures that workers
    remember, retried or not, and only if it is asked for. `task ID` shows all of one task.
    """


@declared("history")
@click.option(
    "--since",
    type=Duration(timedelta(minutes=1), timedelta(days=30)),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How far back: 90 (seconds), 90s, 15m, 2h, 7d, 1w.",
)
@click.option(
    "--step",
    type=Duration(timedelta(minutes=1), timedelta(days=30)),
    metavar="DURATION",
    help="The time of one row; without it, as short as fits a screen.",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="QUEUE",
    help="Only this queue, <priority>-<size>. Repeatable.",
    shell_complete=_complete_queues,
)
@json_option
@log_option("warning")
@server_options
@runs("history")
def history() -> None:
    """Show what happened in the mesh: tasks that came, ended and failed, and how long they waited.

    The leading scheduler keeps the history, a sample each minute. `in` and `done` are tasks a minute. The wait is that
    before the first delivery. `waiting`, `parked` and `busy` are those at the end of a row. Without --step, a minute
    with --json.
    """


@declared("tasks")
@json_option
@log_option("warning")
@runs("tasks")
def tasks() -> None:
    """List the installed tasks.

    A task that cannot be loaded, or needs a dependency that cannot be injected, is a warning on standard error.
    """


@declared("pause")
@_queue_arguments
@click.option(
    "--for",
    "duration",
    type=Duration(SHORTEST_PAUSE, LONGEST_PAUSE),
    metavar="DURATION",
    help="The length of the pause: 90 (seconds), 90s, 15m, 2h, 7d, 1w. Without it, the pause lasts until `resume`.",
)
@log_option("warning")
@server_options
@runs("pause")
def pause() -> None:
    """Stop the delivery of a queue's tasks to all workers.

    Running tasks continue and end as usual. All other tasks stay in the queue, including those that wait for a retry or
    a lock. Producers can still submit tasks, as long as the queue has room. Other queues are not affected. A worker
    with --burst ends and leaves the paused tasks.

    If a queue is already paused, the new time replaces the old one.
    """


@declared("resume")
@_queue_arguments
@log_option("warning")
@server_options
@runs("pause", "resume_command")
def resume() -> None:
    """Resume the delivery of a paused queue.

    Idle workers receive its tasks within 5 seconds, busy workers with their next pull.
    """


@declared("setup")
@click.option("--replicas", type=Number(1, 5), metavar="N", help="The number of replicas of each stream, 1 to 5.")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write JSON files for the nats command and accounts for nats-server into this folder instead. No server is "
    "needed.",
)
@log_option("warning")
@server_options
@runs("setup")
def setup() -> None:
    """Create or update the streams, consumers and buckets.

    A worker does the same at its start if its user has the permission. The command leaves equal assets alone, updates
    safe differences, and reports an unsafe difference as an error. It does not change the limits of an existing stream,
    nor its replicas unless --replicas is given: these belong to the operator. On a cluster it says which replicas are
    behind.
    """
