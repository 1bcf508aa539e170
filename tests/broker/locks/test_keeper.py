"""Holding the locks of an execution: on a real bucket, and on a store in memory that stalls and fails on demand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB, TASK, TRANSFORMATION
from diracx.tasks.plumbing.locks import (
    BaseLock,
    Hold,
    Holder,
    LockStore,
    MutexLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.lock_store import Limiter, MemoryStore, Rate, holder, mutexes, nobody, watched


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


async def test_locks_are_taken_in_one_order_whatever_the_task_says_and_released_in_reverse(memory: MemoryStore) -> None:
    locks: list[BaseLock] = [
        Rate(JOB, 1),
        MutexLock(TRANSFORMATION, 1),
        Limiter(JOB, 1),
        MutexLock(JOB, 2),
        MutexLock(TASK, 0),
        MutexLock(JOB, 1),
    ]
    order = ["mutex.job.1", "mutex.job.2", "mutex.task.0", "mutex.transformation.1", "conc.job.1", "rate.job.1"]
    for given in (locks, locks[::-1]):
        memory.log.clear()
        async with LockKeeper(memory).holding(given, holder(), nobody) as holding:
            assert memory.did("create") == order
            assert sorted(order) == memory.keys_held()
            # The highest: who holds any of the keys later has a higher one.
            assert holding.token == max(entry.revision for entry in memory.entries.values())
        assert memory.did("delete") == order[::-1]


async def test_no_locks_are_no_trouble(memory: MemoryStore) -> None:
    async with LockKeeper(memory).holding([], holder(), nobody) as holding:
        assert holding.token is None
        assert holding.check() is None
    assert memory.log == []


async def test_a_lock_that_is_asked_for_twice_is_held_and_released_once(memory: MemoryStore) -> None:
    async with LockKeeper(memory).holding([MutexLock(JOB, 1), MutexLock(JOB, 1)], holder(), nobody):
        assert memory.keys_held() == ["mutex.job.1"]
    assert memory.keys_held() == []


async def test_all_locks_or_none_on_a_real_bucket(bucket: Bucket) -> None:
    keeper = LockKeeper(bucket)
    async with keeper.holding(mutexes(3)[2:], holder(), nobody):
        with pytest.raises(UnableToAcquireLockError, match=r"mutex\.job\.2 is held by lollygag:SyncOwnersTask 0192"):
            async with keeper.holding(mutexes(3), holder(), nobody):
                pytest.fail("the third lock is held")
        assert await bucket.keys() == ["mutex.job.2"]
    async with keeper.holding(mutexes(3), holder(), nobody):
        assert sorted(await bucket.keys()) == ["mutex.job.0", "mutex.job.1", "mutex.job.2"]
    assert await bucket.keys() == []


async def test_a_failure_under_locks_releases_them_in_reverse_and_goes_on(memory: MemoryStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with LockKeeper(memory).holding(mutexes(3), holder(), nobody):
            raise ZeroDivisionError
    assert memory.did("delete") == ["mutex.job.2", "mutex.job.1", "mutex.job.0"]
    assert memory.keys_held() == []


async def test_a_store_that_fails_in_the_middle_leaves_no_lock_taken(memory: MemoryStore) -> None:
    async def fails(store: LockStore, holder: Holder) -> Hold:
        raise ServerUnavailableError("no answer")

    locks = mutexes(3)
    locks[2].acquire = fails  # type: ignore[method-assign]
    with pytest.raises(ServerUnavailableError):
        async with LockKeeper(memory).holding(locks, holder(), nobody):
            pytest.fail("the third lock fails")
    assert memory.keys_held() == []


async def test_a_release_that_fails_stops_neither_the_others_nor_the_task(
    memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with LockKeeper(memory).holding(mutexes(2), holder(), nobody):
        memory.failing.add("delete")
    assert memory.did("delete") == ["mutex.job.1", "mutex.job.0"]
    assert "releasing mutex.job.1: no answer" in caplog.text


async def stall_until_cancelled(memory: MemoryStore, verb: str, cancels: int, work: asyncio.Task[Any]) -> None:
    """Cancel `work` while an answer to `verb` is under way, then let it come."""
    await wait_until(lambda: memory.did(verb), description=f"{verb} is under way")
    for _ in range(cancels):
        work.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not work.done()
    memory.stalled[verb].set()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_cancelled_in_the_middle_of_acquiring_a_lock_is_taken_and_given_back(
    memory: MemoryStore, cancels: int
) -> None:
    memory.stalled["create"] = asyncio.Event()
    began = False

    async def hold() -> None:
        nonlocal began
        async with LockKeeper(memory).holding(mutexes(2), holder(), nobody):
            began = True

    await stall_until_cancelled(memory, "create", cancels, asyncio.create_task(hold()))
    assert not began
    assert memory.did("create") == ["mutex.job.0"]
    assert memory.did("delete") == ["mutex.job.0"]
    assert memory.keys_held() == []


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_cancelled_in_the_middle_of_releasing_all_are_released(memory: MemoryStore, cancels: int) -> None:
    memory.stalled["delete"] = asyncio.Event()

    async def hold() -> None:
        async with LockKeeper(memory).holding(mutexes(3), holder(), nobody):
            pass

    await stall_until_cancelled(memory, "delete", cancels, asyncio.create_task(hold()))
    assert memory.did("delete") == ["mutex.job.2", "mutex.job.1", "mutex.job.0"]
    assert memory.keys_held() == []


async def test_cancelled_while_a_busy_lock_is_asked_for_is_a_cancellation(memory: MemoryStore) -> None:
    memory.stalled["create"] = asyncio.Event()
    memory.steal("mutex.job.0")

    async def hold() -> None:
        async with LockKeeper(memory).holding(mutexes(1), holder(), nobody):
            pass

    await stall_until_cancelled(memory, "create", 1, asyncio.create_task(hold()))
    assert memory.keys_held() == ["mutex.job.0"]


async def test_cancelled_under_locks_on_a_real_bucket_releases_them(bucket: Bucket) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with LockKeeper(bucket).holding(mutexes(3), holder(), nobody):
            held.set()
            await asyncio.Event().wait()

    work = asyncio.create_task(hold())
    await held.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await bucket.keys() == []


async def test_tasks_that_want_the_same_locks_in_any_order_all_get_their_turn(bucket: Bucket) -> None:
    running = 0
    most = 0

    async def work(number: int) -> None:
        nonlocal running, most
        locks = mutexes(3) if number % 2 else mutexes(3)[::-1]
        while True:
            try:
                async with keeper.holding(locks, holder(), nobody):
                    running += 1
                    most = max(most, running)
                    await asyncio.sleep(0)
                    running -= 1
                return
            except UnableToAcquireLockError:
                continue

    async with watched(bucket) as keeper, asyncio.timeout(20):
        await asyncio.gather(*(work(number) for number in range(8)))
    assert most == 1
    assert await bucket.keys() == []
