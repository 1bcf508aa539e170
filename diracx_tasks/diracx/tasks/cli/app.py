"""The group of all commands, and the console script."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from diracx.tasks.cli.exit_codes import ExitCode, explain
from diracx.tasks.cli.lazy import LazyCommand, LazyGroup, NotOfTheUserError
from diracx.tasks.cli.own_log import end_log
from diracx.tasks.cli.processes.ending import end_in_time
from diracx.tasks.cli.terminal.printable import printable
from diracx.tasks.cli.terminal.streams import in_colours, open_streams, usable, warn_of_lost_output

PROGRAM = "diracx-task-run"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diracx-tasks", prog_name=PROGRAM)
def app() -> None:
    """Run and operate DiracX tasks on NATS JetStream.

    Exit codes: 0 done; 1 the task failed; 2 bad usage, unknown task or bad arguments; 69 no server; 70 an unforeseen
    error; 74 the output could not be written; 75 a lock is held; 79 the worker ended itself because of a task.
    """


@click.group("dlq", cls=LazyGroup, panel="See and operate")
def dead_letters() -> None:
    """List, show, replay or purge dead letters."""


@click.group("locks", cls=LazyGroup, panel="See and operate")
def locks() -> None:
    """List the locks that are held, or release one."""


@click.group("schedule", cls=LazyGroup, panel="See and operate")
def schedule() -> None:
    """List the schedules of periodic tasks, or run a periodic task now."""


@click.group("config", cls=LazyGroup, panel="See and operate")
def config() -> None:
    """Show, compare, set or roll back the configuration of workers and schedulers."""


def _add(group: click.Group, panel: str, name: str, location: str, short_help: str) -> None:
    group.add_command(LazyCommand(name, f"{__package__}.declared.{location}", short_help, panel))


_add(app, "Run", "call", "running:call", "Execute a task in this process and print its result.")
_add(app, "Run", "submit", "running:submit", "Submit a task to the workers and print its id.")
_add(app, "Run", "result", "running:result", "Show the kept result of a task.")
_add(app, "Run", "cancel", "running:cancel", "Cancel a task that was submitted for later.")
_add(app, "Run", "worker", "processes:worker", "Execute submitted tasks of one size.")
_add(app, "Run", "scheduler", "processes:scheduler", "Submit periodic tasks on their schedules.")
_add(app, "Run", "dev", "processes:dev", "Run a server, workers and a scheduler on this machine.")
_add(app, "See and operate", "status", "operating:status", "Show queues, locks, scheduler and workers.")
_add(app, "See and operate", "dashboard", "dashboard:dashboard", "Show the mesh in a browser, and steer it.")
_add(app, "See and operate", "task", "operating:task", "Show where a task is, and why it does not run.")
_add(app, "See and operate", "find", "operating:find", "List the tasks that run, wait or are dead.")
_add(app, "See and operate", "history", "operating:history", "Show what happened in the mesh.")
_add(app, "See and operate", "tasks", "operating:tasks", "List the installed tasks.")
for group in (schedule, dead_letters, locks, config):
    app.add_command(group)
_add(app, "See and operate", "pause", "operating:pause", "Stop the delivery of a queue's tasks.")
_add(app, "See and operate", "resume", "operating:resume", "Resume the delivery of a paused queue.")
_add(app, "See and operate", "setup", "operating:setup", "Create or update streams, consumers and buckets.")
_add(dead_letters, "Dead letters", "list", "dead_letters:list_", "List the dead letters.")
_add(dead_letters, "Dead letters", "show", "dead_letters:show", "Show one dead letter with all its errors.")
_add(dead_letters, "Dead letters", "replay", "dead_letters:replay", "Put dead tasks back into their queues.")
_add(dead_letters, "Dead letters", "purge", "dead_letters:purge", "Remove dead letters for good.")
_add(locks, "Locks", "list", "locks:list_", "List the locks that are held.")
_add(locks, "Locks", "release", "locks:release", "Take a lock away from its holder.")
_add(schedule, "Schedules", "list", "schedule:list_", "List the schedules.")
_add(schedule, "Schedules", "run", "schedule:run", "Run a periodic task once, now.")
_add(config, "Configuration", "show", "configuration:show", "Show the configuration.")
_add(config, "Configuration", "history", "configuration:history", "List the last revisions.")
_add(config, "Configuration", "diff", "configuration:diff", "Show what a file would change.")
_add(config, "Configuration", "set", "configuration:set_", "Put a configuration file in force.")
_add(config, "Configuration", "rollback", "configuration:rollback", "Put an earlier revision in force again.")


class ColonsInBash(BashComplete):
    """Completes words with a colon in bash, such as the names of tasks.

    bash ends a word at a colon: for `call acme:Sy` it sends the words `call`, `acme`, `:` and `Sy`, and replaces only
    the last one with the completion. So this class joins the words again, and cuts from each completion the part that
    bash keeps.
    """

    _kept_by_bash = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words, and the word to be completed."""
        words, last = super().get_completion_args()
        whole: list[str] = []
        after_colon = False
        for word in [*words, last]:
            if whole and (after_colon or word == ":"):
                self._kept_by_bash = whole[-1] if word != ":" else f"{whole[-1]}:"
                whole[-1] += word
            else:
                self._kept_by_bash = ""
                whole.append(word)
            after_colon = word == ":"
        return whole[:-1], whole[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return the completions, each without the part that bash keeps."""
        items = super().get_completions(args, incomplete)
        for item in items:
            item.value = item.value.removeprefix(self._kept_by_bash)
        return items


add_completion_class(ColonsInBash, "bash")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. An error becomes one line on standard error, and an exit code.

    Args:
        arguments: The arguments without the program's name; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        return _run(arguments)
    finally:
        end_log()


def _as_utf_8(word: str) -> str:
    """Return a word as it was typed, although the locale is ASCII only. Python finds a file by the word as it is."""
    try:
        return word if os.path.exists(word) else os.fsencode(word).decode()
    except (UnicodeError, ValueError):
        return word


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return int(app.main(arguments, prog_name=PROGRAM, standalone_mode=False, color=in_colours()) or ExitCode.DONE)
    except Exception as raised:
        error = raised.error if isinstance(raised, NotOfTheUserError) else raised
        explained = explain(error)
        if explained is None:
            print(printable("".join(traceback.format_exception(error)).rstrip()), file=sys.stderr)
            return ExitCode.BUG
        code, text = explained
        if text:
            print(printable(f"error: {text}"), file=sys.stderr)
        return code


def main() -> None:
    """Run the command line of this process and exit with its code, whatever its tasks have left."""
    open_streams()
    code = _run([_as_utf_8(word) for word in sys.argv[1:]])
    sys.stdout, sys.stderr = usable(sys.stdout, 1), usable(sys.stderr, 2)
    if code != ExitCode.OUTPUT_LOST:
        warn_of_lost_output()
    # The work is done and the end has a limit: a further Ctrl-C would only replace the code by a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_in_time(code)
    sys.exit(code)
