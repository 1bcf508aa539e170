"""Locks with the longest key, and owners with the longest id: taken like any other, and cut where they are shown."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import LockLostError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    LockOwner,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)

PARTS = [*(["x" * 200] * 14), "y" * 170]


def owner(name: str) -> LockOwner:
    return LockOwner.new(task="test:Sync", id=name, worker="node1-1-small")


@pytest.mark.parametrize(
    ("lock", "other"),
    [
        (MutexLock(JOB, *PARTS), MutexLock(JOB, *PARTS)),
        (ExclusiveRWLock(JOB, *PARTS), ExclusiveRWLock(JOB, *PARTS)),
        (SharedRWLock(JOB, *PARTS), ExclusiveRWLock(JOB, *PARTS)),
        (ConcurrencyLimiter(JOB, *PARTS, limit=1), ConcurrencyLimiter(JOB, *PARTS, limit=1)),
        (ConcurrencyLimiter(JOB, *PARTS, limit=1).of_vo("v" * 1_000),) * 2,
        (RateLimiter(JOB, *PARTS, limit=1, window_seconds=2).of_vo("v" * 1_000),) * 2,
    ],
)
async def test_the_longest_key_is_taken_refused_in_a_short_line_and_given_back(
    bucket: Bucket, lock: BaseLock, other: BaseLock
) -> None:
    taken = await lock.acquire(bucket, owner("i" * 60_000))
    with pytest.raises(UnableToAcquireLockError) as caught:
        await other.acquire(bucket, owner("another"))
    assert "xxx [cut]" in str(caught.value)
    assert len(str(caught.value)) < 600
    await taken.release()


async def test_a_loss_of_the_longest_key_is_a_short_line(bucket: Bucket) -> None:
    lock = MutexLock(JOB, *PARTS)
    taken = await lock.acquire(bucket, owner("a"))
    entry = await bucket.read(lock.key)
    assert entry is not None
    await bucket.replace(lock.key, b"stolen", timedelta(seconds=30), entry.revision)
    with pytest.raises(LockLostError, match=r"xxx \[cut\] was lost") as caught:
        await taken.renew()
    assert len(str(caught.value)) < 600
