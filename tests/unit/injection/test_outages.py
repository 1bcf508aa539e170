"""Resources that cannot be opened: which tasks are refused meanwhile, for how long, and when they are served again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.execution.loops import loop_on_a_thread, run_on
from diracx.tasks.plumbing.injection import outages as module
from diracx.tasks.plumbing.injection.outages import KeptOpen, Outages
from diracx.tasks.plumbing.injection.resource import Resource
from diracx.tasks.testing import wait_until
from support.clock import ManualClock


class Door(Resource[str]):
    """Opens when it is told to."""

    def __init__(self, name: str = "Door") -> None:
        super().__init__(name)
        self.error: BaseException | None = None
        self.stuck: asyncio.Event | None = None
        self.closing_error: Exception | None = None
        self.never_closes = False
        self.missing: list[str] = []
        self.tries = 0

    def problems(self) -> list[str]:
        return self.missing

    def replacements(self) -> dict[str, Callable[..., Any]]:
        return {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        self.tries += 1
        if self.stuck is not None:
            await self.stuck.wait()
        if self.error is not None:
            raise self.error
        async with self.serving("open"):
            yield
        if self.never_closes:
            await asyncio.Event().wait()
        if self.closing_error is not None:
            raise self.closing_error


class NoTextError(Exception):
    """An exception of a client's library that has an `errors` of its own, and cannot be printed."""

    errors: ClassVar[Callable[[], list[str]]] = staticmethod(lambda: ["gone"])

    def __str__(self) -> str:
        raise ZeroDivisionError


class Needs(BaseTask):
    async def execute(self) -> None: ...


class NeedsNothing(BaseTask):
    async def execute(self) -> None: ...


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def outages(clock: ManualClock, door: Door, monkeypatch: pytest.MonkeyPatch) -> Outages:
    """Of a process with one task that needs the door, and one that needs nothing. Tries follow in a moment."""
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)
    outages = Outages(clock)
    outages.add(Needs, "test:Needs", [door])
    outages.add(NeedsNothing, "test:NeedsNothing", [])
    return outages


async def test_what_is_down_is_tried_again_and_its_task_refused_until_it_opens(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    door.error = ConnectionRefusedError("nobody there")
    async with KeptOpen.on_this_loop([door], outages) as here:
        await here.tried()
        assert outages.any
        assert str(outages.refusal(Needs)) == "Door: ConnectionRefusedError: nobody there"
        assert str(here.refusal(Needs)) == "Door: ConnectionRefusedError: nobody there"
        assert outages.refusal(NeedsNothing) is here.refusal(NeedsNothing) is None
        assert not here.has(Needs)
        assert outages.not_served == {"test:Needs": "Door: ConnectionRefusedError: nobody there"}
        assert outages.why_idle is None
        await wait_until(lambda: door.tries > 2, description="it is tried again")
        door.error = None
        await wait_until(lambda: not outages.any, description="it is open")
        assert outages.refusal(Needs) is here.refusal(Needs) is None
        assert door.value == "open"
    assert not door.is_open
    assert (
        caplog.text.count("not served: test:Needs: Door: ConnectionRefusedError: nobody there; it is tried again") == 1
    )
    assert "still down: Door" in caplog.text
    assert "served again: test:Needs: Door is open" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(2), asyncio.CancelledError()], ids=["exit", "cancelled"])
async def test_a_service_whose_code_exits_or_cancels_itself_is_down_and_ends_nothing_else(
    outages: Outages, door: Door, error: BaseException
) -> None:
    door.error = error
    async with KeptOpen.on_this_loop([door], outages) as here:
        async with asyncio.timeout(5):
            await here.tried()
        assert str(outages.refusal(Needs)).startswith(f"Door: {type(error).__name__}")
        door.error = None
        await wait_until(lambda: not outages.any, description="it is tried again, and open")


async def test_whoever_cancels_the_opening_of_a_service_ends_it(outages: Outages, door: Door) -> None:
    door.stuck = asyncio.Event()
    async with KeptOpen.on_this_loop([door], outages):
        await wait_until(lambda: door.tries, description="it begins to open")
        (opening,) = (task for task in asyncio.all_tasks() if task.get_name() == "keep Door open")
        opening.cancel()
        await asyncio.wait([opening], timeout=5)
        assert opening.cancelled()


async def test_a_missing_variable_is_not_tried_again(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.missing = ["set DOOR"]
    async with KeptOpen.on_this_loop([door], outages) as here:
        await here.tried()
        assert str(outages.refusal(Needs)) == "Door: set DOOR"
    assert "not served: test:Needs: Door: set DOOR; then start this worker again" in caplog.text
    assert door.tries == 0


async def test_the_delay_grows_with_the_outage_and_the_log_has_a_line_a_minute(
    outages: Outages, door: Door, clock: ManualClock
) -> None:
    door.error = ResourceError(["Door cannot be read"])
    delays, lines = [], []
    async with KeptOpen.on_this_loop([door], outages) as here:
        await here.tried()
        for _ in range(4):
            refusal = outages.refusal(Needs)
            assert refusal is not None
            assert str(refusal) == "Door cannot be read"
            delays.append(refusal.delay / timedelta(seconds=1))
            lines.append(not refusal.quiet)
            clock.now += 20
    for delay, middle in zip(delays, (5, 20, 30, 30), strict=True):
        assert middle * 0.75 <= delay <= middle * 1.25 + 1  # at a full second
    assert lines == [True, False, False, True]


async def test_many_messages_that_wait_for_a_resource_return_in_batches_and_within_two_minutes(
    outages: Outages, clock: ManualClock
) -> None:
    clock.now = 1_000.0
    seconds = [outages.refuse(Needs, "down").delay / timedelta(seconds=1) for _ in range(30_000)]
    batches = Counter(seconds)
    assert all(second == round(second) for second in batches)
    assert all(size <= 201 for second, size in batches.items() if 7 < second < 120)
    assert max(seconds) <= 121
    assert len(batches) > 100
    assert outages.refuse(NeedsNothing, "down").delay <= timedelta(seconds=7), "other tasks do not queue up behind them"


async def test_a_slow_resource_is_down_until_it_opens_and_holds_up_no_other_task(
    outages: Outages, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.05)
    door.stuck = asyncio.Event()
    async with KeptOpen.on_this_loop([door], outages) as here:
        await here.tried(NeedsNothing)
        assert outages.refusal(Needs) is None, "nobody knows yet"
        await here.tried(Needs)
        await wait_until(lambda: outages.any, description="it is slow")
        assert str(outages.refusal(Needs)) == "Door: it has not opened for 0.05 s"
        door.stuck.set()
        await wait_until(lambda: not outages.any, description="it is open")
    door.stuck.clear()
    async with KeptOpen.on_this_loop([door], outages):
        pass  # what is being opened is broken off
    assert not door.is_open


async def test_a_worker_that_can_do_nothing_says_so(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    outages.add(NeedsNothing, "test:NeedsNothing", [window := Door("Window")])
    door.error = window.error = ConnectionRefusedError("nobody there")
    async with KeptOpen.on_this_loop([door, window], outages) as here:
        await here.tried()
        refused = "ConnectionRefusedError: nobody there"
        why = f"no task is served: Door: {refused}; Window: {refused}"
        assert outages.why_idle == why
    assert caplog.text.count(f"this worker has nothing to do: {why}") == 1
    assert outages.why_idle is None


async def test_a_worker_that_can_do_nothing_says_so_once_however_much_is_down(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    doors = [door, Door("Gate"), Door("Window")]
    outages.add(Needs, "test:Needs", doors)
    outages.add(NeedsNothing, "test:NeedsNothing", doors)
    for each in doors:
        each.error = ConnectionRefusedError("nobody there")
    async with KeptOpen.on_this_loop(doors, outages) as here:
        await here.tried()
        assert outages.why_idle is not None
    assert caplog.text.count("not served: test:Needs, test:NeedsNothing: ") == len(doors)
    assert caplog.text.count("this worker has nothing to do: no task is served: ") == 1


async def test_each_loop_has_its_own_and_one_that_opens_wakes_the_others(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 600.0)
    opened = AsyncExitStack()
    with loop_on_a_thread("one") as one:
        here = await run_on(one, opened.enter_async_context(KeptOpen.on_this_loop([door], outages)))
        await here.tried(Needs)
        door.error = ConnectionRefusedError("one connection only")
        async with KeptOpen.on_this_loop([door], outages) as other:
            await other.tried(Needs)
            assert outages.refusal(Needs) is None
            assert here.refusal(Needs) is None
            assert str(other.refusal(Needs)) == "Door: ConnectionRefusedError: one connection only"
            assert "not served on one of the threads: test:Needs: Door: " in caplog.text
            door.error = None
            async with loop_with(door, outages):
                await wait_until(lambda: not outages.any, description="it was tried again at once")
        assert "served again: test:Needs: Door is open" in caplog.text
        await run_on(one, opened.aclose())
    here.forget()


async def test_a_loop_that_a_task_blocks_keeps_no_other_thread_from_trying(
    outages: Outages, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.5)
    door.error = ConnectionRefusedError("nobody there")
    opened, released = AsyncExitStack(), threading.Event()

    async def block() -> bool:
        return released.wait(20)

    with loop_on_a_thread("one") as one:
        here = await run_on(one, opened.enter_async_context(KeptOpen.on_this_loop([door], outages)))
        await here.tried()
        assert outages.refusal(Needs) is not None
        blocked = asyncio.create_task(run_on(one, block()))
        await wait_until(lambda: outages.refusal(Needs) is None, description="the loop is late with its next try")
        assert here.refusal(Needs) is not None
        released.set()
        assert await blocked
        await run_on(one, opened.aclose())


@asynccontextmanager
async def loop_with(door: Door, outages: Outages) -> AsyncIterator[None]:
    """A further event loop on which the door is open."""
    opened = AsyncExitStack()
    with loop_on_a_thread("two") as two:
        await run_on(two, opened.enter_async_context(KeptOpen.on_this_loop([door], outages)))
        yield
        await run_on(two, opened.aclose())


async def test_what_does_not_close_in_order_is_logged_or_broken_off(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    window = Door("Window")
    door.closing_error, window.never_closes = OSError("it jams"), True

    async def breaks_down() -> None:
        async with KeptOpen.on_this_loop([door, window], outages) as here:
            await here.tried()
            raise LookupError("the block")

    with pytest.raises(LookupError, match="the block"):
        await breaks_down()
    assert "Door did not close in order: OSError: it jams" in caplog.text
    assert not outages.any


async def test_a_service_whose_error_cannot_be_printed_is_down_and_is_tried_again(
    outages: Outages, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.error = NoTextError()
    async with KeptOpen.on_this_loop([door], outages) as here:
        await here.tried()
        assert str(outages.refusal(Needs)) == "Door: NoTextError: <str() of it raised ZeroDivisionError>"
    assert "it is tried again" in caplog.text
