"""Replaying and removing many dead tasks, while they are read: 16 at a time, and none of them is held.

A run that is killed or fails midway is run again: those that are done are gone, and `Replayer` finishes what was cut
off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask, dead_tasks, remove_dead_task
from diracx.tasks.plumbing.dead_letters.reader import OnRead, Selects
from diracx.tasks.plumbing.dead_letters.replay import GONE_MEANWHILE, NotReplayableError, Replayer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace

T = TypeVar("T")

CONCURRENCY: Final = 16
READS: Final = 2
"""How often the stream is read to walk through all dead letters, or to do something with each of them."""


class OnDone(Protocol):
    """Called after each dead task, with the reason why it was left out; None: it was not."""

    def __call__(self, left_out: NotReplayableError | None = None, /) -> object: ...


async def replay_selected(
    connection: Connection,
    namespace: Namespace,
    selects: Selects,
    *,
    last: int,
    on_done: OnDone,
    on_read: OnRead = lambda: None,
) -> list[int]:
    """Finish the replays of earlier runs that were cut off, and put the selected dead tasks back into their queues.

    Args:
        last: The sequence to end at, in the dead letter stream.
        on_read: Called after each message of the stream, which is read `READS` times.

    Returns:
        The sequences of the dead letters whose tasks earlier runs had put back; `on_done` was not called for them.

    Raises:
        SendTaskError: A queue is full, or the server refused; those done before are replayed.
        ServerUnavailableError: No answer; it is safe to call it again.
    """
    replayer = Replayer(connection, namespace)
    finished = await replayer.finish_earlier()

    async def replay(task: DeadTask) -> None:
        try:
            put_back = await replayer.replay(task)
        except NotReplayableError as error:
            on_done(error)
        else:
            on_done(None if put_back else NotReplayableError(task.seq, GONE_MEANWHILE))

    await _work_through("replaying", dead_tasks(connection, namespace, selects, last=last, on_read=on_read), replay)
    return finished


async def purge_selected(
    connection: Connection,
    namespace: Namespace,
    selects: Selects,
    *,
    last: int,
    on_done: OnDone,
    on_read: OnRead = lambda: None,
) -> None:
    """Remove the selected dead tasks for good; arguments and errors as for `replay_selected`."""

    async def purge(task: DeadTask) -> None:
        await remove_dead_task(connection, namespace, task)
        on_done()

    await _work_through("purging", dead_tasks(connection, namespace, selects, last=last, on_read=on_read), purge)


async def _work_through(doing: str, items: AsyncIterator[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Do the work for each item as it comes, 16 at a time. The first error ends it.

    Args:
        doing: The name of the asyncio tasks.
    """
    one_asks = asyncio.Lock()

    async def take_items() -> None:
        while True:
            async with one_asks:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            await work(item)

    workers = [asyncio.create_task(take_items(), name=doing) for _ in range(CONCURRENCY)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
