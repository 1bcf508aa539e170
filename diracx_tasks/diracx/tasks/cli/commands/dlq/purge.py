"""`diracx-task-run dlq purge`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import rich_click as click

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, Selection, selection_options
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.cli.terminal.interaction import confirmed, work_through
from diracx.tasks.plumbing.dead_letters.reader import DeadTask, remove_dead_task


@click.command("purge")
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option("warning")
@server_options
def command(*, selection: Selection, yes: bool, access: Access) -> int:
    """Remove dead letters for good, with payload, errors and the advisories of the server.

    A message that is still in its queue, though the server will never deliver it again, is removed as well.
    """
    chosen, missing = asyncio.run(_chosen(access, selection))
    for seq in missing:
        print(f"error: there is no dead letter {seq}", file=sys.stderr)
    if chosen and not yes and not confirmed(f"Purge {_count(len(chosen))} for good?", "nothing was purged"):
        print("nothing was purged", file=sys.stderr)
        return ExitCode.DONE
    asyncio.run(_purge(access, chosen))
    print(f"purged {_count(len(chosen))}")
    return ExitCode.USAGE if missing else ExitCode.DONE


async def _chosen(access: Access, selection: Selection) -> tuple[list[DeadTask], list[int]]:
    async with DeadLetters.open(access) as dead_letters:
        dead_tasks = await dead_letters.dead_tasks()
    return selection.of(dead_tasks), selection.missing(dead_tasks)


async def _purge(access: Access, chosen: Sequence[DeadTask]) -> None:
    """Purge on a new connection, since the user may have taken long to answer."""
    if not chosen:
        return
    async with DeadLetters.open(access) as dead_letters:
        connection, namespace = dead_letters.connection, dead_letters.namespace
        await work_through("purging", chosen, lambda each: remove_dead_task(connection, namespace, each))


def _count(count: int) -> str:
    return f"{count} dead letter" if count == 1 else f"{count} dead letters"
