"""The declarations of the commands of dead letters: `dlq list`, `show`, `replay` and `purge`."""

from __future__ import annotations

from typing import Any, Final

import rich_click as click

from diracx.tasks.cli.options import (
    MAX_SEQUENCE,
    Command,
    Number,
    complete_tasks,
    declared,
    json_option,
    log_option,
    runs,
    server_options,
)

LATEST: Final = 50
"""How many the table has, unless --limit says otherwise."""


class _GroupBy(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`task`, `error`, or both of them, in any order."""

    name = "group by"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, or fail with one line."""
        names = tuple(name.strip() for name in value.split(","))
        if len(set(names)) < len(names) or not {"task", "error"}.issuperset(names):
            self.fail(f"{value!r} is none of task, error and task,error", param, ctx)
        return names


def _filter_options(command: Command) -> Command:
    """Add `--task`, `--reason` and `--since`."""
    for option in (
        click.option(
            "--since",
            metavar="TIME|DURATION",
            help="The dead letters since a time, RFC 3339 with an offset or Z, or since a duration ago, as 90 "
            "(seconds), 90s, 15m, 2h, 7d, 1w.",
        ),
        click.option("--reason", metavar="TEXT", help="The dead letters with this text in their reason."),
        click.option(
            "--task",
            metavar="NAME",
            help="The dead letters of this task, <category>:<ClassName>.",
            shell_complete=complete_tasks,
        ),
    ):
        command = option(command)
    return command


def _selection_options(command: Command) -> Command:
    """Add `SEQ...`, `--all` and the options of a filter."""
    command = _filter_options(command)
    for option in (
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
        click.argument(
            "seq",
            metavar="[SEQ]...",
            type=Number(1, MAX_SEQUENCE),
            nargs=-1,
            help="One or more sequences, as `dlq list` shows them.",
        ),
    ):
        command = option(command)
    return command


@declared("list")
@click.option(
    "--limit",
    metavar="N",
    type=Number(0),
    help=f"The latest N; 0: all of them. Without it, the latest {LATEST}; with --json or --group-by, all.",
)
@click.option(
    "--group-by",
    metavar="task,error",
    type=_GroupBy(),
    help="How many of each task (task), of each type of error (error), or of each pair of them: when the first and "
    "the last died, and an example.",
)
@_filter_options
@json_option
@log_option("warning")
@server_options
@runs("dlq.list")
def list_() -> None:
    """List the dead letters, the oldest first.

    --json adds their arguments, their labels and all their errors.
    """


@declared("show")
@click.argument("seq", metavar="SEQ", type=Number(1, MAX_SEQUENCE), help="The sequence, as `dlq list` shows it.")
@json_option
@log_option("warning")
@server_options
@runs("dlq.show")
def show() -> None:
    """Show one dead letter: its arguments and labels, and each error with its traceback."""


@declared("replay")
@_selection_options
@log_option("warning")
@server_options
@runs("dlq.replay")
def replay() -> None:
    """Put dead tasks back into their queues, with all their retries.

    Each task keeps its id and is enqueued once, even if this command is killed and run again. A task whose message is
    gone is reported on standard error; if its SEQ was given, the exit code is 2.
    """


@declared("purge")
@_selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option("warning")
@server_options
@runs("dlq.purge")
def purge() -> None:
    """Remove dead letters for good, with payload, errors and the advisories of the server.

    A message that is still in its queue, though the server will never deliver it again, is removed as well.
    """
