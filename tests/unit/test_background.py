"""Coroutines beside a block, those that no cancellation interrupts, and the sleep that an event ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from diracx.tasks.plumbing.background import (
    ChildTasks,
    in_background,
    wait_for_event,
)
from diracx.tasks.plumbing.exceptions import BackgroundEndedError


class BlockError(Exception):
    """Raised by the block."""


class BackgroundError(Exception):
    """Raised by a coroutine in the background."""


async def fails() -> None:
    raise BackgroundError("broken")


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
        await asyncio.Event().wait()

    async with in_background(leases=named(), lock_renewal=named()):
        await asyncio.sleep(0)
        assert names == ["leases", "lock renewal"]


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


async def returns() -> None:
    """End at once, without an error."""


async def is_cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("coroutine", "why"),
    [(fails, "BackgroundError: broken"), (returns, "it returned"), (is_cancelled, "CancelledError")],
)
async def test_an_early_end_is_told_at_once_and_raised_at_the_end_of_the_block(
    coroutine: Callable[[], Coroutine[Any, Any, None]], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: asyncio.Future[BackgroundEndedError] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()

    async def block() -> None:
        async with in_background(told.set_result, others=ends_late(ended), lock_renewal=coroutine()):
            error = await asyncio.wait_for(asyncio.shield(told), 10)
            assert str(error) == f"lock renewal ended: {why}"
            assert [record.getMessage() for record in caplog.records] == [
                f"lock renewal ended: {why}; the process ends, so that it does not run on without it"
            ]
            assert not ended.is_set()

    with pytest.raises(BackgroundEndedError) as raised:
        await block()
    assert raised.value is told.result()
    assert ended.is_set()
    assert len(caplog.records) == 1


async def test_the_error_is_the_cause_and_its_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BackgroundEndedError) as raised:
        async with in_background(leases=fails()):
            await asyncio.sleep(0)
    assert isinstance(raised.value.__cause__, BackgroundError)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "leases ended: BackgroundError: broken")
    assert record.exc_info is not None
    assert record.exc_info[1] is raised.value.__cause__


async def test_of_several_early_ends_the_first_is_told_and_raised_and_all_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    with pytest.raises(BackgroundEndedError, match="one ended"):
        async with in_background(lambda error: told.append(error.name), one=fails(), other=fails(), third=returns()):
            await asyncio.sleep(0)
    assert told == ["one"]
    logged = [record.getMessage().split(":")[0] for record in caplog.records]
    assert logged == ["one ended", "other ended", "third ended"]


async def test_an_early_end_comes_before_an_error_while_the_others_end(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BackgroundEndedError, match="leases ended"):
        async with in_background(locks=fails_when_cancelled(), leases=fails()):
            await asyncio.sleep(0)
    assert caplog.records[-1].getMessage() == "locks failed while it ended: while ending"


async def test_an_error_after_the_cancellation_is_raised() -> None:
    with pytest.raises(BackgroundError, match="while ending"):
        async with in_background(leases=fails_when_cancelled()):
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [BlockError, asyncio.CancelledError])
async def test_the_exception_of_the_block_is_raised_and_the_others_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def block() -> None:
        async with in_background(leases=fails(), locks=fails_when_cancelled()):
            await asyncio.sleep(0)
            raise error

    with pytest.raises(error):
        await block()
    early, late = caplog.records
    assert (early.levelno, early.getMessage()) == (logging.ERROR, "leases ended: BackgroundError: broken")
    assert (late.levelno, late.getMessage()) == (logging.ERROR, "locks failed while it ended: while ending")
    assert late.exc_info is not None
    assert late.exc_info[0] is BackgroundError


async def test_of_several_errors_while_they_end_the_first_is_raised_and_the_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(BackgroundError):
        async with in_background(one=fails_when_cancelled(), other=fails_when_cancelled()):
            await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == ["other failed while it ended: while ending"]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_cancellation_while_they_end_waits_for_them_and_is_raised(cancels: int) -> None:
    ended, leaving = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        async with in_background(late=ends_late(ended), failing=fails(), failing_late=fails_when_cancelled()):
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


async def test_the_first_error_of_a_child_is_raised_by_the_check_and_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    children = ChildTasks()
    children.check()
    child = children.start(fails(), "a child")
    assert child.get_name() == "a child"
    other = children.start(fails_when_cancelled(), "another")
    await asyncio.sleep(0)
    children.cancel()
    await asyncio.wait([child, other])
    with pytest.raises(BackgroundError, match="broken"):
        children.check()
    assert [record.getMessage() for record in caplog.records] == ["another failed: while ending"]


async def test_a_child_that_is_cancelled_or_ends_is_no_error() -> None:
    children = ChildTasks()
    ended = [children.start(returns(), "returns"), children.start(asyncio.sleep(3600), "waits")]
    await asyncio.sleep(0)
    children.cancel()
    await asyncio.wait(ended)
    children.check()


async def test_a_cancellation_that_comes_right_before_a_brief_wait_is_not_taken_for_the_end_of_the_time() -> None:
    """As Ctrl-C does, which cancels the task that runs; it is told at its next `await`."""

    async def waits() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await wait_for_event(asyncio.Event(), 0)

    waiting = asyncio.create_task(waits())
    await asyncio.wait([waiting])
    assert waiting.cancelled()
