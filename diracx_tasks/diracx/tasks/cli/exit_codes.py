"""What the process says at its end: the one place that maps errors to exit codes and lines."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import click

from diracx.tasks.plumbing.exceptions import (
    MalformedTaskError,
    SendTaskError,
    ServerError,
    TaskDefinitionError,
    UnableToAcquireLockError,
    UnknownTaskError,
)


class ExitCode(IntEnum):
    """Exit codes; those from 64 on are those of `sysexits.h`, and 128 + n is the end by signal n."""

    DONE = 0
    TASK_FAILED = 1
    USAGE = 2
    """Bad usage, an unknown or broken task, bad arguments, a bad namespace or setting."""
    UNAVAILABLE = 69
    """No server, or one that is too old, set up otherwise, or that refused what was asked."""
    BUG = 70
    """An error that nobody foresaw; it comes with its traceback."""
    LOCKED = 75
    """A lock is held; try again later."""
    INTERRUPTED = 130


_MANY: Final = 20
"""Names of tasks that are listed: the error above them must stay on the screen."""

NOTHING_INSTALLED = (
    "no tasks are installed here: install a package that lists some under "
    '[project.entry-points."diracx.tasks.<category>"]'
)


def explain(error: BaseException) -> tuple[ExitCode, str] | None:
    """The exit code of an error and what to write on standard error; None for one that nobody foresaw."""
    match error:
        case click.UsageError():
            return ExitCode.USAGE, _usage(error)
        case click.ClickException():
            return ExitCode.USAGE, error.format_message()
        case click.Abort() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED, "interrupted"
        case UnknownTaskError():
            return ExitCode.USAGE, f"{error}\n{_installed(error.known) if error.known else NOTHING_INSTALLED}"
        case TaskDefinitionError() | MalformedTaskError():
            return ExitCode.USAGE, str(error)
        case UnableToAcquireLockError():
            return ExitCode.LOCKED, str(error)
        case ServerError() | SendTaskError():
            return ExitCode.UNAVAILABLE, str(error)
    return None


def _usage(error: click.UsageError) -> str:
    # click lists choices over several lines.
    message = " ".join(error.format_message().split()).rstrip(".")
    if error.ctx is None or "see `" in message:
        return message
    # A question of click's, "Did you mean ...?", ends a sentence.
    joint = " See" if message.endswith(("?", "?)")) else "; see"
    return f"{message}{joint} `{error.ctx.command_path} --help`"


def _installed(names: Sequence[str]) -> str:
    shown = names if len(names) <= _MANY else names[:_MANY]
    more = [f"  and {len(names) - _MANY} more; see `diracx-task-run tasks`"] if len(names) > _MANY else []
    return "\n".join(["installed tasks:", *(f"  {name}" for name in shown), *more])
