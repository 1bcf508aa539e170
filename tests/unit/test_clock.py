"""The sleep that an event ends."""

from __future__ import annotations

import asyncio

from diracx.tasks.plumbing.clock import wait_for_event


async def test_an_event_ends_the_sleep() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_for_event(event, 3600))
    await asyncio.sleep(0)
    event.set()
    assert await waiting


async def test_an_event_that_is_set_already_ends_the_sleep_at_once() -> None:
    event = asyncio.Event()
    event.set()
    assert await wait_for_event(event, 3600)


async def test_without_the_event_the_sleep_ends_after_its_time() -> None:
    assert not await wait_for_event(asyncio.Event(), 0.001)
