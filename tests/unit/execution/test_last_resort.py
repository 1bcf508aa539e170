"""The last resort ends the process, whatever the event loop does meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from diracx.tasks.plumbing.execution import last_resort as last_resort_module
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.execution.loops import run as run_loop
from diracx.tasks.testing import wait_until
from support.jobs import Retires, forever


async def test_the_last_resort_ends_the_process_though_another_task_holds_up_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_resort_module, "GIVE_BACK_SECONDS", 0.1)
    ended = threading.Event()
    last_resort = LastResort(ended.set)
    last_resort.give_back = forever
    last_resort.end_now("test:Task 1 lost a lock")
    assert ended.wait(10)  # it holds up the loop


def test_the_last_resort_ends_the_process_though_the_loop_ends_first() -> None:
    last_resort = Retires()
    last_resort.give_back = forever

    async def main() -> None:
        last_resort.end_now("test:Task 1 lost a lock")
        await asyncio.sleep(0)

    run_loop(main())
    assert last_resort.asked == ["end"]


async def test_the_last_resort_gives_back_before_it_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    last_resort = Retires()

    async def give_back() -> None:
        last_resort.asked.append("give back")
        raise OSError("not all")

    last_resort.give_back = give_back
    with caplog.at_level(logging.CRITICAL):
        last_resort.end_now("test:Task 1 lost a lock")
        last_resort.end_now("test:Task 2 lost a lock")
    await wait_until(lambda: "end" in last_resort.asked, description="the process ends")
    assert last_resort.asked == ["give back", "end"]
    assert "not every message was given back" in caplog.text
    last_resort.retire("it ends already")
    assert last_resort.asked == ["give back", "end"]
