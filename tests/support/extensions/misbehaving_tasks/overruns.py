"""Acts that take longer than they may, and acts with processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from .acts import FOREVER_SECONDS, LEFT_SECONDS, Refused, act

# Longer than its time.


@act
async def sleeps() -> None:
    await asyncio.sleep(FOREVER_SECONDS)


@act
async def sleeps_a_moment() -> None:
    await asyncio.sleep(0.7)


@act
async def blocks_a_moment() -> None:
    time.sleep(0.1)  # noqa: ASYNC251 - it is meant to block


@act
async def sleeps_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(FOREVER_SECONDS))


@act
async def sleeps_in_a_shield() -> None:
    await asyncio.shield(asyncio.create_task(asyncio.sleep(LEFT_SECONDS)))


@act
async def swallows_its_cancellation() -> None:
    try:
        await asyncio.sleep(FOREVER_SECONDS)
    except asyncio.CancelledError:
        return


@act
async def swallows_its_cancellation_and_goes_on() -> None:
    await swallows_its_cancellation()
    await asyncio.sleep(0.5)


@act
async def fails_when_cancelled() -> None:
    try:
        await asyncio.sleep(FOREVER_SECONDS)
    except asyncio.CancelledError:
        raise ValueError("instead of its cancellation") from None


@act
async def exits_when_cancelled() -> None:
    try:
        await asyncio.sleep(FOREVER_SECONDS)
    finally:
        sys.exit(2)


@act
async def refuses_when_cancelled() -> None:
    try:
        await asyncio.sleep(FOREVER_SECONDS)
    except asyncio.CancelledError:
        raise Refused("instead of its cancellation") from None


@act
async def has_a_timeout_of_its_own() -> None:
    async with asyncio.timeout(0.05):
        await asyncio.sleep(FOREVER_SECONDS)


@act
async def handles_a_timeout_of_its_own() -> None:
    try:
        await has_a_timeout_of_its_own()
    except TimeoutError:
        await asyncio.sleep(0)


@act
async def blocks() -> None:
    time.sleep(LEFT_SECONDS)  # noqa: ASYNC251 - it is meant to block


@act
async def blocks_and_waits() -> None:
    await blocks()
    await asyncio.sleep(0)


@act
async def blocks_and_fails() -> None:
    await blocks()
    raise ValueError("after it has blocked")


@act
async def waits_for_a_thread() -> None:
    await asyncio.to_thread(time.sleep, 2 * LEFT_SECONDS)


@act
async def waits_for_a_thread_for_good() -> None:
    await asyncio.to_thread(time.sleep, FOREVER_SECONDS)


@act
async def blocks_for_good() -> None:
    time.sleep(FOREVER_SECONDS)  # noqa: ASYNC251


@act
async def is_deaf() -> None:
    while True:
        try:
            await asyncio.sleep(FOREVER_SECONDS)
        except asyncio.CancelledError:
            continue


# Processes.


def _announce(up: Connection) -> None:
    up.send_bytes(b"up")
    time.sleep(FOREVER_SECONDS)


def _terminate_a_child(method: str) -> None:
    context: Any = get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=_announce, args=(there,))
    child.start()
    assert here.poll(30), "the child did not start"
    child.terminate()
    child.join(5)
    code = child.exitcode
    child.kill()
    assert code == -signal.SIGTERM, f"the child ended with {code}"


@act
async def terminates_a_forked_child() -> None:
    _terminate_a_child("fork")


@act
async def terminates_a_spawned_child() -> None:
    _terminate_a_child("spawn")


@act
async def terminates_a_child_from_a_thread() -> None:
    await asyncio.to_thread(_terminate_a_child, "fork")


@act
async def interrupts_a_forked_child() -> None:
    child = os.fork()
    if not child:
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(5)  # noqa: ASYNC251
        except KeyboardInterrupt:
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222
    assert os.waitstatus_to_exitcode(status) == 0


def _fork() -> int:
    """Fork. Returns 0 in the child, and what it ended with in the parent."""
    if not (child := os.fork()):
        return 0
    for _ in range(500):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child goes on")


@act
async def forks_a_child_that_raises() -> None:
    if not (code := _fork()):
        raise ValueError("in the child")
    assert code == 1


@act
async def forks_a_child_that_awaits() -> None:
    never = asyncio.get_running_loop().create_future()
    if not (code := _fork()):
        await never
    assert code == 1


@act
async def forks_a_child_in_a_thread() -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, _fork) == 1


@act
async def uses_a_pool_of_processes() -> None:
    with get_context("fork").Pool(2) as pool:
        assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))


@act
async def runs_a_program() -> None:
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)  # noqa: ASYNC221


@act
async def awaits_a_program() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "")
    assert await process.wait() == 0


@act
async def ends_its_process() -> None:
    # By then the tasks that were pulled with it have begun.
    await asyncio.sleep(0.05)
    os._exit(0)
