"""The watchdog renews held locks, and reports each loss once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import BackgroundEndedError, LockLostError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    SAFETY_MARGIN,
    BaseLock,
    MutexLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.lock_store import RecordingStore, mutexes, not_lost
from support.locking import new_owner

# The shortest TTL: the lock is renewed after 0.67 s, not trusted after 1.001 s.
SHORT_MS = 2001


@pytest.fixture
def memory() -> RecordingStore:
    return RecordingStore()


async def test_the_watchdog_keeps_locks_of_a_real_bucket_far_past_their_ttl(bucket: Bucket) -> None:
    locks = [MutexLock(JOB, number, ttl_ms=SHORT_MS) for number in range(3)]
    async with LockKeeper(bucket) as keeper, keeper.hold(locks, new_owner(), not_lost) as held:
        first = [acquired.deadline for acquired in held.acquired]
        await wait_until(
            lambda: all(each.deadline - before > 3.5 for each, before in zip(held.acquired, first, strict=True)),
            description="the deadlines moved beyond the first TTL",
        )
        for lock, acquired in zip(locks, held.acquired, strict=True):
            entry = await bucket.read(lock.key)
            assert entry is not None
            assert entry.revision > acquired.token
        assert held.check() is None
    assert await bucket.keys() == []


async def test_a_lock_is_not_renewed_before_a_third_of_its_life(memory: RecordingStore) -> None:
    async with LockKeeper(memory) as keeper:
        long, short = MutexLock(JOB, "long"), MutexLock(JOB, "short", ttl_ms=SHORT_MS)
        async with keeper.hold([long, short], new_owner(), not_lost):
            await wait_until(lambda: memory.requested("replace"), description="the short lock was renewed")
        assert set(memory.requested("replace")) == {"mutex.job.short"}


async def test_a_renewal_that_fails_is_tried_again_before_the_deadline(
    memory: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with LockKeeper(memory) as keeper:
        async with keeper.hold([MutexLock(JOB, 1, ttl_ms=3000)], new_owner(), not_lost) as held:
            before = held.acquired[0].deadline
            memory.failing.add("replace")
            await wait_until(lambda: memory.requested("replace"), description="a renewal was tried")
            memory.failing.clear()
            await wait_until(lambda: held.acquired[0].deadline > before, description="the lock was renewed")
        assert "renewing mutex.job.1: no answer" in caplog.text
    assert sorted(memory.entries) == []


async def test_a_renewal_that_keeps_failing_is_one_warning(
    memory: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="diracx.tasks.locks")
    lock = MutexLock(JOB, 1, ttl_ms=4000)

    def warnings() -> int:
        return sum(record.levelno == logging.WARNING for record in caplog.records)

    async with LockKeeper(memory) as keeper, keeper.hold([lock], new_owner(), not_lost) as held:
        before = held.acquired[0].deadline
        memory.failing.add("replace")
        await wait_until(lambda: len(memory.requested("replace")) >= 3, description="a renewal was tried three times")
        memory.failing.clear()
        await wait_until(lambda: held.acquired[0].deadline > before, description="the lock was renewed")
        assert warnings() == 1
        memory.failing.add("replace")
        await wait_until(lambda: warnings() == 2, description="the next outage is a warning again")
        memory.failing.clear()


async def lost(keeper: LockKeeper, lock: BaseLock, spoil: Callable[[], None]) -> LockLostError:
    """Hold a lock, spoil it, and return the loss that the watchdog reports. It must be reported once."""
    calls = 0

    async def execute() -> LockLostError | None:
        this = asyncio.current_task()
        assert this is not None

        def cancel() -> None:
            nonlocal calls
            calls += 1
            this.cancel()

        async with keeper.hold([lock], new_owner(), cancel) as held:
            spoil()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                this.uncancel()
        return held.lost

    async with asyncio.timeout(10):
        error = await asyncio.create_task(execute())
    assert error is not None
    assert calls == 1
    return error


async def test_a_lock_that_cannot_be_renewed_in_time_is_lost_and_cancels_its_task(memory: RecordingStore) -> None:
    async with LockKeeper(memory) as keeper:
        error = await lost(keeper, MutexLock(JOB, 1, ttl_ms=SHORT_MS), lambda: memory.failing.add("replace"))
    assert str(error) == "mutex.job.1 was lost: its deadline passed"
    # The key may have another owner by now, and expires by itself.
    assert memory.requested("delete") == []


async def test_a_lock_whose_renewal_is_not_answered_in_time_is_lost_in_one_line(
    memory: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with LockKeeper(memory) as keeper:
        memory.stalled["replace"] = asyncio.Event()
        error = await lost(keeper, MutexLock(JOB, 1, ttl_ms=SHORT_MS), lambda: None)
        memory.failing.add("replace")
        memory.stalled["replace"].set()
        await wait_until(
            lambda: all(task.get_name() != "renew mutex.job.1" for task in asyncio.all_tasks()),
            description="the renewal has failed",
        )
    assert "deadline" in str(error)
    assert [record.getMessage() for record in caplog.records] == [f"{error}; its task is cancelled"]
    assert memory.requested("replace") == ["mutex.job.1"]
    assert memory.requested("delete") == []


async def test_a_lock_with_another_owner_is_lost_at_its_renewal(memory: RecordingStore) -> None:
    async with LockKeeper(memory) as keeper:
        lock = MutexLock(JOB, 1, ttl_ms=SHORT_MS)
        error = await lost(keeper, lock, lambda: memory.steal(lock.key))
    assert str(error) == "mutex.job.1 was lost: a thief"
    assert memory.entries[lock.key].value == b"a thief"


async def test_a_passed_deadline_is_noticed_at_the_end_though_no_watchdog_ran(memory: RecordingStore) -> None:
    ahead = 0.0
    keeper = LockKeeper(memory, lambda: boottime() + ahead)
    lock = MutexLock(JOB, 1)
    async with keeper.hold([lock], new_owner(), not_lost) as held:
        ahead = lock.ttl.total_seconds() - SAFETY_MARGIN.total_seconds() - 1
        assert held.check() is None
        ahead += 1
    assert held.lost is not None
    assert held.lost.key == lock.key
    assert memory.requested("delete") == []


async def test_a_lock_before_its_deadline_is_not_lost(memory: RecordingStore) -> None:
    async with LockKeeper(memory).hold(mutexes(1), new_owner(), not_lost) as held:
        pass
    assert held.lost is None


async def test_if_the_renewal_ends_every_lock_is_lost_at_once_and_released_in_order(
    memory: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def break_down() -> None:
        raise RuntimeError("boom")

    async def work() -> None:
        async with LockKeeper(memory, on_end=lambda error: told.append(str(error))) as keeper:
            lost = asyncio.Event()
            stolen = keeper.hold([MutexLock(JOB, "stolen", ttl_ms=SHORT_MS)], new_owner(), break_down)
            async with keeper.hold([MutexLock(JOB, "other")], new_owner(), lost.set) as held, stolen:
                memory.steal("mutex.job.stolen")
                async with asyncio.timeout(10):
                    await lost.wait()
                assert str(held.lost) == "mutex.job.other was lost: lock renewal ended: RuntimeError: boom"
            assert told == ["lock renewal ended: RuntimeError: boom"]
            with pytest.raises(UnableToAcquireLockError, match=r"mutex\.job\.late was lost: lock renewal ended"):
                async with keeper.hold([MutexLock(JOB, "late")], new_owner(), lost.set):
                    pytest.fail("a lock that nobody renews was held")

    with pytest.raises(BackgroundEndedError, match="lock renewal ended: RuntimeError: boom"):
        await work()
    assert sorted(memory.entries) == ["mutex.job.stolen"]
    assert sum("the process ends" in record.getMessage() for record in caplog.records) == 1


async def test_the_end_of_the_renewal_is_raised_though_nobody_asked_to_be_told(memory: RecordingStore) -> None:
    broken = RuntimeError("boom")

    def break_down() -> None:
        raise broken

    async def work() -> None:
        async with LockKeeper(memory) as keeper, asyncio.timeout(10):
            lost = asyncio.Event()
            stolen = keeper.hold([MutexLock(JOB, "stolen", ttl_ms=SHORT_MS)], new_owner(), break_down)
            async with keeper.hold(mutexes(1), new_owner(), lost.set), stolen:
                memory.steal("mutex.job.stolen")
                await lost.wait()

    with pytest.raises(BackgroundEndedError) as raised:
        await work()
    assert raised.value.__cause__ is broken


async def test_a_lock_whose_renewal_fails_in_an_unexpected_way_is_logged_with_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FaultyStore(RecordingStore):
        async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
            await super().replace(key, value, ttl, revision)
            raise RuntimeError("a bug")

    async with LockKeeper(FaultyStore()) as keeper:
        await lost(keeper, MutexLock(JOB, 1, ttl_ms=SHORT_MS), lambda: None)
    warning = caplog.records[0]
    assert warning.getMessage() == "renewing mutex.job.1: a bug"
    assert warning.exc_info is not None
