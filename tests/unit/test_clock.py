"""The sleep that an event ends."""

from __future__ import annotations

import asyncio

from diracx.tasks.plumbing.clock import sleep_until_set


async def test_the_event_ends_the_sleep() -> None:
    event = asyncio.Event()
    sleep = asyncio.create_task(sleep_until_set(event, 3600))
    await asyncio.sleep(0)
    event.set()
    async with asyncio.timeout(10):
        await sleep


async def test_the_sleep_ends_by_itself_and_at_once_if_the_event_is_set() -> None:
    event = asyncio.Event()
    await sleep_until_set(event, 0.01)
    event.set()
    async with asyncio.timeout(10):
        await sleep_until_set(event, 3600)
