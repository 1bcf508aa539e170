"""The group of all commands, and the console script."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import rich_click as click
from click.shell_completion import add_completion_class

from diracx.tasks.cli.completion import ColonsInBash
from diracx.tasks.cli.exit_codes import ExitCode, explain
from diracx.tasks.cli.lazy import LazyCommand, LazyGroup

PROGRAM = "diracx-task-run"

# All commands inherit it from the group.
HELP = {"max_width": 100, "text_paragraph_linebreaks": "\n\n", "envvar_string": "[${}]"}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.rich_config(HELP)
@click.version_option(package_name="diracx-tasks", prog_name=PROGRAM)
def app() -> None:
    """Run DiracX tasks on NATS JetStream, and look after them.

    Exit codes: 0 done; 1 the task failed; 2 bad usage, unknown task or bad arguments; 69 no server; 75 a lock is held.
    """


@click.group("dlq", cls=LazyGroup, panel="See and operate")
def dead_letters() -> None:
    """See dead tasks, put them back or remove them."""


@click.group("locks", cls=LazyGroup, panel="See and operate")
def locks() -> None:
    """See who holds which lock, and take one away."""


@click.group("schedule", cls=LazyGroup, panel="See and operate")
def schedule() -> None:
    """See the schedules of periodic tasks, or run one once now."""


@click.group("config", cls=LazyGroup, panel="See and operate")
def config() -> None:
    """See and set the configuration that workers and schedulers follow."""


def _add(group: click.RichGroup, panel: str, name: str, module: str, short_help: str) -> None:
    group.add_command(LazyCommand(name, f"{__package__}.commands.{module}", short_help, panel))


_add(app, "Run", "call", "call", "Execute a task here and now, and print its result.")
_add(app, "Run", "submit", "submit", "Hand a task to the workers, and print its id.")
_add(app, "Run", "cancel", "cancel", "Take back a task that was submitted for later.")
_add(app, "Run", "worker", "worker", "Execute tasks of one size as they come.")
_add(app, "Run", "scheduler", "scheduler", "Submit periodic tasks on their schedules.")
_add(app, "Run", "dev", "dev", "Run a server, workers and the scheduler here, to try tasks.")
_add(app, "See and operate", "status", "status", "Show queues, locks, scheduler and workers at a glance.")
_add(app, "See and operate", "tasks", "tasks", "List the tasks that are installed here.")
for group in (schedule, dead_letters, locks, config):
    app.add_command(group)
_add(app, "See and operate", "pause", "pause", "Hand out no more tasks of a queue.")
_add(app, "See and operate", "resume", "resume", "Hand out the tasks of a paused queue again.")
_add(app, "See and operate", "setup", "setup", "Create or update streams, consumers and buckets.")
_add(dead_letters, "Dead letters", "list", "dlq.list", "List the dead letters.")
_add(dead_letters, "Dead letters", "show", "dlq.show", "Show one with its whole story.")
_add(dead_letters, "Dead letters", "replay", "dlq.replay", "Put dead tasks back into their queues.")
_add(dead_letters, "Dead letters", "purge", "dlq.purge", "Remove dead tasks for good.")
_add(locks, "Locks", "list", "locks.list", "List the locks that are held.")
_add(locks, "Locks", "release", "locks.release", "Take a lock away from whoever holds it.")
_add(schedule, "Schedules", "list", "schedule.list", "List the schedules.")
_add(schedule, "Schedules", "run", "schedule.run", "Run a periodic task once now.")
_add(config, "Configuration", "show", "config.show", "Show the configuration.")
_add(config, "Configuration", "set", "config.set", "Put a file in force.")


add_completion_class(ColonsInBash, "bash")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; what goes wrong is told in a line on standard error.

    Args:
        arguments: Without the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    try:
        return int(app.main(arguments, prog_name=PROGRAM, standalone_mode=False) or ExitCode.DONE)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            traceback.print_exc()
            return ExitCode.BUG
        code, text = explained
        print(f"error: {text}", file=sys.stderr)
        return code


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run())
