"""`diracx-task-run pause`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

import rich_click as click

from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.cli.queues import Queues, queue_arguments
from diracx.tasks.cli.terminal.durations import Duration
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, pause_end_text

_SECOND: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=3_650)


@click.command("pause")
@queue_arguments
@click.option(
    "--for",
    "duration",
    type=Duration(_SECOND, _LONGEST),
    metavar="DURATION",
    help="How long: 90 (seconds), 90s, 15m, 2h, 7d, 1w. Without it: until it is resumed.",
)
@log_option("warning")
@server_options
def command(*, queues: Queues, duration: timedelta | None, access: Access) -> None:
    """Hand out no more tasks of a queue, to any worker.

    Tasks that are running go on and end as usual. All others stay in the queue, those that wait for a retry or a lock
    as well, and more can be submitted, as long as there is room. Other queues are served as before. A worker with
    --burst ends without what is paused.

    A queue that is paused already is paused until the new time.
    """
    asyncio.run(_pause(queues, duration, access))


async def _pause(queues: Queues, duration: timedelta | None, access: Access) -> None:
    async with queues.opened(access, "pause") as (connection, found):
        until = UNTIL_RESUMED if duration is None else _whole_second(max(queue.seen for queue in found) + duration)
        for queue in found:
            await pause(connection, queue.stream, queue.name, until)
            before = queue.paused_until
            was = "" if before is None or before == until else f"; it was until {pause_end_text(before)}"
            print(f"paused {queue.name} until {pause_end_text(until)}{was}", flush=True)


def _whole_second(moment: datetime) -> datetime:
    """The next one: what is told is what holds, and no less than was asked for."""
    return moment if moment.microsecond == 0 else moment.replace(microsecond=0) + _SECOND
