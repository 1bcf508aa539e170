"""`diracx-task-run dlq list`."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

import rich_click as click

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, task_option
from diracx.tasks.cli.options import Access, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import Prose, print_document, print_table
from diracx.tasks.cli.times import since_from
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.wire.times import readable_time


@click.command("list")
@task_option
@click.option(
    "--since",
    metavar="TIME|DURATION",
    help="The dead letters since a time, RFC 3339 with an offset or Z, or since a duration ago, as 90 (seconds), 90s, "
    "15m, 2h, 7d, 1w.",
)
@json_option
@log_option("warning")
@server_options
def command(*, task: str | None, since: str | None, as_json: bool, access: Access) -> None:
    """List the dead letters, the oldest first.

    --json adds their arguments, their labels and all their errors.
    """
    earliest = None if since is None else since_from(since, datetime.now(UTC))
    dead_letters = [
        each
        for each in asyncio.run(_read(access))
        if (task is None or each.task == task) and (earliest is None or each.died >= earliest)
    ]
    if as_json:
        print_document(dead_letters)
    elif dead_letters:
        rows = [
            [each.seq, each.died, _shown(each.task), _shown(each.id), each.attempts, each.reason]
            for each in dead_letters
        ]
        print_table(["seq", "died", "task", "id", "attempts", Prose("reason")], rows)
    else:
        of_task = "" if task is None else f" of {task}"
        since_then = "" if earliest is None else f" since {readable_time(earliest)}"
        print(f"no dead letters{of_task}{since_then}", file=sys.stderr)


def _shown(text: str | None) -> str | None:
    return None if text is None else shown(text)


async def _read(access: Access) -> list[DeadLetter]:
    async with DeadLetters.open(access) as dead_letters:
        return await dead_letters.all()
