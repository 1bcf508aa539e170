"""Tasks of one process that want the same lock: one asks at a time, and refusals are remembered."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    MutexLock,
    RateLimiter,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from support.lock_store import RecordingStore
from support.locking import new_owner


async def hold(keeper: LockKeeper, *locks: BaseLock) -> None:
    async with keeper.hold(locks, new_owner(), lambda: None):
        pass


async def test_of_a_crowd_in_one_process_one_asks_and_the_others_learn_the_owner(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        mine = new_owner("this-process")
        async with keeper.hold([MutexLock(JOB, 1)], mine, lambda: None):
            crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
        assert all("on this-process" in str(error) for error in crowd)
    assert store.requests == ["create mutex.job.1", "delete mutex.job.1"]


async def test_a_lock_of_another_process_is_asked_for_once_a_second(store: RecordingStore) -> None:
    theirs = await MutexLock(JOB, 1).acquire(store, new_owner("another"))
    store.requests.clear()
    async with LockKeeper(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
        assert all("on another" in str(error) for error in crowd)
        assert store.requests == ["create mutex.job.1"]
        await theirs.release()


async def test_a_limiter_that_refused_is_not_asked_again_before_its_time(store: RecordingStore) -> None:
    limiter = RateLimiter(JOB, 1, limit=1, window_seconds=30)
    await limiter.acquire(store, new_owner())
    async with LockKeeper(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, limiter) for _ in range(100)), return_exceptions=True)
    assert len(store.requests) < 5
    for error in crowd:
        assert isinstance(error, UnableToAcquireLockError)
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == pytest.approx(30, abs=5)


async def test_a_server_that_does_not_answer_one_task_is_not_asked_by_all(store: RecordingStore) -> None:
    store.failing.add("create")
    async with LockKeeper(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
    assert all(isinstance(error, ServerUnavailableError) for error in crowd)
    assert len(store.requests) == 1


async def test_a_task_that_wants_a_lock_under_release_waits_for_it(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        for _ in range(3):
            await hold(keeper, MutexLock(JOB, 1))
    assert await store.keys() == []
