"""What was read before a change is shown to nobody after it, and no page waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

from diracx.tasks.dashboard.live import Live, Viewer
from diracx.tasks.dashboard.mesh import Shared
from diracx.tasks.testing import wait_until


class Source:
    """Something that is read slowly."""

    def __init__(self) -> None:
        self.value, self.begun, self.go = "before", 0, asyncio.Event()

    async def read(self) -> str:
        value = self.value
        self.begun += 1
        await self.go.wait()
        return value

    async def parts(self) -> Mapping[str, str]:
        return {"part": await self.read()}


async def test_a_reading_that_was_forgotten_while_it_was_made_serves_only_who_waited_for_it() -> None:
    source = Source()
    shared = Shared(source.read)
    early = asyncio.create_task(shared.get())
    await wait_until(lambda: source.begun == 1, description="a reading is made")
    source.value = "after"
    shared.forget()
    late = asyncio.create_task(shared.get())
    await wait_until(lambda: source.begun == 2, description="another reading is made")
    source.go.set()
    assert (await early, await late, await shared.get()) == ("before", "after", "after")


async def test_the_end_gives_up_forgotten_readings_too() -> None:
    source = Source()
    shared = Shared(source.read)
    waiting = asyncio.create_task(shared.get())
    await wait_until(lambda: source.begun == 1, description="a reading is made")
    shared.forget()
    await shared.end()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_stream_never_shows_what_was_read_before_a_change() -> None:
    source = Source()
    live = Live(lambda problem, since: "news", lambda: datetime(2026, 5, 4, tzinfo=UTC))
    events = live.events(("page",), source.parts, 1.0, Viewer())
    assert await anext(events) == b"retry: 2000\n\n"
    await wait_until(lambda: source.begun == 1, description="the page is read")
    source.value = "after"
    live.forget()
    source.go.set()
    assert b"after" in await anext(events)
    await events.aclose()
    await live.close()


async def test_a_page_that_takes_long_holds_up_no_other_and_ends_with_the_dashboard() -> None:
    slow, fast = Source(), Source()
    fast.go.set()
    live = Live(lambda problem, since: "news", lambda: datetime(2026, 5, 4, tzinfo=UTC))
    waits = live.events(("slow",), slow.parts, 1.0, Viewer())
    await anext(waits)
    await wait_until(lambda: slow.begun == 1, description="the slow page is read")
    events = live.events(("fast",), fast.parts, 0.05, Viewer())
    await anext(events)
    assert b"before" in await asyncio.wait_for(anext(events), 5)
    await wait_until(lambda: fast.begun >= 3, description="the fast page is read again and again")
    assert slow.begun == 1
    await live.close()
    assert not [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()]
    await events.aclose()
    await waits.aclose()
