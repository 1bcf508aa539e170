"""`diracx-task-run dlq replay`."""

from __future__ import annotations

import asyncio

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, with_selection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.dead_letters.bulk import replay_selected
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError
from diracx.tasks.plumbing.dead_letters.selection import Selection


@with_selection
def command(*, selection: Selection, access: Access) -> int:
    return asyncio.run(_replay(access, selection))


async def _replay(access: Access, selection: Selection) -> ExitCode:
    async with DeadLetters.open(access) as dead_letters:
        replayed = 0
        left_out: list[NotReplayableError] = []

        def count(error: NotReplayableError | None = None) -> None:
            nonlocal replayed
            if error is None:
                replayed += 1
            else:
                left_out.append(error)

        with dead_letters.progress("replaying") as advance:
            finished = await replay_selected(
                dead_letters.connection,
                dead_letters.namespace,
                selection.selects,
                last=dead_letters.size.last,
                on_done=count,
                on_read=advance,
            )
    missing = [seq for seq in selection.missing if seq not in finished]
    for line in [f"there is no dead letter {seq}" for seq in missing] + list(map(str, left_out)):
        note(f"error: {line}")
    if finished:
        say(f"finished {_tasks(len(finished))} of a run that was cut off")
    say(f"replayed {_tasks(replayed)}")
    return ExitCode.USAGE if selection.seqs and (missing or left_out) else ExitCode.DONE


def _tasks(count: int) -> str:
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"
