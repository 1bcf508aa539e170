"""`diracx-task-run pause` and `resume`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

import rich_click as click

from diracx.tasks.cli.options import Access, declared, log_option, server_options
from diracx.tasks.cli.queues import Queues, queue_arguments
from diracx.tasks.cli.terminal.output import say
from diracx.tasks.cli.times import Duration
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, pause_end_text, resume

SHORTEST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(days=3_650)


@declared("pause")
@queue_arguments
@click.option(
    "--for",
    "duration",
    type=Duration(SHORTEST_PAUSE, LONGEST_PAUSE),
    metavar="DURATION",
    help="The length of the pause: 90 (seconds), 90s, 15m, 2h, 7d, 1w. Without it, the pause lasts until `resume`.",
)
@log_option("warning")
@server_options
def command(*, queues: Queues, duration: timedelta | None, access: Access) -> None:
    """Stop the delivery of a queue's tasks to all workers.

    Running tasks continue and end as usual. All other tasks stay in the queue, including those that wait for a retry or
    a lock. Producers can still submit tasks, as long as the queue has room. Other queues are not affected. A worker
    with --burst ends and leaves the paused tasks.

    If a queue is already paused, the new time replaces the old one.
    """
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


@declared("resume")
@queue_arguments
@log_option("warning")
@server_options
def resume_command(*, queues: Queues, access: Access) -> None:
    """Resume the delivery of a paused queue.

    Idle workers receive its tasks within 5 seconds, busy workers with their next pull.
    """
    asyncio.run(_resume(queues, access))


async def _resume(queues: Queues, access: Access) -> None:
    async with queues.opened(access, "resume") as (connection, found):
        for queue in found:
            await resume(connection, queue.stream, queue.name)
            say(f"{queue.name} was not paused" if queue.paused_until is None else f"resumed {queue.name}")
