"""Coroutines that no cancellation breaks off, and those that go on by themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from diracx.tasks.plumbing.background import (
    Continuations,
    KeptFuture,
    uncancelled,
    uncancelled_here,
)
from diracx.tasks.testing import wait_until


class BlockError(Exception):
    """What a coroutine raises."""


EVERYTHING = ["turn", "timer", "children", "reply"]


class Errand:
    """A coroutine that waits in every way, and how far it came."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.reply: KeptFuture[str] = KeptFuture()
        self.done: list[str] = []
        self.ran_in: set[asyncio.Task[Any] | None] = set()
        self._failure = failure

    async def run(self) -> str:
        for name in EVERYTHING:
            match name:
                case "turn":
                    await asyncio.sleep(0)
                case "timer":
                    await asyncio.sleep(0.001)
                case "children":
                    await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0))
                case _:
                    await self.reply
            self.done.append(name)
            self.ran_in.add(asyncio.current_task())
        if self._failure is not None:
            raise self._failure
        return await self.reply


async def test_an_uncancelled_coroutine_returns_its_value_within_the_task_that_runs_it() -> None:
    errand = Errand()
    asyncio.get_running_loop().call_later(0.005, errand.reply.set_result, "the value")
    assert await uncancelled_here(errand.run()) == "the value"
    assert (errand.done, errand.ran_in) == (EVERYTHING, {asyncio.current_task()})


async def test_an_uncancelled_coroutine_fails_with_its_own_error() -> None:
    errand = Errand(BlockError("its own"))
    errand.reply.set_result("")
    with pytest.raises(BlockError, match="its own"):
        await uncancelled_here(errand.run())


@pytest.mark.parametrize("of", [KeptFuture, asyncio.Future])
async def test_an_uncancelled_coroutine_cleans_up_after_a_failed_reply_before_anybody_else_runs(of: Any) -> None:
    reply, held = of(), asyncio.Lock()

    async def holds() -> None:
        async with held:
            await reply

    asyncio.get_running_loop().call_soon(reply.set_exception, BlockError("no reply"))
    with pytest.raises(BlockError, match="no reply") as raised:  # which keeps all frames alive
        await uncancelled_here(holds())
    assert not held.locked()
    assert "holds" in [entry.name for entry in raised.traceback]


async def test_an_uncancelled_coroutine_is_closed_with_the_one_that_awaits_it() -> None:
    held = asyncio.Lock()

    async def holds() -> None:
        async with held:
            await asyncio.Event().wait()

    async def awaits() -> None:
        await uncancelled_here(inner)

    inner, outer = holds(), awaits()
    outer.send(None)
    assert held.locked()
    outer.close()
    assert not held.locked()


@pytest.mark.parametrize("cancels", [1, 3])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("failure", [None, BlockError("its own")])
@pytest.mark.parametrize("uncancelled_way", [uncancelled, uncancelled_here])
async def test_no_cancellation_interrupts_an_uncancelled_coroutine(
    cancels: int, after: int, failure: Exception | None, uncancelled_way: Any
) -> None:
    errand, begun = Errand(failure), asyncio.Event()

    async def run() -> str:
        begun.set()
        return str(await uncancelled_way(errand.run()))

    work = asyncio.create_task(run())
    await begun.wait()
    await wait_until(lambda: len(errand.done) >= after, description="the errand came so far")
    for _ in range(cancels):
        work.cancel("a stop")
        await asyncio.sleep(0)
    await wait_until(lambda: len(errand.done) == 3, description="the errand waits for its reply")
    assert not work.done()
    errand.reply.set_result("the value")
    with pytest.raises(asyncio.CancelledError, match="a stop") as raised:
        await work
    assert errand.done == EVERYTHING
    assert raised.value.__cause__ is failure


async def test_a_future_is_kept_from_cancellations_only_where_an_uncancelled_coroutine_waits_for_it() -> None:
    future: KeptFuture[None] = KeptFuture()
    assert future.cancel()
    assert future.cancelled()


async def test_a_continuation_begins_at_once_and_goes_on_by_itself() -> None:
    continuations, errand = Continuations(), Errand()
    went_on = asyncio.get_running_loop().create_future()

    async def run() -> None:
        went_on.set_result("begun")
        assert await errand.run() == "the value"
        errand.done.append("the end")

    continuations.begin(run())
    assert went_on.done(), "within the call"
    await wait_until(lambda: len(errand.done) == len(EVERYTHING) - 1, description="it waits for the reply")
    ending = asyncio.create_task(continuations.end(60))
    await asyncio.sleep(0)
    assert not ending.done()
    errand.reply.set_result("the value")
    await ending
    assert errand.done == [*EVERYTHING, "the end"]
    await continuations.end(60)


async def test_the_end_waits_only_so_long_for_a_continuation_and_its_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    continuations, errand = Continuations(), Errand(BlockError("its own"))

    async def run() -> None:
        await errand.run()

    continuations.begin(run())
    await continuations.end(0.001)
    assert not caplog.text
    errand.reply.set_result("")
    await continuations.end(60)
    assert ".run at " in caplog.text
    assert "its own" in caplog.text
