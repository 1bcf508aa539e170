"""The execution thread: a task that blocks it blocks no other loop, and must give it back when it is cancelled."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.thread import EXIT_CODE, ExecutionThread, executing
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.testing import wait_until

caller: ContextVar[str] = ContextVar("caller", default="nobody")


@dataclass
class Told:
    """Counts calls in place of ending the process."""

    times: int = 0

    def __call__(self) -> None:
        self.times += 1


class Task(BaseTask):
    async def execute(self) -> None:
        """Not called: the invocation decides."""


@dataclass
class Blocks:
    """An invocation that blocks its thread until it is released."""

    begun: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, task: BaseTask) -> str:
        self.begun.set()
        assert self.released.wait(20)
        return "done"


async def where(task: BaseTask) -> tuple[str, int, str]:
    return threading.current_thread().name, id(asyncio.get_running_loop()), caller.get()


async def test_an_invocation_runs_on_the_loop_of_the_thread_in_the_context_of_its_caller() -> None:
    caller.set("the worker")
    with ExecutionThread.open() as thread:
        assert await thread.invoke(where, Task()) == ("execution", id(thread.loop), "the worker")


async def test_the_loop_of_the_worker_runs_while_a_task_blocks_its_thread() -> None:
    blocks = Blocks()
    with ExecutionThread.open() as thread:
        running = asyncio.create_task(thread.invoke(blocks, Task()))
        await wait_until(blocks.begun.is_set, description="it blocks")
        assert not running.done()
        blocks.released.set()
        assert await running == "done"


async def test_an_exception_of_a_task_arrives_as_the_same_object() -> None:
    error = LookupError("this one")

    async def fails(task: BaseTask) -> None:
        raise error

    with ExecutionThread.open() as thread:
        with pytest.raises(LookupError) as caught:
            await thread.invoke(fails, Task())
        assert caught.value is error


async def test_a_task_that_exits_ends_neither_the_thread_nor_its_neighbours() -> None:
    async def exits(task: BaseTask) -> None:
        raise SystemExit("out")

    with ExecutionThread.open() as thread:
        with pytest.raises(SystemExit, match="out"):
            await thread.invoke(exits, Task())
        assert (await thread.invoke(where, Task()))[0] == "execution"


async def test_a_cancelled_task_has_ended_before_its_caller_is_cancelled_and_the_process_goes_on() -> None:
    begun, cleaned_up, told = threading.Event(), threading.Event(), Told()

    async def waits(task: BaseTask) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    with ExecutionThread.open() as opened:
        thread = ExecutionThread(opened.loop, told)
        running = asyncio.create_task(thread.invoke(waits, Task()))
        await wait_until(begun.is_set, description="it runs")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert cleaned_up.is_set()
    assert told.times == 0


async def test_a_thread_that_does_not_yield_to_a_cancellation_ends_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocks, told = Blocks(), Told()
    with ExecutionThread.open() as opened:
        thread = ExecutionThread(opened.loop, told)
        running = asyncio.create_task(thread.invoke(blocks, Task()))
        await wait_until(blocks.begun.is_set, description="it blocks")
        running.cancel()
        await wait_until(lambda: told.times, description="the process is to end")
        blocks.released.set()
        await asyncio.wait([running])
    assert told.times == 1
    (record,) = (record for record in caplog.records if record.levelno == logging.CRITICAL)
    assert record.getMessage().startswith("Task was cancelled, but ")
    assert "give the thread back: the process ends" in record.getMessage()
    assert "in wait does not" in record.getMessage(), "the text names the line where the thread is"


def test_the_end_of_the_process_waits_for_no_thread() -> None:
    code = (
        "import threading\n"
        "from diracx.tasks.plumbing.execution.thread import end_process\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "end_process()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == EXIT_CODE


async def test_a_context_is_entered_and_left_on_the_thread() -> None:
    threads: list[str] = []

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        threads.append(threading.current_thread().name)
        yield "opened"
        threads.append(threading.current_thread().name)

    with ExecutionThread.open() as thread:
        async with thread.entered(context()) as value:
            assert value == "opened"
            assert threads == ["execution"]
    assert threads == ["execution", "execution"]


async def test_a_context_that_cannot_be_entered_raises_its_error() -> None:
    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        sqlite3.connect("no/such/folder/database")
        yield

    with ExecutionThread.open() as thread, pytest.raises(sqlite3.OperationalError, match="unable to open"):
        async with thread.entered(context()):
            pytest.fail("it was entered")


@pytest.mark.parametrize("size", [Size.MEDIUM, Size.LARGE])
async def test_medium_and_large_tasks_have_a_thread(size: Size) -> None:
    async with executing(size, Resources()) as thread:
        assert thread is not None
        assert (await thread.invoke(where, Task()))[0] == "execution"


class OpenedOn(Resources):
    """Records the loops on which it is opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[int] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Injector]:
        self.loops.append(id(asyncio.get_running_loop()))
        async with super().opened() as injector:
            yield injector
        self.loops.append(id(asyncio.get_running_loop()))


async def test_resources_are_opened_on_the_loop_that_executes() -> None:
    on_a_thread, here = OpenedOn(), OpenedOn()
    async with executing(Size.MEDIUM, on_a_thread) as thread:
        assert thread is not None
        assert on_a_thread.loops == [id(thread.loop)]
    assert on_a_thread.loops == [id(thread.loop)] * 2
    async with executing(Size.SMALL, here):
        assert here.loops == [id(asyncio.get_running_loop())]


async def test_small_tasks_share_the_loop_of_the_worker() -> None:
    async with executing(Size.SMALL, Resources()) as thread:
        assert thread is None
