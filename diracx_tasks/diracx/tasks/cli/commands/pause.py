"""`diracx-task-run pause` and `resume`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from diracx.tasks.cli.options import Access
from diracx.tasks.cli.queues import Queues, with_queues
from diracx.tasks.cli.terminal.output import say
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, pause_end_text, resume


@with_queues
def command(*, queues: Queues, duration: timedelta | None, access: Access) -> None:
    asyncio.run(_pause(queues, duration, access))


async def _pause(queues: Queues, duration: timedelta | None, access: Access) -> None:
    async with queues.opened(access, "pause") as (connection, found):
        until = UNTIL_RESUMED if duration is None else _whole_second(max(queue.seen for queue in found) + duration)
        for queue in found:
            await pause(connection, queue.stream, queue.name, until)
            before = queue.paused_until
            was = "" if before is None or before == until else f"; it was until {pause_end_text(before)}"
            say(f"paused {queue.name} until {pause_end_text(until)}{was}")


def _whole_second(moment: datetime) -> datetime:
    """Round up, so that the printed time is exact and the pause is not shorter than requested."""
    return moment if moment.microsecond == 0 else moment.replace(microsecond=0) + timedelta(seconds=1)


@with_queues
def resume_command(*, queues: Queues, access: Access) -> None:
    asyncio.run(_resume(queues, access))


async def _resume(queues: Queues, access: Access) -> None:
    async with queues.opened(access, "resume") as (connection, found):
        for queue in found:
            await resume(connection, queue.stream, queue.name)
            say(f"{queue.name} was not paused" if queue.paused_until is None else f"resumed {queue.name}")
