"""Exit codes: the only mapping from errors to exit codes and to lines on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import click

from diracx.tasks.cli.terminal.streams import OutputLostError
from diracx.tasks.plumbing.exceptions import (
    BackgroundEndedError,
    MalformedTaskError,
    SendTaskError,
    ServerError,
    TaskDefinitionError,
    UnableToAcquireLockError,
    UnknownTaskError,
)


class ExitCode(IntEnum):
    """Exit codes. Codes from 64 to 78 follow `sysexits.h`; 79 is free there; 128 + n is the end by signal n.

    `status --check` has codes of its own, those of monitors: see `commands.status_check`.
    """

    DONE = 0
    TASK_FAILED = 1
    USAGE = 2
    """Bad usage, an unknown or broken task, bad arguments, or a bad namespace or setting."""
    UNAVAILABLE = 69
    """No server is reachable, or it is too old, is set up differently, or refused the request."""
    BUG = 70
    """An unexpected error; its traceback is printed or logged."""
    OUTPUT_LOST = 74
    """What the command shows could not be written to standard output. What it changes is changed."""
    LOCKED = 75
    """A lock is held; try again later."""
    STUCK = 79
    """A task kept a thread that it was told to leave, or held up the loop for too long; everything else was given
    back."""
    INTERRUPTED = 130


MAX_LISTED_TASKS: Final = 20
"""The error stands above the list, and has to stay on the screen."""

NOTHING_INSTALLED = (
    "no tasks are installed here: install a package that lists some under "
    '[project.entry-points."diracx.tasks.<category>"]'
)
NOTHING_WORKS = "no other tasks are installed here"
"""After warnings about those that are broken."""


def explain(error: BaseException) -> tuple[ExitCode, str] | None:
    """Return the exit code of an error and the text for standard error, or None for an unexpected error.

    The text is empty if the user knows: the reader of a pipe ended it.
    """
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
        case OutputLostError():
            return (ExitCode.DONE, "") if error.reader_is_gone else (ExitCode.OUTPUT_LOST, str(error))
        case BackgroundEndedError():
            return ExitCode.BUG, f"{error}; the process ended, so that it did not run on without it"
        case ServerError() | SendTaskError():
            return ExitCode.UNAVAILABLE, str(error)
    return None


def _usage(error: click.UsageError) -> str:
    # click writes choices on several lines.
    message = " ".join(error.format_message().split()).rstrip(".")
    if error.ctx is None or "see `" in message:
        return message
    # A message of click's may end with the question "Did you mean ...?".
    joint = " See" if message.endswith(("?", "?)")) else "; see"
    return f"{message}{joint} `{error.ctx.command_path} --help`"


def _installed(names: Sequence[str]) -> str:
    lines = ["installed tasks:", *(f"  {name}" for name in names[:MAX_LISTED_TASKS])]
    if (more := len(names) - MAX_LISTED_TASKS) > 0:
        lines.append(f"  and {more} more; see `diracx-task-run tasks`")
    return "\n".join(lines)
