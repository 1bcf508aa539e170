"""What an unruly task does: the errors that it raises, and whom it cancels.

Each act is a coroutine function without arguments, found in `ACTS` by its name. `support.misbehaving_cases` tells how
the task has to end.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

Act = Callable[[], Coroutine[Any, Any, Any]]

ACTS: dict[str, Act] = {}

LEFT_SECONDS = 1.0
"""What an act leaves behind ends by itself after this time."""
FOREVER_SECONDS = 300.0
"""Longer than any test."""


def act(function: Act) -> Act:
    """List a coroutine function in `ACTS`."""
    ACTS[function.__name__] = function
    return function


class Refused(BaseException):
    """No Exception, as the errors of some libraries (trio.Cancelled, pytest's Exit)."""


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ValueError("this exception has no text")

    __repr__ = __str__


class ExitingTextError(Exception):
    def __str__(self) -> str:  # noqa: PLE0307 - it never returns
        sys.exit(7)

    __repr__ = __str__


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def a_child(error: BaseException) -> NoReturn:
    await asyncio.sleep(0.02)
    raise error


# What it raises.


@act
async def behaves() -> None:
    await asyncio.sleep(0.01)


@act
async def raises_an_exception() -> None:
    raise ValueError("an ordinary failure")


@act
async def raises_no_exception() -> None:
    raise Refused("no Exception")


@act
async def raises_generator_exit() -> None:
    raise GeneratorExit


@act
async def raises_stop_async_iteration() -> None:
    raise StopAsyncIteration


@act
async def raises_stop_iteration() -> None:
    raise StopIteration


@act
async def raises_without_a_text() -> None:
    raise NoTextError


@act
async def raises_what_exits_when_it_is_printed() -> None:
    raise ExitingTextError


@act
async def raises_text_that_is_no_utf8() -> None:
    raise ValueError(f"no such file: {os.fsdecode(bytes(range(128, 256)))}\x00\x1b[31m")


@act
async def raises_much_text() -> None:
    raise ValueError("mice " * 500_000)


@act
async def raises_a_cycle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@act
async def recurses() -> None:
    await recurses()


@act
async def fails_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(a_child(ValueError("in a child")))
        group.create_task(asyncio.sleep(FOREVER_SECONDS))


@act
async def fails_in_nested_task_groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_in_a_task_group())
        group.create_task(fails_in_a_task_group())


@act
async def refuses_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(a_child(Refused("in a child")))
        group.create_task(asyncio.sleep(FOREVER_SECONDS))


@act
async def handles_the_failure_of_a_task_group() -> None:
    try:
        await fails_in_a_task_group()
    except* ValueError:
        await asyncio.sleep(0.01)


@act
async def refuses_in_a_thread() -> None:
    await asyncio.to_thread(_raise, Refused("in a thread"))


def _raise(error: BaseException) -> NoReturn:
    raise error


# Cancellations.


@act
async def raises_cancelled_error() -> None:
    raise asyncio.CancelledError("by hand")


@act
async def cancels_itself_and_waits() -> None:
    this_task().cancel()
    await asyncio.sleep(FOREVER_SECONDS)


@act
async def cancels_itself_and_returns() -> None:
    this_task().cancel()


@act
async def cancels_itself_and_fails() -> None:
    this_task().cancel()
    raise ValueError("after a cancellation")


@act
async def cancels_itself_often_and_goes_on() -> None:
    for _ in range(3):
        this_task().cancel()
        try:
            await asyncio.sleep(FOREVER_SECONDS)
        except asyncio.CancelledError:
            continue


@act
async def cancels_itself_at_its_end() -> None:
    asyncio.get_running_loop().call_soon(this_task().cancel)


@act
async def cancels_itself_after_its_end() -> None:
    for seconds in (0.0, 0.001, 0.01, 0.1):
        asyncio.get_running_loop().call_later(seconds, this_task().cancel)


@act
async def is_cancelled_by_a_child() -> None:
    parent = this_task()

    async def child() -> None:
        parent.cancel()

    await asyncio.gather(child(), asyncio.sleep(FOREVER_SECONDS))


@act
async def awaits_a_cancelled_child() -> None:
    child = asyncio.create_task(asyncio.sleep(FOREVER_SECONDS))
    await asyncio.sleep(0)
    child.cancel()
    await child


@act
async def awaits_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@act
async def cancels_a_child_and_goes_on() -> None:
    child = asyncio.create_task(asyncio.sleep(FOREVER_SECONDS))
    await asyncio.sleep(0)
    child.cancel()
    await asyncio.wait([child])


@act
async def cancels_all_on_its_loop() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(FOREVER_SECONDS)


@act
async def cancels_all_on_its_loop_later() -> None:
    asyncio.get_running_loop().call_later(0.05, lambda: [task.cancel() for task in asyncio.all_tasks()])
    await asyncio.gather(asyncio.sleep(FOREVER_SECONDS), asyncio.sleep(FOREVER_SECONDS))
