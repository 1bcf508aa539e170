"""All locks of one execution: in which order, what is remembered, what is given back, and when it does not count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB, TASK
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    Entry,
    ExclusiveRWLock,
    Hold,
    Holder,
    KeyHold,
    LockStore,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing.lock_store import InMemoryLockStore
from support.clock import ManualClock
from support.locking import holder


class Watched(InMemoryLockStore):
    """Writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.down = False

    def note(self, line: str) -> None:
        self.asked.append(line)
        if self.down:
            raise ServerUnavailableError("down")

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        self.note(f"create {key}")
        await asyncio.sleep(0)
        return await super().create(key, value, ttl)

    async def read(self, key: str) -> Entry | None:
        return await super().read(key)

    async def delete(self, key: str, revision: int) -> None:
        self.note(f"delete {key}")
        await asyncio.sleep(0)
        await super().delete(key, revision)

    async def keys(self, below: str | None = None) -> list[str]:
        if below is not None:
            self.note(f"keys {below}")
        return await super().keys(below)


@pytest.fixture
def store() -> Watched:
    return Watched()


@asynccontextmanager
async def keeping(store: LockStore) -> AsyncIterator[LockKeeper]:
    """A keeper that watches; at its end all is given back."""
    keeper = LockKeeper(store)
    watching = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching])


async def hold(keeper: LockKeeper, *locks: BaseLock) -> None:
    async with keeper.holding(locks, holder(), lambda: None):
        pass


async def test_locks_are_taken_in_one_order_and_given_back_in_reverse(store: Watched) -> None:
    locks = [
        RateLimiter(JOB, 1, limit=1),
        ConcurrencyLimiter(JOB, 1, limit=1),
        MutexLock(TASK, 2),
        MutexLock(JOB, 3),
    ]
    for order in (locks, locks[::-1]):
        other = Watched()
        async with keeping(other) as keeper:
            await hold(keeper, *order)
        assert other.asked == [
            "create mutex.job.3",
            "create mutex.task.2",
            "create conc.job.1./slots.0",
            "create rate.job.1./slots.0",
            "delete conc.job.1./slots.0",
            "delete mutex.task.2",
            "delete mutex.job.3",
        ]


async def test_a_busy_lock_spends_no_admission_and_gives_back_what_was_taken_before_it(store: Watched) -> None:
    await MutexLock(JOB, 3).acquire(store, holder("another"))
    async with keeping(store) as keeper:
        with pytest.raises(UnableToAcquireLockError, match="on another"):
            await hold(keeper, RateLimiter(JOB, 1, limit=1), MutexLock(JOB, 3), MutexLock(JOB, 2))
    assert await store.keys() == ["mutex.job.3"]


async def test_an_admission_is_undone_when_the_limiter_after_it_refuses(store: Watched) -> None:
    await RateLimiter(JOB, 2, limit=1, window_seconds=30).acquire(store, holder())
    async with keeping(store) as keeper:
        with pytest.raises(UnableToAcquireLockError):
            await hold(keeper, *(RateLimiter(JOB, n, limit=1, window_seconds=30) for n in (1, 2)))
    assert await store.keys() == ["rate.job.2./slots.0"]


async def test_a_limit_of_none_asks_nothing(store: Watched) -> None:
    async with keeping(store) as keeper:
        await hold(keeper, RateLimiter(JOB, 1), ConcurrencyLimiter(JOB, 1, limit=None))
    assert store.asked == []


async def test_a_lock_given_twice_and_a_reader_beside_its_own_writer_do_not_block_themselves(store: Watched) -> None:
    async with keeping(store) as keeper:
        await hold(keeper, MutexLock(JOB, 1), MutexLock(JOB, "1"), SharedRWLock(JOB, 1), ExclusiveRWLock(JOB, 1))
    assert await store.keys() == []


async def test_of_a_crowd_in_one_process_one_asks_and_the_rest_hear_who_holds_it(store: Watched) -> None:
    async with keeping(store) as keeper:
        mine = holder("this-process")
        async with keeper.holding([MutexLock(JOB, 1)], mine, lambda: None):
            crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
        assert all("on this-process" in str(error) for error in crowd)
    assert store.asked == ["create mutex.job.1", "delete mutex.job.1"]


async def test_a_key_that_another_process_holds_is_asked_for_once_in_a_moment(store: Watched) -> None:
    theirs = await MutexLock(JOB, 1).acquire(store, holder("another"))
    store.asked.clear()
    async with keeping(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
        assert all("on another" in str(error) for error in crowd)
        assert store.asked == ["create mutex.job.1"]
        await theirs.release()


async def test_a_limiter_that_refused_is_not_asked_again_before_its_time(store: Watched) -> None:
    limiter = RateLimiter(JOB, 1, limit=1, window_seconds=30)
    await limiter.acquire(store, holder())
    async with keeping(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, limiter) for _ in range(100)), return_exceptions=True)
    assert len(store.asked) < 5
    for error in crowd:
        assert isinstance(error, UnableToAcquireLockError)
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == pytest.approx(30, abs=5)


async def test_a_server_that_does_not_answer_one_is_not_asked_by_all(store: Watched) -> None:
    store.down = True
    async with keeping(store) as keeper:
        crowd = await asyncio.gather(*(hold(keeper, MutexLock(JOB, 1)) for _ in range(100)), return_exceptions=True)
    assert all(isinstance(error, ServerUnavailableError) for error in crowd)
    assert len(store.asked) == 1


async def test_who_wants_what_is_being_given_back_waits_for_it(store: Watched) -> None:
    async with keeping(store) as keeper:
        for _ in range(3):
            await hold(keeper, MutexLock(JOB, 1))
    assert await store.keys() == []


async def test_a_cancellation_while_locks_are_taken_leaves_none_behind(store: Watched) -> None:
    async with keeping(store) as keeper:
        for steps in range(8):
            work = asyncio.create_task(hold(keeper, MutexLock(JOB, 1), MutexLock(JOB, 2)))
            for _ in range(steps):
                await asyncio.sleep(0)
            work.cancel()
            await asyncio.wait([work])
    assert await store.keys() == []


async def test_the_token_is_higher_than_that_of_any_earlier_holder_of_any_of_the_keys(store: Watched) -> None:
    seen: dict[str, int] = {}
    async with keeping(store) as keeper:
        for names in (("a", "b"), ("b",), ("a",), ("b", "c"), ("c", "a"), ("b",)):
            async with keeper.holding([MutexLock(JOB, name) for name in names], holder(), lambda: None) as holding:
                for name in names:
                    assert holding.token is not None
                    assert holding.token > seen.get(name, 0)
                    seen[name] = holding.token


async def test_a_process_that_was_stopped_past_a_deadline_has_lost_the_lock_before_any_watchdog_looks(
    store: Watched,
) -> None:
    clock = ManualClock(1_000.0)
    keeper = LockKeeper(store, clock)  # nobody runs it
    async with keeper.holding([MutexLock(JOB, 1, clock=clock)], holder(), lambda: None) as holding:
        clock.now += 29
    assert holding.lost is not None
    assert await store.keys() == ["mutex.job.1"], "what may be another's was given back"


async def test_a_lock_that_lapsed_while_others_were_taken_is_not_held(store: Watched) -> None:
    clock = ManualClock(1_000.0)

    class Slow(MutexLock):
        """Takes its time."""

        async def acquire(self, store: LockStore, holder: Holder) -> Hold:
            clock.now += 29
            return await super().acquire(store, holder)

    keeper = LockKeeper(store, clock)
    with pytest.raises(UnableToAcquireLockError, match=r"mutex\.job\.1 was lost.*while others were taken"):
        async with keeper.holding([MutexLock(JOB, 1, clock=clock), Slow(JOB, 2, clock=clock)], holder(), lambda: None):
            pytest.fail("it was held")


class Licence(BaseLock):
    """A lock as an author writes it."""

    kind = "licence"

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        return await KeyHold.create(store, self.key, holder, self.ttl, self.clock)


async def test_a_lock_of_an_authors_own_is_held_like_any_other(store: Watched) -> None:
    async with keeping(store) as keeper:
        async with keeper.holding([Licence(JOB, "matlab")], holder("first"), lambda: None):
            with pytest.raises(UnableToAcquireLockError, match="on first"):
                await hold(keeper, Licence(JOB, "matlab"))
        await hold(keeper, Licence(JOB, "matlab"))
    assert await store.keys() == []
