"""Who holds up the event loop is named, once, and a stopped process is nobody's fault."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.worker.loop_lag import LoopLag
from diracx.tasks.testing import wait_until

LIMIT = timedelta(seconds=0.3)


def name_of(task: asyncio.Task[Any]) -> str | None:
    """As a worker answers: it knows its own tasks only."""
    return "lollygag:SyncOwnersTask 4711" if task.get_name() == "ours" else None


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
    deadline = time.monotonic() + 20
    while len(said) < count and time.monotonic() < deadline:
        time.sleep(0.01)


async def block(said: list[str], count: int = 1) -> None:
    hold_up_until(said, count)


async def test_a_task_that_holds_up_the_loop_is_named_with_the_line_while_it_still_does(warnings: list[str]) -> None:
    with LoopLag(name_of, LIMIT).watching():
        await asyncio.create_task(block(warnings), name="ours")
    (warning,) = warnings
    assert warning.startswith("lollygag:SyncOwnersTask 4711 has held up the event loop for ")
    assert f"{__file__}:" in warning
    assert " in hold_up_until; tasks that block belong in size MEDIUM or LARGE" in warning


async def test_what_is_no_task_of_the_worker_has_no_name(warnings: list[str]) -> None:
    with LoopLag(name_of, LIMIT).watching():
        await asyncio.create_task(block(warnings))
    assert warnings[0].startswith("something has held up the event loop for ")


async def test_each_time_is_reported_once(warnings: list[str]) -> None:
    async def block_on_past_the_report() -> None:
        hold_up_until(warnings, 1)
        looks = threading.Event()
        looks.wait(1)  # several looks of the watcher later there is still one report

    with LoopLag(name_of, LIMIT).watching():
        await asyncio.create_task(block_on_past_the_report(), name="ours")
        assert len(warnings) == 1
        await asyncio.sleep(0.3)  # the loop is free again: a mark is set
        await asyncio.create_task(block(warnings, 2), name="ours")
    assert len(warnings) == 2


async def test_a_process_that_was_stopped_as_a_whole_is_nobodys_fault(warnings: list[str]) -> None:
    looks: list[float] = []
    stopped_for = 0.0

    def clock() -> float:
        now = time.monotonic() + stopped_for
        looks.append(now)
        return now

    with LoopLag(name_of, LIMIT, clock).watching():
        await wait_until(lambda: len(looks) > 4, description="it has looked")
        stopped_for = 3600.0
        seen = len(looks)
        await wait_until(lambda: len(looks) > seen + 6, description="it has looked again")
    assert not warnings


async def test_the_watching_thread_ends_with_the_block() -> None:
    with LoopLag(name_of, LIMIT).watching():
        assert any(thread.name == "loop lag" for thread in threading.enumerate())
    await wait_until(
        lambda: not any(thread.name == "loop lag" for thread in threading.enumerate()), description="the thread ends"
    )
