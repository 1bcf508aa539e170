"""The declarations of the commands that execute, submit or cancel a task: `call`, `submit`, `result`, `cancel`."""

from __future__ import annotations

from enum import StrEnum

import rich_click as click

from diracx.tasks.cli.options import declared, json_option, log_option, runs, server_options, task_arguments
from diracx.tasks.cli.times import Seconds


class Debugger(StrEnum):
    """When pdb opens."""

    NONE = "none"
    BEFORE = "before"
    """At the first line of `execute()`, after its dependencies are injected."""
    EXCEPTION = "exception"
    """At the line that raised an exception, after the dependencies are closed and while the locks are held."""


@declared("call")
@task_arguments
@click.option(
    "--debugger",
    type=click.Choice([choice.value for choice in Debugger]),
    default=Debugger.NONE.value,
    show_default=True,
    metavar="WHEN",
    help="When pdb opens: before opens it at the first line of execute(), exception where an exception was raised. "
    "The task keeps its locks meanwhile, and its timeout_seconds does not apply.",
)
@log_option("warning")
@server_options
@runs("call")
def call() -> None:
    """Execute a task once in this process, and print its result.

    The task gets its dependencies and holds its locks, but takes no rate or concurrency limiter. `Result:` is followed
    by the str() of the value that execute() returns. A failed task is not retried. Its traceback is printed, and then
    the next step that a worker would take.

    If no server is reachable, the command starts one for this call alone. Its locks do not exclude other processes,
    and the task cannot submit tasks.
    """


@declared("submit")
@task_arguments
@click.option(
    "--at", metavar="TIME", help="The time to run the task, RFC 3339 with an offset or Z. A past time means now."
)
@click.option("--delay", metavar="SECONDS", type=Seconds(), help="Run the task after this many seconds.")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A label to store with the task; repeatable."
)
@click.option("--wait", is_flag=True, help="Keep the result for a day, wait until the task has ended, and print it.")
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), help="With --wait: wait no longer. The task stays submitted."
)
@log_option("warning")
@server_options
@runs("submit")
def submit() -> None:
    """Submit a task to the workers, and print its id.

    The command prints the id, and nothing else on standard output, after the server has stored the task.

    With --wait the id goes to standard error. Then the command waits until the task has ended, and prints its result
    and exits as `call` does: with 1 if the task has failed for good, expired or was cancelled, or if it has not ended
    within --timeout. Ctrl-C ends the command, not the task: `task ID` shows where it is, and `result ID` its result.
    """


@declared("result")
@click.argument("id", metavar="ID", help="The id that `submit` printed.")
@json_option
@log_option("warning")
@server_options
@runs("result")
def result() -> None:
    """Show the result of a task that has ended, as far as it is kept.

    `Result:` is followed by the value that execute() returned, as JSON has it. The error of a task that has failed is
    printed with its traceback, and the exit code is 1. It is 1 as well if no result is there: the task has not ended,
    keeps no result, or its result has expired.
    """


@declared("cancel")
@click.argument("ids", metavar="ID...", nargs=-1, help="The ids of tasks, as `submit` prints them.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="All tasks of this name, <category>:<ClassName>, that were submitted until now. May be repeated.",
)
@click.option("--group", "groups", multiple=True, metavar="ID", help="The children of this group. May be repeated.")
@json_option
@log_option("warning")
@server_options
@runs("cancel")
def cancel() -> None:
    """Cancel tasks, wherever they are.

    A task for later is withdrawn. A waiting one is dropped when its turn comes, also if that is its retry. A running
    one gets a CancelledError at its next await; its locks are released, and there is no retry. A dead letter stays.

    The exit code is 0 if all that was named is cancelled or will be, and 1 otherwise: something has finished, does not
    yield, is a dead letter, or is not there.
    """
