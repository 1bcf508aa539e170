"""What the process says at its end: the one place that maps errors to exit codes and lines."""

from __future__ import annotations

from enum import IntEnum

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


NOTHING_INSTALLED = (
    "no tasks are installed here: install a package that lists some under "
    '[project.entry-points."diracx.tasks.<category>"]'
)


def explain(error: BaseException) -> tuple[ExitCode, str] | None:
    """The exit code of an error and what to write on standard error; None for one that nobody foresaw."""
    match error:
        case click.UsageError():
            where = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
            # click lists choices over several lines.
            message = " ".join(error.format_message().split()).rstrip(".")
            return ExitCode.USAGE, f"{message}{where}"
        case click.ClickException():
            return ExitCode.USAGE, error.format_message()
        case click.Abort() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED, "interrupted"
        case UnknownTaskError():
            known = "\n".join(["installed tasks:", *(f"  {name}" for name in error.known)])
            return ExitCode.USAGE, f"{error}\n{known if error.known else NOTHING_INSTALLED}"
        case TaskDefinitionError() | MalformedTaskError():
            return ExitCode.USAGE, str(error)
        case UnableToAcquireLockError():
            return ExitCode.LOCKED, str(error)
        case ServerError() | SendTaskError():
            return ExitCode.UNAVAILABLE, str(error)
    return None
