"""The result of a task that ran elsewhere, shown as `call` shows that of a task that ran here."""

from __future__ import annotations

from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.exceptions import TaskFailedError
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.wire.failure import message_of


def report(record: ResultRecord, *, silent: bool = False) -> ExitCode:
    """Print a result, or the error with its traceback on standard error; return the exit code.

    A task that has succeeded is done, although its value could not be kept: a line says so.

    Args:
        silent: Print nothing but that line, and one for the error: a document has the rest.
    """
    if record.problem is not None:
        note(f"warning: {record.task} has succeeded, but its value was not kept: {record.problem}")
        return ExitCode.DONE
    try:
        value = record.returned()
    except TaskFailedError as error:
        if error.traceback and not silent:
            note(error.traceback.rstrip())
        note(f"error: {error}")
        return ExitCode.TASK_FAILED
    if not silent:
        say(f"Result: {message_of(value)}")
    return ExitCode.DONE
