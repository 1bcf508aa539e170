"""A reading that several viewers share."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.dashboard.mesh import Shared


class Slow:
    """A reading that takes until the test lets it go."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.go = asyncio.Event()

    async def read(self) -> int:
        self.begun += 1
        self.at_once += 1
        assert self.at_once == 1, "one after the other"
        number = self.begun
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        return number


async def begin(shared: Shared[int]) -> asyncio.Task[int]:
    asked = asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return asked


async def test_whoever_asks_meanwhile_waits_for_the_same_reading() -> None:
    slow = Slow()
    shared = Shared(slow.read)
    first, second = await begin(shared), await begin(shared)
    first.cancel()
    slow.go.set()
    assert (await second, await shared.get(), slow.begun) == (1, 1, 1)


async def test_a_reading_that_began_before_a_change_is_not_given_to_those_who_ask_after_it() -> None:
    slow = Slow()
    shared = Shared(slow.read)
    before = await begin(shared)
    shared.forget()
    after = await begin(shared)
    slow.go.set()
    assert (await before, await after, await shared.get()) == (1, 2, 2)


async def test_the_end_gives_up_all_that_is_read() -> None:
    slow = Slow()
    shared = Shared(slow.read)
    readings = [await begin(shared)]
    shared.forget()
    readings.append(await begin(shared))
    await shared.end()
    assert slow.at_once == 0
    for each in readings:
        with pytest.raises(asyncio.CancelledError):
            await each
