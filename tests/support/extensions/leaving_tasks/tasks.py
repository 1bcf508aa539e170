"""Tasks that leave threads and children behind, or that raise what would end a program."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import dataclasses
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock

FOLDER = Path(os.environ["LEAVING_TASKS_FOLDER"])
FOREVER = 300.0

# Made in the parent: what a child inherits is part of what is tested.
executor = concurrent.futures.ThreadPoolExecutor(1)


class Odd(BaseException):
    """Is no Exception."""


def note(event: str) -> None:
    """Append one line to the journal."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{event}\n")


async def leaves_a_thread() -> None:
    """Blocks a thread of the loop's executor."""
    note("begin")
    await asyncio.to_thread(time.sleep, FOREVER)


async def leaves_several_threads() -> None:
    """Leaves a plain thread and one of an executor of its own, and succeeds."""
    threading.Thread(target=time.sleep, args=[FOREVER], name="plain").start()
    executor.submit(time.sleep, FOREVER)
    note("begin")


async def uses_an_executor() -> None:
    """Leaves a thread that waits for work."""
    executor.submit(note, "begin").result()


async def leaves_a_child() -> None:
    """Leaves a process for which Python waits at its end."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[FOREVER], name="sleeper")
    child.start()
    note("begin")


async def leaves_a_pool_of_processes() -> None:
    """Leaves a process that works for an executor."""
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    assert pool.submit(abs, -1).result() == 1
    pool.submit(time.sleep, FOREVER)
    note("begin")


async def leaves_a_program() -> None:
    """Leaves a program that has the standard output of this process; its pid is in the journal."""
    note(str(subprocess.Popen(["sleep", f"{FOREVER:g}"]).pid))  # noqa: ASYNC220


async def blocks() -> None:
    """Blocks the main thread, or its own, in a call that runs handlers of signals."""
    note("begin")
    time.sleep(FOREVER)  # noqa: ASYNC251


async def blocks_in_c() -> None:
    """Blocks in C code that frees the GIL and runs no handlers of signals."""
    note("begin")
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    library.pthread_mutex_init(mutex, None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


async def is_deaf() -> None:
    """Ignores every cancellation."""
    note("begin")
    while True:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            note("refused")


async def terminates_children() -> str:
    """Terminates children at once, and after a moment, and ends a pool; gives the longest time that took."""
    longest = 0.0
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        for pause in (0.0, 0.0, 0.3):
            child = context.Process(target=time.sleep, args=[FOREVER])
            child.start()
            await asyncio.sleep(pause)
            begun = time.monotonic()
            child.terminate()
            child.join(FOREVER)
            longest = max(longest, time.monotonic() - begun)
            assert child.exitcode == -15
        pool = context.Pool(2)
        assert pool.map(abs, [-1, -2]) == [1, 2]
        begun = time.monotonic()
        pool.terminate()
        pool.join()
        longest = max(longest, time.monotonic() - begun)
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
            begun = time.monotonic()
        longest = max(longest, time.monotonic() - begun)
    note(f"children took {longest:.1f}")
    return f"{longest:.1f}"


async def tells_its_childs_signals() -> str:
    """Gives what forked children say of their handlers, of blocked signals and of the descriptor that wakes a loop."""
    # The second one is forked by a thread that is not the main thread.
    return f"{_signals_of_a_child()}, {await asyncio.to_thread(_signals_of_a_child)}"


def _signals_of_a_child() -> str:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        is_plain = handlers == [signal.SIG_DFL, signal.default_int_handler] and not blocked
        if threading.current_thread() is threading.main_thread():
            is_plain = is_plain and signal.set_wakeup_fd(-1) == -1
        os.write(write, b"plain" if is_plain else repr((handlers, blocked)).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


async def exits() -> None:
    sys.exit(2)


async def interrupts() -> NoReturn:
    raise KeyboardInterrupt


async def is_odd() -> NoReturn:
    raise Odd("neither fish nor fowl")


async def quits_generator() -> NoReturn:
    raise GeneratorExit


async def cancels_itself() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(FOREVER)


async def cancels_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(FOREVER)


async def exits_in_a_child() -> None:
    await asyncio.gather(exits(), asyncio.sleep(FOREVER))


async def interrupts_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(interrupts())
        group.create_task(asyncio.sleep(FOREVER))


async def fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(int, "mice"))


async def exits_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(FOREVER)


async def exits_in_a_callback_and_returns() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(0.05)
    return "returned"


async def stops_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return "went on"


async def catches_the_exit_of_a_child() -> str:
    try:
        await asyncio.create_task(exits())
    except SystemExit as error:
        return f"the child ended with {error.code}"
    return "the child did not exit"


async def exits_after_its_end() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    return "returned"


WAYS: dict[str, Callable[[], Awaitable[object]]] = {
    name: way for name, way in list(globals().items()) if inspect.iscoroutinefunction(way)
}


@dataclasses.dataclass
class Unruly(BaseTask):
    """Goes one of the ways above, under a lock."""

    way: str

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "unruly")]

    async def execute(self) -> object:
        return await WAYS[self.way]()


class UnrulyMedium(Unruly):
    size = Size.MEDIUM


class UnrulyLarge(Unruly):
    size = Size.LARGE


class UnrulyTimed(Unruly):
    timeout_seconds = 1
