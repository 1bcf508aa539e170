"""What the code of a task finds on the event loop that it shares, and may cancel there."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution, current_execution
from diracx.tasks.plumbing.execution.shared_loop import EAGERLY, ExecutionTask, secluded
from support.jobs import forever

STOP = Cancellation(Cause.STOP, "the worker stops")

Code = Callable[[], Awaitable[Any]]


@pytest.fixture(autouse=True)
async def shared() -> AsyncIterator[None]:
    with secluded(asyncio.get_running_loop()):
        yield


def start(execution: Execution, code: Code) -> asyncio.Task[Any]:
    """As a worker does, which goes on after the code: to the settlement."""

    async def carry() -> tuple[Any, BaseException | None]:
        execution.begin()
        end = await execution.run(code(), None)
        await asyncio.sleep(0.02)
        return end

    return ExecutionTask(carry(), execution, asyncio.get_running_loop())


async def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await forever()


async def with_children() -> str:
    """Its children have children."""

    async def child() -> None:
        await asyncio.gather(*(asyncio.sleep(0.05) for _ in range(3)))

    async with asyncio.TaskGroup() as group:
        group.create_task(child(), name="a child")
        group.create_task(child())
    return "done"


async def test_code_that_cancels_all_tasks_cancels_its_own_and_no_others() -> None:
    heartbeats = asyncio.create_task(asyncio.sleep(0.05, "the worker goes on"))
    neighbour, guilty = start(Execution(), with_children), start(Execution(), cancel_all)
    await asyncio.sleep(0.01)
    again = start(Execution(), cancel_all)
    for task in (guilty, again):
        # What is cancelled is the asyncio task, and with it what would have come after the code.
        with contextlib.suppress(asyncio.CancelledError):
            assert isinstance((await task)[1], asyncio.CancelledError)
    assert await neighbour == ("done", None)
    assert await heartbeats == "the worker goes on"


async def test_what_was_left_behind_cancels_no_other_execution() -> None:
    async def leaves_a_canceller() -> None:
        asyncio.get_running_loop().call_later(0.01, lambda: [task.cancel() for task in asyncio.all_tasks()])

    # It has ended by then, and is cancelled itself.
    await asyncio.wait([start(Execution(), leaves_a_canceller)], timeout=0)
    assert await start(Execution(), with_children) == ("done", None)


async def test_code_sees_the_tasks_of_executions_but_none_of_the_worker() -> None:
    seen: set[str] = set()

    async def looks() -> None:
        child = asyncio.create_task(forever(), name="its child")
        seen.update(task.get_name() for task in asyncio.all_tasks())
        child.cancel()

    heartbeats = asyncio.create_task(forever(), name="heartbeats")
    task = start(Execution(), looks)
    task.set_name("itself")
    await task
    assert {"its child", "itself"} <= seen
    assert "heartbeats" not in seen
    heartbeats.cancel()


async def test_what_an_ended_execution_has_left_may_be_cancelled_by_another_one() -> None:
    left: list[asyncio.Task[Any]] = []

    async def leaves() -> None:
        left.append(asyncio.create_task(forever()))

    async def cancels() -> bool:
        return left[0].cancel()

    await start(Execution(), leaves)
    assert await start(Execution(), cancels) == (True, None)


async def test_an_execution_is_cancelled_from_the_context_of_another_one() -> None:
    neighbour = Execution()

    async def stops_the_worker() -> None:
        neighbour.cancel(STOP)

    running = start(neighbour, forever)
    await asyncio.sleep(0)
    await start(Execution(), stops_the_worker)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert neighbour.cancellation is STOP


async def test_code_cannot_shut_down_the_threads_of_all() -> None:
    async def shuts_down() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()

    async def calls() -> str:
        return await asyncio.to_thread(str, "done")

    _, error = await start(Execution(), shuts_down)
    assert isinstance(error, RuntimeError)
    assert await start(Execution(), calls) == ("done", None)


async def test_what_ran_before_is_listed_again_at_the_end() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(None)
    before = asyncio.create_task(forever())
    with secluded(loop):
        assert before not in asyncio.all_tasks()
    assert before in asyncio.all_tasks()
    before.cancel()


@pytest.mark.skipif(not EAGERLY, reason="Python 3.12 is the first that begins a task where it is made")
class TestEagerly:
    """The code begins where its asyncio task is made, within a step of another one."""

    async def test_code_without_waits_has_ended_when_its_task_was_made(self) -> None:
        seen: list[Any] = []
        execution, worker = Execution(), asyncio.current_task()

        async def looks() -> str:
            seen.extend([asyncio.current_task(), current_execution.get(), asyncio.all_tasks()])
            current_execution.set(execution)
            return "done"

        task = ExecutionTask(looks(), execution, asyncio.get_running_loop(), **EAGERLY)
        assert task.done()
        assert task.result() == "done"
        current, before, listed = seen
        assert current is task
        assert before is None
        assert listed <= {task}, "neither the worker nor the asyncio task within which it runs"
        assert asyncio.current_task() is worker
        assert current_execution.get() is None, "its context is its own"

    async def test_code_that_waits_goes_on_later_as_an_ordinary_task(self) -> None:
        order: list[str] = []

        async def waits() -> str:
            order.append("begins")
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            order.append("goes on")
            return "done"

        task = ExecutionTask(waits(), Execution(), asyncio.get_running_loop(), **EAGERLY)
        order.append("was made")
        assert task in asyncio.all_tasks()
        assert await task == "done"
        assert order == ["begins", "was made", "goes on"]


@pytest.mark.parametrize("waits", [True, False])
async def test_code_that_cancels_itself_in_its_first_step_cancels_nothing_else(waits: bool) -> None:
    async def cancels_itself() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        if waits:
            await forever()

    task = ExecutionTask(cancels_itself(), Execution(), asyncio.get_running_loop(), **EAGERLY)
    await asyncio.wait([task])
    assert task.cancelled()
    await asyncio.sleep(0)  # this test is not cancelled


async def test_a_child_that_begins_within_its_creation_belongs_to_its_execution() -> None:
    async def looks() -> object:
        task = asyncio.current_task()
        return task.execution if isinstance(task, ExecutionTask) else None

    async def creates() -> object:
        eager: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 14) else {}
        return await asyncio.get_running_loop().create_task(looks(), **eager)

    execution = Execution()
    assert await start(execution, creates) == (execution, None)
