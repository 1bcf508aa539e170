"""The declarations of the commands of the configuration: `config show`, `history`, `diff`, `set` and `rollback`."""

from __future__ import annotations

from typing import Final

import rich_click as click

from diracx.tasks.cli.options import MAX_SEQUENCE, Number, declared, json_option, log_option, runs, server_options

_REVISION: Final = Number(1, MAX_SEQUENCE)

_file_argument: Final = click.argument(
    "file",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    envvar="DIRACX_TASKS_CONFIG",
    help="The YAML file; `-` reads standard input.",
)


@declared("show")
@click.option("--revision", "number", type=_REVISION, metavar="N", help="Show this revision, not the latest one.")
@click.option("--text", "text_only", is_flag=True, help="Show the text alone, without the comments on its limits.")
@json_option
@log_option("warning")
@server_options
@runs("config.show")
def show() -> None:
    """Show the text of the configuration that is in force, and the limits that it sets.

    The limits follow the text as comments: each with the task or the locked object that it limits, its VO, and the
    place in the file where it is written. `config set` and `config diff` leave these comments out again.

    --json prints {"revision", "text", "limits"}. Revision 0 means that no configuration is set.

    \b
    diracx-task-run config show
    diracx-task-run config show --text > mesh.yaml
    diracx-task-run config show --revision 5 --json
    """


@declared("history")
@json_option
@log_option("warning")
@server_options
@runs("config.history")
def history() -> None:
    """List the last revisions of the configuration, the latest at the end. The server keeps 20.

    The author is the user and the host of the process that wrote the revision, as it says itself. In force is the
    latest valid revision. --json: [{"revision", "written", "author", "in_force", "same_as", "problem", "changes"}].

    \b
    diracx-task-run config history
    diracx-task-run config show --revision 5
    diracx-task-run config rollback 5
    """


@declared("diff")
@_file_argument
@json_option
@log_option("warning")
@server_options
@runs("config.diff")
def diff() -> None:
    """Show what a YAML file would change, and for which tasks. Nothing is stored.

    First come the lines of the text that differ, then the settings that change in effect: of installed tasks, of VOs
    with settings of their own, and of locked objects. The exit code is 0 with changes and without, and 2 if the file
    would be refused. --json: {"revision", "diff", "changes"}, with the revision in force.

    \b
    diracx-task-run config diff mesh.yaml
    diracx-task-run config show --revision 5 | diracx-task-run config diff -
    """


@declared("set")
@_file_argument
@json_option
@log_option("warning")
@server_options
@runs("config.set")
def set_() -> None:
    """Put a YAML file in force. Workers and schedulers follow it within 2 seconds.

    \b
    vos: [lhcb, atlas]
    tasks:
      lollygag:OwnerReportTask:
        schedule: {cron: "0 7 * * *", timezone: Europe/Zurich}
        rate_limit: {limit: 10, window_seconds: 60}
        concurrency_limit: 5
        vos:
          atlas: {enabled: false}

    A schedule is one of cron, interval (seconds) and rrule. A file with an unknown key or a bad value, or that does not
    fit an installed task, is refused, and the current configuration stays in force. {} removes all settings.

    Prints the settings that change, as `config diff` does, then the revision. A file with the text that is in force
    makes no new revision. --json: {"revision", "changes"}.

    \b
    diracx-task-run config set mesh.yaml
    diracx-task-run config show | sed 's/limit: 5/limit: 6/' | diracx-task-run config set -
    """


@declared("rollback")
@click.argument(
    "number", type=_REVISION, required=False, metavar="REVISION", help="The revision; by default the one before."
)
@json_option
@log_option("warning")
@server_options
@runs("config.rollback")
def rollback() -> None:
    """Put an earlier revision in force again. Its text becomes a new revision, so a rollback can be undone like any
    other change.

    Without REVISION it restores the latest valid revision before the one that was written last, with another text. The
    text is checked like that of `config set`. If somebody writes at the same moment, nothing is changed.

    Prints the settings that change, then the new revision. --json: {"revision", "restored", "changes"}.

    \b
    diracx-task-run config history
    diracx-task-run config rollback
    diracx-task-run config rollback 5
    """
