"""One execution: who cancels it, for which reason, and what of it still runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from diracx.tasks.plumbing.execution import execution as execution_module
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution, current_execution
from diracx.tasks.plumbing.execution.loops import run as run_loop
from diracx.tasks.plumbing.execution.stacks import line_of_thread, threads_of
from diracx.tasks.plumbing.execution.thread import TaskThreads, blame_escape, run_code
from diracx.tasks.testing import wait_until
from support.jobs import Retires, forever

STOP = Cancellation(Cause.STOP, "the worker stops")
LAPSED = Cancellation(Cause.LEASE_LAPSED, "its lease lapsed")
LOST = Cancellation(Cause.LOCK_LOST, "a lock was lost")

Ended = tuple[Any, BaseException | None]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name in ("YIELD_SECONDS", "INSIST_SECONDS", "OVERRUN_SECONDS"):
        monkeypatch.setattr(execution_module, name, getattr(execution_module, name) / 100)


@pytest.fixture
async def released() -> AsyncIterator[threading.Event]:
    """Ends the threads of a test."""
    asyncio.get_running_loop().set_default_executor(TaskThreads())
    released = threading.Event()
    yield released
    released.set()
    await asyncio.get_running_loop().shutdown_default_executor()


def start(
    execution: Execution, code: Callable[[], Awaitable[Any]], timeout_seconds: float | None = None
) -> asyncio.Task[Ended]:
    async def drive() -> Ended:
        assert execution.begin()
        running: Awaitable[Any] = code()
        if timeout_seconds is not None:
            running = run_code(asyncio.get_running_loop(), execution.in_steps(running), execution)
        return await execution.run(running, timeout_seconds)

    return asyncio.create_task(drive())


async def test_an_execution_that_is_cancelled_before_it_begins_does_not_begin() -> None:
    execution = Execution()
    execution.cancel(STOP)
    assert not execution.begin()
    assert execution.cancellation is STOP


async def test_the_first_reason_stands_unless_the_lease_lapses_or_a_lock_is_lost() -> None:
    execution = Execution()
    for cancellation, stands in (
        (STOP, STOP),
        (Cancellation(Cause.TIMEOUT, "timeout", TimeoutError()), STOP),
        (LAPSED, LAPSED),
        (LOST, LAPSED),
        (STOP, LAPSED),
    ):
        execution.cancel(cancellation)
        assert execution.cancellation is stands


async def test_code_that_swallows_its_cancellation_is_cancelled_again() -> None:
    execution, begun = Execution(), asyncio.Event()

    async def swallows() -> str:
        begun.set()
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
        return "gave in"

    running = start(execution, swallows)
    await begun.wait()
    execution.cancel(STOP)
    assert await running == ("gave in", None)


async def test_nothing_is_left_of_an_execution_that_was_cancelled_while_its_locks_were_taken() -> None:
    def name() -> str:
        return "test:Task 1"

    async def takes_locks(execution: Execution) -> None:
        execution.begin()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        execution.close()

    for closes in (True, False):
        execution = Execution(name)
        running = asyncio.create_task(takes_locks(execution) if closes else forever())
        await asyncio.sleep(0)
        if not closes:
            execution.task = running
        execution.cancel(LAPSED)
        await asyncio.wait([running])
        del execution, running
    name_of, kept = weakref.ref(name), name
    del name, kept
    await wait_until(lambda: not gc.collect() and name_of() is None, description="no timer keeps it")


async def test_a_thread_that_the_code_left_is_named_and_waited_for(
    released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    execution = Execution(lambda: "test:Task 1")

    async def leaves_a_thread() -> str:
        asyncio.get_running_loop().run_in_executor(None, released.wait, 30)
        return "done"

    assert await start(execution, leaves_a_thread) == ("done", None)
    assert len(execution.threads) == 1
    nothing_runs = asyncio.create_task(execution.nothing_runs())
    await wait_until(
        lambda: "test:Task 1: its code has ended, but it still runs at " in caplog.text, description="said"
    )
    assert "in wait; it keeps its locks until then" in caplog.text
    assert not nothing_runs.done()
    released.set()
    await nothing_runs
    assert not execution.threads
    await execution.nothing_runs()


async def test_a_thread_that_outlives_its_timeout_is_named_and_then_ends_the_process_in_order(
    released: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    last_resort = Retires()
    execution = Execution(lambda: "test:Task 1", last_resort=last_resort)

    async def blocks() -> None:
        await asyncio.to_thread(released.wait, 30)

    _, error = await start(execution, blocks, timeout_seconds=0.01)
    assert isinstance(error, asyncio.CancelledError)
    assert execution.cancellation is not None
    assert str(execution.cancellation.error) == "ran longer than timeout_seconds=0.01"
    assert execution.runs_on
    await wait_until(lambda: last_resort.asked, description="it was too long")
    assert last_resort.asked == ["retire"]
    assert "it was cancelled (ran longer than timeout_seconds=0.01), but it still runs at " in caplog.text
    assert last_resort.reason == "test:Task 1 still runs 0.6 s after it was cancelled"


async def test_code_that_is_deaf_to_its_timeout_is_given_up_and_ends_the_process_in_order() -> None:
    last_resort, hears = Retires(), asyncio.Event()
    execution = Execution(lambda: "test:Task 1", last_resort=last_resort)

    async def is_deaf() -> None:
        while not hears.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await hears.wait()

    assert await start(execution, is_deaf, timeout_seconds=0.01) == (None, None)
    assert execution.cancellation is not None
    assert execution.cancellation.cause is Cause.TIMEOUT
    assert execution.code_given_up
    assert last_resort.asked == ["retire"]
    hears.set()
    await execution.nothing_runs()
    assert not execution.code_given_up


@pytest.mark.parametrize(("cancellation", "ends"), [(LOST, True), (LAPSED, False)])
async def test_a_thread_that_is_left_behind_ends_the_process_at_once_only_where_a_lock_was_lost(
    released: threading.Event, caplog: pytest.LogCaptureFixture, cancellation: Cancellation, ends: bool
) -> None:
    last_resort, begun = Retires(), threading.Event()
    execution = Execution(lambda: "test:Task 1", last_resort=last_resort)

    def block() -> None:
        begun.set()
        released.wait(30)

    async def blocks() -> None:
        await asyncio.to_thread(block)

    running = start(execution, blocks)
    await wait_until(begun.is_set, description="the thread runs")
    execution.cancel(cancellation)
    await running
    await wait_until(lambda: last_resort.asked, description="the process ends")
    assert last_resort.asked == (["end"] if ends else ["retire"])
    assert ends or "but it still runs at " in caplog.text


async def test_a_lock_that_is_lost_after_the_end_of_the_code_ends_the_process_if_something_still_runs(
    released: threading.Event,
) -> None:
    for leaves_a_thread in (False, True):
        last_resort = Retires()
        execution = Execution(last_resort=last_resort)

        async def code(leaves_a_thread: bool = leaves_a_thread) -> None:
            if leaves_a_thread:
                asyncio.get_running_loop().run_in_executor(None, released.wait, 30)

        await start(execution, code)
        execution.close()
        execution.cancel(LOST)
        await wait_until(lambda: bool(last_resort.asked) is leaves_a_thread, description="as it should")  # noqa: B023


async def test_a_task_whose_loop_was_held_up_by_another_one_gets_the_rest_of_its_time() -> None:
    execution = Execution()

    async def waits() -> str:
        await asyncio.sleep(0.3)
        return "in time"

    async def neighbour() -> None:
        time.sleep(0.9)  # noqa: ASYNC251 - it holds up the loop

    running = start(execution, waits, timeout_seconds=0.5)
    await asyncio.sleep(0)
    await asyncio.create_task(neighbour())
    assert await running == ("in time", None)
    assert execution.cancellation is None


async def test_code_that_held_up_the_loop_past_its_timeout_has_failed() -> None:
    execution = Execution()

    async def blocks() -> str:
        time.sleep(0.1)  # noqa: ASYNC251 - it holds up the loop
        return "done"

    await start(execution, blocks, timeout_seconds=0.05)
    assert execution.cancellation is not None
    assert execution.cancellation.cause is Cause.TIMEOUT


async def test_code_that_waits_on_after_it_held_up_the_loop_past_its_timeout_is_cancelled() -> None:
    execution = Execution()

    async def blocks_and_waits() -> None:
        with contextlib.suppress(ValueError):
            await asyncio.gather(fails(), asyncio.sleep(0.01))
        time.sleep(0.5)  # noqa: ASYNC251 - it holds up the loop
        await forever()

    async def fails() -> None:
        raise ValueError

    _, error = await start(execution, blocks_and_waits, timeout_seconds=0.1)
    assert isinstance(error, asyncio.CancelledError)
    assert execution.cancellation is not None
    assert execution.cancellation.cause is Cause.TIMEOUT


async def test_code_that_held_up_the_loop_past_its_lease_has_failed_and_a_stop_stays_a_stop() -> None:
    execution = Execution()
    execution.holds_up(5.0, lease_seconds=29)
    execution.holds_up(28.0, lease_seconds=29)
    assert str(execution.cancellation) == "None"
    execution.holds_up(45.2, lease_seconds=29)
    assert execution.cancellation is not None
    assert execution.cancellation.reason == "blocked the loop for 45 s, longer than its lease: declare it MEDIUM"
    stopped = Execution()
    stopped.cancel(STOP)
    stopped.holds_up(45.2, lease_seconds=29)
    assert stopped.cancellation is STOP


async def test_code_that_goes_on_after_it_held_up_the_loop_past_its_lease_is_cancelled_by_a_stop_and_has_failed() -> (
    None
):
    execution, begun = Execution(), asyncio.Event()

    async def goes_on() -> None:
        execution.holds_up(45.2, lease_seconds=29)
        begun.set()
        await forever()

    running = start(execution, goes_on)
    await begun.wait()
    execution.cancel(STOP)
    assert isinstance((await running)[1], asyncio.CancelledError)
    assert execution.cancellation is not None
    assert execution.cancellation.cause is Cause.HELD_UP


def test_an_exit_in_a_callback_fails_the_task_that_set_it_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    guilty, neighbour, left_behind = Execution(), Execution(), Execution()

    async def exits_in_a_callback() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 2)
        await forever()

    async def leaves_a_callback() -> None:
        asyncio.get_running_loop().call_later(0.05, sys.exit, 3)

    async def sleeps() -> str:
        await asyncio.sleep(0.1)
        return "slept"

    async def main() -> list[Ended]:
        codes = ((guilty, exits_in_a_callback), (left_behind, leaves_a_callback), (neighbour, sleeps))
        return await asyncio.gather(*(start(execution, code) for execution, code in codes))

    ended = run_loop(main(), on_escape=blame_escape)
    assert guilty.cancellation is not None
    assert isinstance(guilty.cancellation.error, SystemExit)
    assert ended[1:] == [(None, None), ("slept", None)]
    assert "code on the event loop raised SystemExit(3); the loop goes on" in caplog.text


def test_an_exit_of_no_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    blame_escape(SystemExit(4), None)
    assert "code on the event loop raised SystemExit(4)" in caplog.text


async def test_threads_that_belong_to_no_execution_are_not_watched(released: threading.Event) -> None:
    current_execution.set(None)
    released.set()
    assert await asyncio.to_thread(released.wait)


def test_the_thread_of_a_call_that_has_just_failed_is_not_looked_for() -> None:
    reached, released = threading.Event(), threading.Event()

    def wait_at_the_end(frame: FrameType, event: str, _: object) -> Any:
        if event == "return":
            reached.set()
            released.wait(20)
        return wait_at_the_end

    def trace(frame: FrameType, event: str, _: object) -> Any:
        return wait_at_the_end if frame.f_code.co_qualname == "_WorkItem.run" else None

    def fail() -> None:
        sys.settrace(trace)
        sys._getframe(1).f_trace = wait_at_the_end
        raise ValueError

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(fail)
        assert reached.wait(20)
        assert threads_of({call}) == []
        released.set()


def test_the_line_of_a_thread_that_has_ended_is_not_known() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert line_of_thread(thread.ident) == "in a thread that has ended"
