"""Acts that end more than the task: its event loop, its thread; and acts that leave something behind."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from multiprocessing import get_context

from .acts import FOREVER_SECONDS, LEFT_SECONDS, Refused, a_child, act

# Exits, and what else ends an event loop.


@act
async def exits() -> None:
    sys.exit(2)


@act
async def exits_in_gather() -> None:
    await asyncio.gather(a_child(SystemExit(2)), asyncio.sleep(LEFT_SECONDS))


@act
async def exits_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(a_child(SystemExit(2)))
        group.create_task(asyncio.sleep(FOREVER_SECONDS))


@act
async def exits_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(0.2)


@act
async def exits_in_a_thread() -> None:
    await asyncio.to_thread(sys.exit, 2)


@act
async def leaves_a_child_that_exits() -> None:
    _left.append(asyncio.create_task(a_child(SystemExit(2))))


@act
async def leaves_a_callback_that_exits() -> None:
    asyncio.get_running_loop().call_later(0.05, sys.exit, 2)


@act
async def interrupts() -> None:
    raise KeyboardInterrupt


@act
async def interrupts_in_gather() -> None:
    await asyncio.gather(a_child(KeyboardInterrupt()), asyncio.sleep(LEFT_SECONDS))


@act
async def interrupts_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(a_child(KeyboardInterrupt()))


@act
async def stops_its_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)


@act
async def stops_its_loop_and_returns() -> None:
    asyncio.get_running_loop().stop()


@act
async def stops_its_loop_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(loop.call_soon_threadsafe, loop.stop)
    await asyncio.sleep(0.05)


@act
async def closes_its_loop() -> None:
    asyncio.get_running_loop().close()


@act
async def stops_and_closes_its_loop() -> None:
    asyncio.get_running_loop().stop()
    asyncio.get_running_loop().close()


@act
async def shuts_down_the_threads_of_its_loop() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


@act
async def runs_another_loop() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


# What it leaves behind.

_left: list[object] = []
"""Keeps what is left from being collected."""


@act
async def leaves_a_child() -> None:
    _left.append(asyncio.create_task(asyncio.sleep(LEFT_SECONDS)))


@act
async def leaves_a_child_that_fails() -> None:
    asyncio.create_task(a_child(Refused("nobody waits for this child")))  # noqa: RUF006 - it is meant to be forgotten


@act
async def leaves_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(LEFT_SECONDS,)).start()


@act
async def leaves_a_thread_that_exits() -> None:
    threading.Thread(target=sys.exit, args=(2,)).start()


@act
async def leaves_a_thread_of_the_executor() -> None:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, LEFT_SECONDS)


@act
async def leaves_a_thread_for_good() -> None:
    threading.Thread(target=time.sleep, args=(FOREVER_SECONDS,), name="left for good").start()


@act
async def leaves_a_process_for_good() -> None:
    get_context("spawn").Process(target=time.sleep, args=(FOREVER_SECONDS,)).start()
