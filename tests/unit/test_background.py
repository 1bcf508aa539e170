"""Coroutines beside a block, and the sleep that an event ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from diracx.tasks.plumbing.background import in_background, wait_for_event


class BlockError(Exception):
    """Raised by the block."""


class BackgroundError(Exception):
    """Raised by a coroutine in the background."""


async def fails(text: str = "broken") -> None:
    raise BackgroundError(text)


async def fails_when_cancelled() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise BackgroundError("while ending")


async def ends_late(ended: asyncio.Event) -> None:
    """End a few turns of the loop after the cancellation."""
    try:
        await asyncio.Event().wait()
    finally:
        for _ in range(3):
            await asyncio.sleep(0)
        ended.set()


async def test_each_coroutine_runs_beside_the_block_under_its_name() -> None:
    names = []

    async def named() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    async with in_background(leases=named(), locks=named()):
        await asyncio.sleep(0)
        assert names == ["leases", "locks"]


async def test_nothing_to_run_is_no_error() -> None:
    async with in_background():
        pass


@pytest.mark.parametrize("raises", [False, True])
async def test_the_coroutines_have_ended_when_the_block_is_left(raises: bool) -> None:
    ended = asyncio.Event()
    try:
        async with in_background(late=ends_late(ended)):
            await asyncio.sleep(0)
            if raises:
                raise BlockError
    except BlockError:
        assert raises
    assert ended.is_set()


async def test_one_that_ends_early_leaves_the_block_alone() -> None:
    async with in_background(early=asyncio.sleep(0)):
        for _ in range(3):
            await asyncio.sleep(0)


async def test_an_early_error_is_raised_at_the_end_of_the_block() -> None:
    ended = asyncio.Event()

    async def block() -> None:
        async with in_background(leases=fails()):
            for _ in range(3):
                await asyncio.sleep(0)
            ended.set()

    with pytest.raises(BackgroundError):
        await block()
    assert ended.is_set()


async def test_an_error_after_the_cancellation_is_raised() -> None:
    with pytest.raises(BackgroundError, match="while ending"):
        async with in_background(leases=fails_when_cancelled()):
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [BlockError, asyncio.CancelledError])
async def test_the_exception_of_the_block_is_raised_and_the_other_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def block() -> None:
        async with in_background(leases=fails()):
            await asyncio.sleep(0)
            raise error

    with pytest.raises(error):
        await block()
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "leases failed in the background: broken")
    assert record.exc_info is not None
    assert record.exc_info[0] is BackgroundError


async def test_of_several_errors_the_first_is_raised_and_the_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(BackgroundError, match="one"):
        async with in_background(one=fails("one"), other=fails("other"), third=fails("third")):
            await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == [
        "other failed in the background: other",
        "third failed in the background: third",
    ]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_cancellation_while_they_end_waits_for_them_and_is_raised(cancels: int) -> None:
    ended, leaving = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        async with in_background(late=ends_late(ended), failing=fails()):
            await asyncio.sleep(0)
            leaving.set()

    task = asyncio.create_task(block())
    await leaving.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_cancellation_while_they_end_does_not_hide_the_exception_of_the_block() -> None:
    ended, leaving = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        async with in_background(late=ends_late(ended)):
            await asyncio.sleep(0)
            leaving.set()
            raise BlockError

    task = asyncio.create_task(block())
    await leaving.wait()
    task.cancel()
    with pytest.raises(BlockError):
        await task
    assert ended.is_set()


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
