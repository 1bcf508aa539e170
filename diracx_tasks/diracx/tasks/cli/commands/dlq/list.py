"""`diracx-task-run dlq list`."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

import rich_click as click

from diracx.tasks.cli.commands.dlq.reading import Letters
from diracx.tasks.cli.commands.dlq.selection import task_option
from diracx.tasks.cli.commands.dlq.since import since_from, since_option
from diracx.tasks.cli.options import Access, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document, print_table
from diracx.tasks.cli.terminal.tables import Prose
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter


@click.command("list")
@task_option
@since_option
@json_option
@log_option("warning")
@server_options
def command(*, task: str | None, since: str | None, as_json: bool, access: Access) -> None:
    """List the dead letters, the oldest first.

    With --json also their arguments and the whole story of their failures.
    """
    earliest = None if since is None else since_from(since, datetime.now(UTC))
    letters = [
        letter
        for letter in asyncio.run(_letters(access))
        if (task is None or letter.task == task) and (earliest is None or letter.died >= earliest)
    ]
    if as_json:
        print_document(letters)
    elif letters:
        rows = [[letter.seq, letter.died, letter.task, letter.id, letter.attempts, letter.reason] for letter in letters]
        print_table(["seq", "died", "task", "id", "attempts", Prose("reason")], rows)
    else:
        asked = [f" of {task}" if task is not None else "", f" since {earliest:%FT%TZ}" if earliest is not None else ""]
        print(f"no dead letters{''.join(asked)}", file=sys.stderr)


async def _letters(access: Access) -> list[DeadLetter]:
    async with Letters.open(access) as letters:
        return await letters.all()
