"""The errors of the command line: one line, and the place to read on."""

from __future__ import annotations

import click
import pytest

from diracx.tasks.cli.exit_codes import ExitCode, explain
from diracx.tasks.plumbing.exceptions import BackgroundEndedError, UnknownTaskError
from diracx.tasks.plumbing.execution.last_resort import EXIT_CODE


def usage_error(error: Exception) -> str:
    explained = explain(error)
    assert explained is not None
    code, text = explained
    assert code == ExitCode.USAGE
    return text


@pytest.fixture
def context() -> click.Context:
    return click.Context(click.Command("submit"), info_name="diracx-task-run submit")


def test_a_process_that_ends_itself_has_a_code_of_its_own() -> None:
    assert ExitCode(EXIT_CODE) is ExitCode.STUCK


HELP = "`diracx-task-run submit --help`"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("--at and --delay exclude each other", f"--at and --delay exclude each other; see {HELP}"),
        (
            "No such option '--wach'. Did you mean '--watch'?",
            f"No such option '--wach'. Did you mean '--watch'? See {HELP}",
        ),
        (
            "No such option '--arg'. (Did you mean one of: '--args', '--at'?)",
            f"No such option '--arg'. (Did you mean one of: '--args', '--at'?) See {HELP}",
        ),
        ("Choose from:\n\tsmall,\n\tmedium.", f"Choose from: small, medium; see {HELP}"),
        (
            "there is no dead letter 7; see `diracx-task-run dlq list`",
            "there is no dead letter 7; see `diracx-task-run dlq list`",
        ),
    ],
)
def test_one_line_with_one_hint(context: click.Context, message: str, line: str) -> None:
    assert usage_error(click.UsageError(message, context)) == line


KNOWN = ["acme:CleanUpTask", "acme:ReportOwnersTask", "acme:SyncOwnersTask", "site:SyncOwnersTask", "site:Transfer"]


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("acme:SyncOwnerTask", ["acme:SyncOwnersTask"]),
        ("SyncOwnersTask", ["acme:SyncOwnersTask", "site:SyncOwnersTask"]),
        ("amce:syncownerstask", ["acme:SyncOwnersTask", "site:SyncOwnersTask"]),
        ("ACME:CLEANUPTASK", ["acme:CleanUpTask"]),
        ("transfers", ["site:Transfer"]),
        ("xyzzy", []),
    ],
)
def test_near_names_are_those_that_may_be_meant(typed: str, near: list[str]) -> None:
    assert UnknownTaskError(typed, KNOWN).near == near


def test_of_many_tasks_only_the_first_are_listed_below_the_error() -> None:
    error, heading, *names, more = usage_error(
        UnknownTaskError("x", [f"acme:T{number:03}" for number in range(500)])
    ).splitlines()
    assert error == "unknown task 'x'"
    assert heading == "installed tasks:"
    assert len(names) == 20
    assert more == "  and 480 more; see `diracx-task-run tasks`"


def test_a_process_that_lost_a_part_of_itself_says_which_in_one_line() -> None:
    assert explain(BackgroundEndedError("lock renewal", RuntimeError("boom"))) == (
        ExitCode.BUG,
        "lock renewal ended: RuntimeError: boom; the process ended, so that it did not run on without it",
    )
