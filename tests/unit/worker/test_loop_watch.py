"""Who holds up the event loop is named, once, and a stopped process is nobody's fault."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.execution.cancellation import Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.shared_loop import EAGERLY, ExecutionTask, secluded
from diracx.tasks.plumbing.worker.loop_watch import LoopWatch
from diracx.tasks.plumbing.worker.relief import Relief
from diracx.tasks.testing import wait_until

LIMIT = timedelta(seconds=0.3)


NAME = "lollygag:SyncOwnersTask 4711"


@dataclass
class Lease(Relief):
    """Nothing has to be kept; a lease holds for a second, and the process goes on."""

    ended: list[tuple[Execution | None, float]] = field(default_factory=list)

    @property
    def due_seconds(self) -> float:
        return 3600.0

    @property
    def lease_seconds(self) -> float:
        return 1.0

    async def end_process(self, execution: Execution | None, seconds: float) -> None:
        self.ended.append((execution, seconds))


def start(code: Coroutine[Any, Any, Any], execution: Execution | None = None) -> asyncio.Task[Any]:
    """As a worker does."""
    return ExecutionTask(code, execution or Execution(lambda: NAME), asyncio.get_running_loop())


async def run(execution: Execution, code: Coroutine[Any, Any, Any]) -> BaseException | None:
    """Run code to the end of its execution."""
    execution.begin()
    _, error = await execution.run(code, None)
    return error


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    keep = Keep()
    logger = logging.getLogger("diracx.tasks.worker")
    logger.addHandler(keep)
    yield said
    logger.removeHandler(keep)


def hold_up_until(said: list[str], count: int) -> None:
    """Block the thread until so many warnings were given, for 20 s at the most."""
    poll(lambda: len(said) >= count)


def poll(fact: Callable[[], object]) -> None:
    """Block the thread until a fact is true, for 20 s at the most."""
    deadline = time.monotonic() + 20
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.01)


async def block(said: list[str], count: int = 1) -> None:
    hold_up_until(said, count)


async def test_a_task_that_holds_up_the_loop_is_named_with_the_line_while_it_still_does(warnings: list[str]) -> None:
    with LoopWatch(limit=LIMIT).watching():
        await start(block(warnings))
    (warning,) = warnings
    assert warning.startswith("lollygag:SyncOwnersTask 4711 has held up the event loop for ")
    assert f"{__file__}:" in warning
    assert " in poll; tasks that block belong in size MEDIUM or LARGE" in warning


async def test_a_task_that_holds_up_the_loop_where_it_was_started_is_named(warnings: list[str]) -> None:
    loop, execution = asyncio.get_running_loop(), Execution(lambda: NAME)
    with LoopWatch(limit=LIMIT).watching():
        await ExecutionTask(run(execution, block(warnings)), execution, loop, **EAGERLY)
    (warning,) = warnings
    assert warning.startswith(f"{NAME} has held up the event loop for ")
    assert " in poll; tasks that block" in warning


async def test_what_is_no_task_of_the_worker_has_no_name(warnings: list[str]) -> None:
    with LoopWatch(limit=LIMIT).watching():
        await asyncio.create_task(block(warnings))
    assert warnings[0].startswith("something has held up the event loop for ")


@pytest.mark.parametrize("how", ["child", "callback"])
async def test_a_child_or_callback_that_holds_up_the_loop_counts_as_its_task(warnings: list[str], how: str) -> None:
    execution = Execution(lambda: NAME)

    async def by_a_child() -> None:
        await asyncio.gather(block(warnings))

    async def by_a_callback() -> None:
        asyncio.get_running_loop().call_soon(hold_up_until, warnings, 1)
        await asyncio.sleep(0.01)

    with secluded(asyncio.get_running_loop()), LoopWatch(limit=LIMIT).watching():
        await start(run(execution, by_a_child() if how == "child" else by_a_callback()), execution)
    (warning,) = warnings
    assert warning.startswith(f"{NAME} has held up the event loop for ")


async def test_a_task_is_blamed_only_for_what_it_holds_up_itself(warnings: list[str]) -> None:
    first, guilty = Execution(lambda: "first"), Execution(lambda: "guilty")
    relief = Lease()

    async def blocks(fact: Callable[[], object]) -> None:
        poll(fact)
        await asyncio.sleep(0.1)

    with LoopWatch(relief, limit=LIMIT, max_held_up=timedelta(seconds=1.5)).watching():
        # Both run in one turn of the loop, without a mark between them.
        await asyncio.gather(
            start(run(first, blocks(lambda: warnings)), first), start(run(guilty, blocks(lambda: relief.ended)), guilty)
        )
    assert warnings[0].startswith("first has held up the event loop for ")
    assert first.cancellation is None
    assert guilty.cancellation is not None
    assert guilty.cancellation.cause is Cause.HELD_UP
    assert [execution for execution, _ in relief.ended] == [guilty]


async def test_each_time_is_reported_once(warnings: list[str]) -> None:
    async def block_on_past_the_report() -> None:
        hold_up_until(warnings, 1)
        looks = threading.Event()
        looks.wait(1)  # several looks of the watcher later there is still one report

    with LoopWatch(limit=LIMIT).watching():
        await start(block_on_past_the_report())
        assert len(warnings) == 1
        await asyncio.sleep(0.3)  # the loop is free again: a mark is set
        await start(block(warnings, 2))
    assert len(warnings) == 2


async def test_a_process_that_was_stopped_as_a_whole_is_nobodys_fault(warnings: list[str]) -> None:
    looks: list[float] = []
    stopped_for = 0.0

    def clock() -> float:
        now = time.monotonic() + stopped_for
        looks.append(now)
        return now

    with LoopWatch(limit=LIMIT, clock=clock).watching():
        await wait_until(lambda: len(looks) > 4, description="it has looked")
        stopped_for = 3600.0
        seen = len(looks)
        await wait_until(lambda: len(looks) > seen + 6, description="it has looked again")
    assert not warnings


async def test_the_watching_thread_ends_with_the_block() -> None:
    with LoopWatch(limit=LIMIT).watching():
        assert any(thread.name == "loop watch" for thread in threading.enumerate())
    await wait_until(
        lambda: not any(thread.name == "loop watch" for thread in threading.enumerate()), description="the thread ends"
    )
