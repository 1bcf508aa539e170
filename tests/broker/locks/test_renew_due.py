"""A keeper whose locks another thread renews, while the loop that holds them is held up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import LockLostError
from diracx.tasks.plumbing.execution.loops import run_on
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredKey,
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from support.clock import ManualClock
from support.elsewhere import Elsewhere, HeldBack, stored
from support.locking import new_owner

# The shortest TTL: due after 0.67 s, not trusted after 1.001 s, kept by the server for 3 s.
SHORT_MS = 2001
PATIENCE = 10.0


async def test_locks_outlive_a_loop_that_is_held_up_for_longer_than_their_life(
    bucket: Bucket, elsewhere: Elsewhere
) -> None:
    lost: list[bool] = []
    locks = [
        MutexLock(JOB, 7, ttl_ms=SHORT_MS),
        ExclusiveRWLock(JOB, 7, ttl_ms=SHORT_MS),
        SharedRWLock(JOB, 8, ttl_ms=SHORT_MS),
        ConcurrencyLimiter(JOB, 7, limit=3, ttl_ms=SHORT_MS),
    ]
    rate = RateLimiter(JOB, 7, limit=1, window_seconds=60)
    async with LockKeeper(bucket) as keeper:
        watching = asyncio.run_coroutine_threadsafe(_watch(keeper, elsewhere.bucket), elsewhere.loop)
        async with keeper.hold([*locks, rate], new_owner(), lambda: lost.append(True)) as held:
            token = held.token
            renewed = [acquired for acquired in held.acquired if acquired.deadline < float("inf")]
            assert len(renewed) == len(locks)
            first = [acquired.deadline for acquired in renewed]
            _block_until(
                lambda: all(each.deadline - before > 3.5 for each, before in zip(renewed, first, strict=True)),
                "the deadlines moved beyond the first life of the keys",
            )
            for acquired in renewed:
                assert await stored(bucket, acquired.key) is not None
            assert held.check() is None
            assert held.token == token
        watching.cancel()
    assert lost == []
    assert [key for key in await bucket.keys() if not key.startswith("rate.")] == []


async def _watch(keeper: LockKeeper, store: Bucket) -> None:
    while True:
        await keeper.renew_due(store)
        await asyncio.sleep(0.1)


def _block_until(fact: Callable[[], bool], description: str) -> None:
    """Hold up the event loop of this thread until something is true."""
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, description
        time.sleep(0.05)


async def test_a_lock_is_released_only_after_its_renewal_elsewhere_has_ended(
    bucket: Bucket, elsewhere: Elsewhere, clock: ManualClock
) -> None:
    here = HeldBack(bucket, "delete", request=True)
    there = HeldBack(elsewhere.bucket, "replace", request=True)
    keeper = LockKeeper(here, clock)  # without a watchdog
    leave = asyncio.Event()

    async def execute() -> None:
        async with keeper.hold([MutexLock(JOB, 7, clock=clock)], new_owner(), lambda: None):
            clock.now += 15
            holding.set()
            await leave.wait()

    holding = asyncio.Event()
    executing = asyncio.create_task(execute())
    await holding.wait()
    renewing = asyncio.run_coroutine_threadsafe(keeper.renew_due(there), elsewhere.loop)
    await run_on(elsewhere.loop, there.reached.wait())
    leave.set()
    # A release that did not wait would be held back at its deletion now, and delete a revision that is replaced first.
    deleting = asyncio.create_task(here.reached.wait())
    await asyncio.wait([deleting], timeout=0.3)
    elsewhere.loop.call_soon_threadsafe(there.go.set)
    await asyncio.wrap_future(renewing)
    here.go.set()
    await executing
    assert await bucket.keys() == []


class TestRenewDue:
    """`renew_due` of a keeper without a watchdog, on a clock of the test."""

    @pytest.fixture
    def keeper(self, bucket: Bucket, clock: ManualClock) -> LockKeeper:
        return LockKeeper(bucket, clock)

    @pytest.fixture
    def warnings(self, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
        """The warnings about renewals."""
        caplog.set_level(logging.WARNING, logger="diracx.tasks.locks")
        return lambda: [record.getMessage() for record in caplog.records]

    async def test_only_a_lock_that_is_due_and_not_lapsed_is_renewed(
        self, bucket: Bucket, clock: ManualClock, keeper: LockKeeper, warnings: Callable[[], list[str]]
    ) -> None:
        async with keeper.hold([MutexLock(JOB, 7, clock=clock)], new_owner(), lambda: None) as held:
            (acquired,) = held.acquired
            for seconds, renewed in ((9.9, False), (0.1, True), (9.9, False), (19.1, False)):
                clock.now += seconds
                before = await stored(bucket, acquired.key)
                await keeper.renew_due(bucket)
                assert (await stored(bucket, acquired.key) != before) is renewed
        assert held.lost is not None, "its deadline passed"
        assert warnings() == []

    async def test_a_lock_is_renewed_once_at_a_time(
        self, bucket: Bucket, clock: ManualClock, keeper: LockKeeper
    ) -> None:
        slow: Any = HeldBack(bucket, "replace")
        async with keeper.hold([MutexLock(JOB, 7, clock=clock)], new_owner(), lambda: None):
            clock.now += 15
            renewing = asyncio.create_task(keeper.renew_due(slow))
            await slow.reached.wait()
            async with asyncio.timeout(PATIENCE):
                await keeper.renew_due(slow)
            assert slow.requests == ["replace"]
            slow.go.set()
            await renewing

    async def test_a_loss_is_left_to_the_loop_that_holds_the_lock(
        self, bucket: Bucket, clock: ManualClock, keeper: LockKeeper, warnings: Callable[[], list[str]]
    ) -> None:
        lost: list[bool] = []
        lock = MutexLock(JOB, 7, clock=clock)
        async with keeper.hold([lock], new_owner(), lambda: lost.append(True)) as held:
            await bucket.replace(lock.key, b"a thief", timedelta(seconds=30), held.acquired[0].token)
            clock.now += 15
            for _ in range(2):
                await keeper.renew_due(bucket)
            assert lost == []
            with pytest.raises(LockLostError, match="a thief"):
                await held.acquired[0].renew()
        assert warnings() == ["renewing mutex.job.7: mutex.job.7 was lost: a thief"]
        assert await stored(bucket, lock.key) is not None

    async def test_a_lock_of_an_author_that_takes_no_store_is_left_to_the_loop(
        self, bucket: Bucket, clock: ManualClock, keeper: LockKeeper, warnings: Callable[[], list[str]]
    ) -> None:
        class Earlier(AcquiredKey):
            __slots__ = ()

            async def renew(self) -> None:  # type: ignore[override]
                await super().renew()

        class Licence(BaseLock):
            kind = "licence"

            async def acquire(self, store: Any, owner: Any) -> AcquiredKey:
                return await Earlier.create(store, self.key, owner, self.ttl, self.clock)

        async with keeper.hold(
            [Licence(JOB, 7, clock=clock), MutexLock(JOB, 7, clock=clock)], new_owner(), lambda: None
        ) as held:
            clock.now += 15
            before = {acquired.key: acquired.deadline for acquired in held.acquired}
            await keeper.renew_due(bucket)
            moved = {acquired.key for acquired in held.acquired if acquired.deadline > before[acquired.key]}
            assert moved == {"mutex.job.7"}
            assert len(warnings()) == 1
            assert "licence.job.7" in warnings()[0]
        assert await bucket.keys() == []
