"""Executions on event loops and threads of their own: what blocks, ends or breaks one touches no other."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import NotServedError
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.last_resort import EXIT_CODE, LastResort
from diracx.tasks.plumbing.execution.loops import LoopClosedError
from diracx.tasks.plumbing.execution.thread import ExecutionThreads, executing, run_code
from diracx.tasks.plumbing.injection.outages import KeptOpen
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.testing import wait_until

caller: ContextVar[str] = ContextVar("caller", default="nobody")

STOP = Cancellation(Cause.STOP, "the worker stops")


class Task(BaseTask):
    async def execute(self) -> None:
        """Not called: each test calls code of its own."""


@dataclass
class Blocks:
    """Code that blocks its thread until it is released."""

    begun: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, task: BaseTask) -> str:
        self.begun.set()
        assert self.released.wait(20)
        return "done"


async def where(task: BaseTask) -> tuple[str, int, str]:
    return threading.current_thread().name, id(asyncio.get_running_loop()), caller.get()


@pytest.fixture
async def threads() -> AsyncIterator[ExecutionThreads]:
    """The threads of a worker of medium tasks."""
    async with executing(Size.MEDIUM, Resources()) as threads:
        assert threads is not None
        yield threads


async def run(
    threads: ExecutionThreads, code: Callable[[BaseTask], Any], execution: Execution | None = None
) -> tuple[Any, BaseException | None]:
    """Run an execution to its end."""
    execution = execution or Execution()
    execution.begin()
    value, error = await execution.run(threads.invoke(code, Task(), execution), None)
    reason = execution.cancellation
    return value, error if reason is None or reason.error is None else reason.error


async def test_code_runs_in_the_context_of_its_caller_and_a_thread_is_used_again(threads: ExecutionThreads) -> None:
    caller.set("the worker")
    first, _ = await run(threads, where)
    assert (first[0], first[2]) == ("execution 1", "the worker")
    assert await run(threads, where) == (first, None)


async def test_code_that_blocks_its_thread_holds_up_neither_the_worker_nor_a_neighbour(
    threads: ExecutionThreads,
) -> None:
    blocks = Blocks()
    running = asyncio.create_task(run(threads, blocks))
    await wait_until(blocks.begun.is_set, description="it blocks")
    neighbour, _ = await run(threads, where)
    assert neighbour[0] == "execution 2"
    assert not running.done()
    blocks.released.set()
    assert await running == ("done", None)


async def test_an_exception_arrives_as_the_same_object(threads: ExecutionThreads) -> None:
    error = LookupError("this one")

    async def fails(task: BaseTask) -> None:
        raise error

    assert await run(threads, fails) == (None, error)


async def exit_in_a_callback(task: BaseTask) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(30)


async def exit_in_a_child(task: BaseTask) -> None:
    async def child() -> None:
        sys.exit(2)

    await asyncio.gather(child(), asyncio.sleep(30))


async def exits(task: BaseTask) -> None:
    sys.exit(2)


async def cancel_all_tasks(task: BaseTask) -> None:
    for other in asyncio.all_tasks():
        other.cancel()
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (exits, SystemExit),
        (exit_in_a_child, SystemExit),
        (cancel_all_tasks, asyncio.CancelledError),
    ],
)
async def test_code_that_ends_its_loop_ends_no_other_execution(
    threads: ExecutionThreads, code: Callable[[BaseTask], Awaitable[None]], kind: type[BaseException]
) -> None:
    blocks = Blocks()
    neighbour = asyncio.create_task(run(threads, blocks))
    await wait_until(blocks.begun.is_set, description="the neighbour runs")
    _, error = await run(threads, code)
    assert isinstance(error, kind)
    blocks.released.set()
    assert await neighbour == ("done", None)
    assert (await run(threads, where))[0][0].startswith("execution ")


class Closing(asyncio.SelectorEventLoop):
    """A loop that is closed as soon as it stops, as another thread may do in the right moment."""

    def run_forever(self) -> None:
        super().run_forever()
        self.close()


async def test_an_execution_that_closes_its_loop_has_failed_and_the_thread_is_replaced() -> None:
    loops = iter([Closing])

    async def closes(task: BaseTask) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(30)

    threads = ExecutionThreads(Resources(), lambda: next(loops, asyncio.SelectorEventLoop)())
    _, error = await run(threads, closes)
    assert isinstance(error, LoopClosedError)
    assert (await run(threads, where))[0][0].startswith("execution ")
    await threads.close()


async def test_a_thread_that_broke_while_it_was_idle_is_replaced(threads: ExecutionThreads) -> None:
    left: list[Callable[[], object]] = []

    async def leaves_what_ends_the_thread(task: BaseTask) -> threading.Thread:
        # As a task may that is left on the loop: it ends what serves the thread.
        serving = _serving(asyncio.get_running_loop())
        left.append(lambda: serving.get_loop().call_soon_threadsafe(serving.cancel))
        return threading.current_thread()

    thread, error = await run(threads, leaves_what_ends_the_thread)
    assert error is None
    left[0]()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    value, error = await run(threads, where)
    assert error is None
    assert value[0].startswith("execution ")


def _serving(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any]:
    # Not by `isinstance`: that asks each object for its class, and those of other tests may raise then.
    found = [each for each in gc.get_objects() if type(each) is asyncio.Task and not each.done()]
    (serving,) = (each for each in found if each.get_loop() is loop and "_serve" in repr(each.get_coro()))
    return serving


async def test_what_a_callback_raises_fails_the_execution_that_set_it(threads: ExecutionThreads) -> None:
    execution = Execution()
    _, error = await run(threads, exit_in_a_callback, execution)
    assert isinstance(error, SystemExit)
    assert execution.cancellation is not None
    assert execution.cancellation.cause is Cause.ESCAPED


async def test_a_task_factory_that_code_has_set_hinders_no_later_execution(threads: ExecutionThreads) -> None:
    def refuse(loop: asyncio.AbstractEventLoop, code: Any, **settings: Any) -> asyncio.Task[Any]:
        raise LookupError("no tasks here")

    async def sets_a_factory(task: BaseTask) -> None:
        asyncio.get_running_loop().set_task_factory(refuse)

    assert await run(threads, sets_a_factory) == (None, None)
    (name, _, _), error = await run(threads, where)
    assert (name, error) == ("execution 1", None)


async def test_cancelled_code_has_ended_before_its_execution_has(threads: ExecutionThreads) -> None:
    begun, cleaned_up, execution = threading.Event(), threading.Event(), Execution()

    async def waits(task: BaseTask) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    running = asyncio.create_task(run(threads, waits, execution))
    await wait_until(begun.is_set, description="it runs")
    execution.cancel(STOP)
    _, error = await running
    assert isinstance(error, asyncio.CancelledError)
    assert cleaned_up.is_set()


@dataclass
class Ends:
    """Counts the ends of the process, which goes on."""

    times: int = 0

    def __call__(self) -> None:
        self.times += 1


async def test_a_thread_that_is_not_left_when_the_lease_lapsed_ends_the_process(
    threads: ExecutionThreads, caplog: pytest.LogCaptureFixture
) -> None:
    blocks, ends = Blocks(), Ends()
    last_resort = LastResort(ends)
    execution = Execution(lambda: "test:Task 1", last_resort=last_resort)
    running = asyncio.create_task(run(threads, blocks, execution))
    await wait_until(blocks.begun.is_set, description="it blocks")
    execution.cancel(Cancellation(Cause.LEASE_LAPSED, "its lease lapsed"))
    await wait_until(lambda: ends.times, description="the process ends")
    blocks.released.set()
    await running
    assert ends.times == 1
    assert last_resort.reason is not None
    assert last_resort.reason.startswith("test:Task 1: it was cancelled (its lease lapsed), but it still runs at ")
    assert "in wait: the process ends" in caplog.text, "the text names the line where the thread is"


def test_the_end_of_the_process_waits_for_no_thread() -> None:
    code = (
        "import threading\n"
        "from diracx.tasks.plumbing.execution.last_resort import end_process\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "end_process()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == EXIT_CODE


class OpenedOn(Resources):
    """Records the threads on which its resources are opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[KeptOpen]:
        self.threads.append(threading.current_thread().name)
        async with super().kept_open() as here:
            yield here
        self.threads.append(threading.current_thread().name)


async def test_resources_are_opened_on_each_thread_that_executes() -> None:
    elsewhere, here, blocks = OpenedOn(), OpenedOn(), Blocks()
    async with executing(Size.LARGE, elsewhere) as threads:
        assert threads is not None
        running = asyncio.create_task(run(threads, blocks))
        await wait_until(blocks.begun.is_set, description="one thread is busy")
        await run(threads, where)
        blocks.released.set()
        await running
        assert elsewhere.threads == ["execution 1", "execution 2"]
    assert sorted(elsewhere.threads[2:]) == ["execution 1", "execution 2"]
    async with executing(Size.SMALL, here) as none:
        assert none is None
        assert here.threads == [threading.current_thread().name]


def no_loop() -> asyncio.AbstractEventLoop:
    raise OSError("too many open files")


async def test_without_another_thread_an_execution_is_refused_which_is_not_its_failure() -> None:
    loops: Iterator[Callable[[], asyncio.AbstractEventLoop]] = iter([asyncio.SelectorEventLoop])
    async with executing(Size.MEDIUM, Resources(), lambda: next(loops, no_loop)()) as threads:
        assert threads is not None
        blocks, execution = Blocks(), Execution()
        running = asyncio.create_task(run(threads, blocks))
        await wait_until(blocks.begun.is_set, description="the one thread is busy")
        _, error = await run(threads, where, execution)
        assert isinstance(error, NotServedError)
        assert execution.refusal is error
        assert str(error) == "no thread can be started for it: OSError: too many open files"
        assert timedelta(seconds=3) < error.delay < timedelta(seconds=8)  # 5 s, with jitter, to a full second
        blocks.released.set()
        assert await running == ("done", None)
        again = Execution()
        assert (await run(threads, where, again))[0][0] == "execution 1"
        assert again.refusal is None


async def test_a_timeout_that_ends_the_wait_for_a_thread_is_not_the_failure_of_the_task() -> None:
    release = threading.Event()

    def slow_loop() -> asyncio.AbstractEventLoop:
        assert release.wait(20)
        return asyncio.SelectorEventLoop()

    threads, execution = ExecutionThreads(Resources(), slow_loop), Execution()
    running = asyncio.create_task(run(threads, where, execution))
    await wait_until(lambda: execution.refusal is not None, description="it waits for a thread")
    execution.cancel(Cancellation(Cause.TIMEOUT, "too long", TimeoutError()))
    release.set()
    await running
    assert str(execution.refusal) == "it has not found a thread yet"
    assert (await run(threads, where))[0][0] == "execution 1"
    await threads.close()


async def test_code_that_is_cancelled_in_the_turn_of_the_loop_in_which_it_begins_comes_to_its_end() -> None:
    execution = Execution()
    execution.begin()
    code = run_code(asyncio.get_running_loop(), asyncio.Event().wait(), execution)
    running = asyncio.create_task(execution.run(code, None))
    await asyncio.sleep(0)  # it is about to begin
    execution.cancel(STOP)
    async with asyncio.timeout(60):
        _, error = await running
    assert isinstance(error, asyncio.CancelledError)
