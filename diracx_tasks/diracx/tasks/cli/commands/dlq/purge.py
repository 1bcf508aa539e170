"""`diracx-task-run dlq purge`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import rich_click as click

from diracx.tasks.cli.commands.dlq.reading import Letters
from diracx.tasks.cli.commands.dlq.selection import Selection, selection_options
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.cli.terminal.confirm import confirmed
from diracx.tasks.cli.terminal.progress import work_through
from diracx.tasks.plumbing.dead_letters.reader import DeadTask, remove_dead_task


@click.command("purge")
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option("warning")
@server_options
def command(*, selection: Selection, yes: bool, access: Access) -> int:
    """Remove dead tasks for good: payload, story and the server's advisories of their end.

    A message that stands in its queue though it will not be delivered again is removed, too.
    """
    chosen, missing = asyncio.run(_chosen(access, selection))
    for seq in missing:
        print(f"error: there is no dead letter {seq}", file=sys.stderr)
    if chosen and not yes and not confirmed(f"Purge {_letters(len(chosen))} for good?", "nothing was purged"):
        print("nothing was purged", file=sys.stderr)
        return ExitCode.DONE
    asyncio.run(_purge(access, chosen))
    print(f"purged {_letters(len(chosen))}")
    return ExitCode.USAGE if missing else ExitCode.DONE


async def _chosen(access: Access, selection: Selection) -> tuple[list[DeadTask], list[int]]:
    async with Letters.open(access) as letters:
        remains = await letters.remains()
    return selection.of(remains), selection.missing(remains)


async def _purge(access: Access, chosen: Sequence[DeadTask]) -> None:
    """On a connection of its own: the answer may have taken its time."""
    if not chosen:
        return
    async with Letters.open(access) as letters:
        connection, namespace = letters.connection, letters.namespace
        await work_through("purging", chosen, lambda each: remove_dead_task(connection, namespace, each))


def _letters(count: int) -> str:
    return f"{count} dead letter" if count == 1 else f"{count} dead letters"
