"""Coroutines that run beside a block or that no cancellation interrupts, and a sleep that an event ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

logger = logging.getLogger("diracx.tasks.background")

T = TypeVar("T")


@asynccontextmanager
async def in_background(**coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `coroutines` beside the block. At its end, cancel those that still run, and wait until all have ended.

        async with in_background(leases=keeper.run(), configuration=follower.run()):
            ...

    A coroutine that ends early does not end the block. If it failed, its error is

    * raised at the end of the block, if the block itself ended without an exception;
    * logged otherwise, so that the exception of the block stays the one that is raised.

    If several failed, the first error is raised, and the others are logged. A cancellation that arrives while the
    coroutines are ending is raised once they have ended.

    Args:
        coroutines: What to run, by the name of its asyncio task.
    """
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()]
    try:
        yield
    except BaseException:
        await _end(tasks)
        _log_failures(tasks)
        raise
    cancelled = await _end(tasks)
    failed = [task for task in tasks if _error_of(task) is not None]
    _log_failures(failed if cancelled else failed[1:])
    if cancelled is not None:
        raise cancelled
    for task in failed:
        task.result()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> asyncio.CancelledError | None:
    """Cancel `tasks` and wait until all have ended. Returns the last cancellation that arrived meanwhile."""
    cancelled = None
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:  # a stop, a lost lock and a timeout may each cancel
            cancelled = error
    return cancelled


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _log_failures(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if (error := _error_of(task)) is not None:
            logger.error("%s failed in the background: %s", task.get_name(), error, exc_info=error)


async def uncancelled(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end even if this task is cancelled meanwhile. Raise the cancellation after that."""
    work = asyncio.create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    try:
        # The fast path: `wait` costs three times as much.
        return await asyncio.shield(work)
    except asyncio.CancelledError as error:
        cancelled = error
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:  # a stop, a lost lock and a timeout may each cancel
            cancelled = error
    raise cancelled from (None if work.cancelled() else work.exception())


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds`, or until `event` is set when that is sooner. Returns whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
