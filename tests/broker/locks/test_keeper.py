"""The locks of one execution in a real bucket."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from support.lock_store import mutexes, not_lost
from support.locking import new_owner


async def test_all_locks_or_none_on_a_real_bucket(bucket: Bucket) -> None:
    keeper = LockKeeper(bucket)
    async with keeper.hold(mutexes(3)[2:], new_owner(), not_lost):
        with pytest.raises(UnableToAcquireLockError, match=r"mutex\.job\.2 is held by lollygag:SyncOwnersTask 0192"):
            async with keeper.hold(mutexes(3), new_owner(), not_lost):
                pytest.fail("the third lock is held")
        assert await bucket.keys() == ["mutex.job.2"]
    async with keeper.hold(mutexes(3), new_owner(), not_lost):
        assert sorted(await bucket.keys()) == ["mutex.job.0", "mutex.job.1", "mutex.job.2"]
    assert await bucket.keys() == []


async def test_cancelled_under_locks_on_a_real_bucket_releases_them(bucket: Bucket) -> None:
    held = asyncio.Event()

    async def hold() -> None:
        async with LockKeeper(bucket).hold(mutexes(3), new_owner(), not_lost):
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
                async with keeper.hold(locks, new_owner(), not_lost):
                    running += 1
                    most = max(most, running)
                    await asyncio.sleep(0)
                    running -= 1
                return
            except UnableToAcquireLockError:
                continue

    async with LockKeeper(bucket) as keeper, asyncio.timeout(20):
        await asyncio.gather(*(work(number) for number in range(8)))
    assert most == 1
    assert await bucket.keys() == []
