"""`diracx-task-run resume`."""

from __future__ import annotations

import asyncio

import rich_click as click

from diracx.tasks.cli.options import Access, log_option, server_options
from diracx.tasks.cli.queues import Queues, queue_arguments
from diracx.tasks.plumbing.jetstream.consumer_pause import resume


@click.command("resume")
@queue_arguments
@log_option("warning")
@server_options
def command(*, queues: Queues, access: Access) -> None:
    """Hand out the tasks of a paused queue again.

    Workers that wait for tasks take them up within 5 seconds, others when they ask next.
    """
    asyncio.run(_resume(queues, access))


async def _resume(queues: Queues, access: Access) -> None:
    async with queues.opened(access, "resume") as (connection, found):
        for queue in found:
            await resume(connection, queue.stream, queue.name)
            print(f"{queue.name} was not paused" if queue.paused_until is None else f"resumed {queue.name}", flush=True)
