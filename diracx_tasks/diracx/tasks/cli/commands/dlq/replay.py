"""`diracx-task-run dlq replay`."""

from __future__ import annotations

import asyncio

from diracx.tasks.cli.commands.dlq.dead_letters import DeadLetters, Selection, with_selection
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError, Replayer


@with_selection
def command(*, selection: Selection, access: Access) -> int:
    return asyncio.run(_replay(access, selection))


async def _replay(access: Access, selection: Selection) -> ExitCode:
    async with DeadLetters.open(access) as dead_letters:
        replayer = Replayer(dead_letters.connection, dead_letters.namespace)
        finished = await replayer.finish_earlier()
        replayed = 0
        left_out: list[NotReplayableError] = []

        async def replay(each: DeadTask) -> None:
            nonlocal replayed
            try:
                await replayer.replay(each)
                replayed += 1
            except NotReplayableError as error:
                left_out.append(error)

        await dead_letters.work_through("replaying", selection.selects, replay)
    missing = [seq for seq in selection.missing if seq not in finished]
    for line in [f"there is no dead letter {seq}" for seq in missing] + list(map(str, left_out)):
        note(f"error: {line}")
    if finished:
        say(f"finished {_tasks(len(finished))} of a run that was cut off")
    say(f"replayed {_tasks(replayed)}")
    return ExitCode.USAGE if selection.seqs and (missing or left_out) else ExitCode.DONE


def _tasks(count: int) -> str:
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"
