"""The watchdog: renews what is held, and says once what was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import LockLostError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    MARGIN,
    BaseLock,
    MutexLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.lock_store import MemoryStore, holder, mutexes, nobody, watched

# The shortest that there is: renewed after 0.67 s, not trusted after 1.001 s.
# The shortest that there is: renewed after 0.67 s, not trusted after 1.001 s.
SHORT_MS = 2001


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


async def test_the_watchdog_keeps_locks_of_a_real_bucket_far_past_their_life(bucket: Bucket) -> None:
    locks = [MutexLock(JOB, number, ttl_ms=SHORT_MS) for number in range(3)]
    async with watched(bucket) as keeper, keeper.holding(locks, holder(), nobody) as holding:
        first = [hold.deadline for hold in holding.holds]
        await wait_until(
            lambda: all(hold.deadline - before > 3.5 for hold, before in zip(holding.holds, first, strict=True)),
            description="the deadlines moved beyond a life that was never renewed",
        )
        for lock, hold in zip(locks, holding.holds, strict=True):
            entry = await bucket.read(lock.key)
            assert entry is not None
            assert entry.revision > hold.token
        assert holding.check() is None
    assert await bucket.keys() == []


async def test_a_lock_is_not_renewed_before_a_third_of_its_life(memory: MemoryStore) -> None:
    async with watched(memory) as keeper:
        long, short = MutexLock(JOB, "long"), MutexLock(JOB, "short", ttl_ms=SHORT_MS)
        async with keeper.holding([long, short], holder(), nobody):
            await wait_until(lambda: memory.did("replace"), description="the short lock was renewed")
        assert set(memory.did("replace")) == {"mutex.job.short"}


async def test_a_renewal_that_fails_is_tried_again_before_the_deadline(
    memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(memory) as keeper:
        async with keeper.holding([MutexLock(JOB, 1, ttl_ms=3000)], holder(), nobody) as holding:
            before = holding.holds[0].deadline
            memory.failing.add("replace")
            await wait_until(lambda: memory.did("replace"), description="a renewal was tried")
            memory.failing.clear()
            await wait_until(lambda: holding.holds[0].deadline > before, description="the lock was renewed")
        assert "renewing mutex.job.1: no answer" in caplog.text
    assert memory.keys_held() == []


async def test_a_renewal_that_goes_on_failing_is_told_once(
    memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="diracx.tasks.locks")
    lock = MutexLock(JOB, 1, ttl_ms=4000)

    def warnings() -> int:
        return sum(record.levelno == logging.WARNING for record in caplog.records)

    async with watched(memory) as keeper, keeper.holding([lock], holder(), nobody) as holding:
        before = holding.holds[0].deadline
        memory.failing.add("replace")
        await wait_until(lambda: len(memory.did("replace")) >= 3, description="a renewal was tried three times")
        memory.failing.clear()
        await wait_until(lambda: holding.holds[0].deadline > before, description="the lock was renewed")
        assert warnings() == 1
        memory.failing.add("replace")
        await wait_until(lambda: warnings() == 2, description="the next outage is told again")
        memory.failing.clear()


async def lost(keeper: LockKeeper, lock: BaseLock, spoil: Callable[[], None]) -> LockLostError:
    """Execute under a lock that is spoilt, until the execution is cancelled for it; the loss as it was reported."""
    calls = 0

    async def execute() -> LockLostError | None:
        this = asyncio.current_task()
        assert this is not None

        def cancel() -> None:
            nonlocal calls
            calls += 1
            this.cancel()

        async with keeper.holding([lock], holder(), cancel) as holding:
            spoil()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                this.uncancel()
        return holding.lost

    async with asyncio.timeout(10):
        error = await asyncio.create_task(execute())
    assert error is not None
    assert calls == 1
    return error


async def test_a_lock_that_cannot_be_renewed_in_time_is_lost_and_cancels_its_task(memory: MemoryStore) -> None:
    async with watched(memory) as keeper:
        error = await lost(keeper, MutexLock(JOB, 1, ttl_ms=SHORT_MS), lambda: memory.failing.add("replace"))
    assert str(error) == "mutex.job.1 was lost: its deadline passed"
    # It may be somebody else's by now, and expires by itself.
    assert memory.did("delete") == []


async def test_a_lock_whose_renewal_is_never_answered_is_lost_all_the_same(memory: MemoryStore) -> None:
    async with watched(memory) as keeper:
        memory.stalled["replace"] = asyncio.Event()
        error = await lost(keeper, MutexLock(JOB, 1, ttl_ms=SHORT_MS), lambda: None)
    assert "deadline" in str(error)
    assert memory.did("replace") == ["mutex.job.1"]
    assert memory.did("delete") == []


async def test_a_lock_that_somebody_else_has_is_lost_at_its_renewal(memory: MemoryStore) -> None:
    async with watched(memory) as keeper:
        lock = MutexLock(JOB, 1, ttl_ms=SHORT_MS)
        error = await lost(keeper, lock, lambda: memory.steal(lock.key))
    assert str(error) == "mutex.job.1 was lost: a thief"
    assert memory.entries[lock.key].value == b"a thief"


async def test_a_deadline_that_passed_is_seen_at_the_end_though_no_watchdog_ran(memory: MemoryStore) -> None:
    ahead = 0.0
    keeper = LockKeeper(memory, lambda: boottime() + ahead)
    lock = MutexLock(JOB, 1)
    async with keeper.holding([lock], holder(), nobody) as holding:
        ahead = lock.ttl.total_seconds() - MARGIN.total_seconds() - 1
        assert holding.check() is None
        ahead += 1
    assert holding.lost is not None
    assert holding.lost.key == lock.key
    assert memory.did("delete") == []


async def test_a_hold_before_its_deadline_is_not_lost(memory: MemoryStore) -> None:
    async with LockKeeper(memory).holding(mutexes(1), holder(), nobody) as holding:
        pass
    assert holding.lost is None
