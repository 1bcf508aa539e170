"""`diracx-task-run dlq purge`."""

from __future__ import annotations

import asyncio

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, with_selection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.interaction import confirmed
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.dead_letters.bulk import purge_selected
from diracx.tasks.plumbing.dead_letters.selection import Selection


@with_selection
def command(*, selection: Selection, yes: bool, access: Access) -> int:
    purged = asyncio.run(_purge(access, selection, yes))
    if purged is None:
        note("nothing was purged")
        return ExitCode.DONE
    say(f"purged {_count(purged)}")
    return ExitCode.USAGE if selection.missing else ExitCode.DONE


async def _purge(access: Access, selection: Selection, yes: bool) -> int | None:
    """Purge, after asking. Returns how many were purged; None: the user refused."""
    last = None
    if not yes:
        chosen, last = await _count_chosen(access, selection)
        _report_missing(selection)
        if chosen and not confirmed(f"Purge {_count(chosen)} for good?", "nothing was purged"):
            return None
    purged = 0
    # On a new connection, since the user may have taken long to answer.
    async with DeadLetters.open(access) as dead_letters:

        def count(_: object = None) -> None:
            nonlocal purged
            purged += 1

        with dead_letters.progress("purging") as advance:
            await purge_selected(
                dead_letters.connection,
                dead_letters.namespace,
                selection.selects,
                last=dead_letters.size.last if last is None else last,
                on_done=count,
                on_read=advance,
            )
    if yes:
        _report_missing(selection)
    return purged


async def _count_chosen(access: Access, selection: Selection) -> tuple[int, int]:
    """The number of the selected dead letters, and the sequence up to which they were counted."""
    async with DeadLetters.open(access) as dead_letters:
        count = 0
        async for _ in dead_letters.all(selection.selects):
            count += 1
        return count, dead_letters.size.last


def _report_missing(selection: Selection) -> None:
    for seq in selection.missing:
        note(f"error: there is no dead letter {seq}")


def _count(count: int) -> str:
    return f"{count:,} dead letter" if count == 1 else f"{count:,} dead letters"
