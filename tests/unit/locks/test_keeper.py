"""The locks of one execution: their order, the memory of refusals, release on every path, and losses."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB, TASK, TRANSFORMATION
from diracx.tasks.plumbing.locks import (
    AcquiredKey,
    AcquiredLock,
    BaseLock,
    ConcurrencyLimiter,
    Entry,
    ExclusiveRWLock,
    LockOwner,
    LockStore,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.lock_store import Limiter, Rate, RecordingStore, mutexes, not_lost
from support.locking import new_owner


async def hold(keeper: LockKeeper, *locks: BaseLock) -> None:
    async with keeper.hold(locks, new_owner(), lambda: None):
        pass


async def test_locks_are_taken_in_one_order_and_released_in_reverse(store: RecordingStore) -> None:
    locks = [
        RateLimiter(JOB, 1, limit=1),
        ConcurrencyLimiter(JOB, 1, limit=1),
        MutexLock(TASK, 2),
        MutexLock(JOB, 3),
    ]
    for order in (locks, locks[::-1]):
        other = RecordingStore()
        async with LockKeeper(other) as keeper:
            await hold(keeper, *order)
        assert other.requests == [
            "create mutex.job.3",
            "create mutex.task.2",
            "create conc.job.1./slots.0",
            "create rate.job.1./slots.0",
            "delete conc.job.1./slots.0",
            "delete mutex.task.2",
            "delete mutex.job.3",
        ]


async def test_a_busy_lock_spends_no_admission_and_frees_the_locks_taken_before_it(
    store: RecordingStore,
) -> None:
    await MutexLock(JOB, 3).acquire(store, new_owner("another"))
    async with LockKeeper(store) as keeper:
        with pytest.raises(UnableToAcquireLockError, match="on another"):
            await hold(keeper, RateLimiter(JOB, 1, limit=1), MutexLock(JOB, 3), MutexLock(JOB, 2))
    assert await store.keys() == ["mutex.job.3"]


async def test_an_admission_is_undone_when_the_limiter_after_it_refuses(store: RecordingStore) -> None:
    await RateLimiter(JOB, 2, limit=1, window_seconds=30).acquire(store, new_owner())
    async with LockKeeper(store) as keeper:
        with pytest.raises(UnableToAcquireLockError):
            await hold(keeper, *(RateLimiter(JOB, n, limit=1, window_seconds=30) for n in (1, 2)))
    assert await store.keys() == ["rate.job.2./slots.0"]


async def test_a_limit_of_none_sends_no_request(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        await hold(keeper, RateLimiter(JOB, 1), ConcurrencyLimiter(JOB, 1, limit=None))
    assert store.requests == []


async def test_a_lock_listed_twice_and_a_reader_beside_its_own_writer_do_not_block_themselves(
    store: RecordingStore,
) -> None:
    async with LockKeeper(store) as keeper:
        await hold(keeper, MutexLock(JOB, 1), MutexLock(JOB, "1"), SharedRWLock(JOB, 1), ExclusiveRWLock(JOB, 1))
    assert await store.keys() == []


async def test_a_cancellation_while_locks_are_taken_leaves_none_behind(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        for steps in range(8):
            work = asyncio.create_task(hold(keeper, MutexLock(JOB, 1), MutexLock(JOB, 2)))
            for _ in range(steps):
                await asyncio.sleep(0)
            work.cancel()
            await asyncio.wait([work])
    assert await store.keys() == []


async def test_the_token_is_higher_than_that_of_any_earlier_owner_of_any_key(
    store: RecordingStore,
) -> None:
    seen: dict[str, int] = {}
    async with LockKeeper(store) as keeper:
        for names in (("a", "b"), ("b",), ("a",), ("b", "c"), ("c", "a"), ("b",)):
            async with keeper.hold([MutexLock(JOB, name) for name in names], new_owner(), lambda: None) as held:
                for name in names:
                    assert held.token is not None
                    assert held.token > seen.get(name, 0)
                    seen[name] = held.token


async def test_a_process_that_was_stopped_past_a_deadline_has_lost_the_lock_before_its_watchdog_notices(
    store: RecordingStore,
) -> None:
    clock = ManualClock(1_000.0)
    keeper = LockKeeper(store, clock)  # without a watchdog
    async with keeper.hold([MutexLock(JOB, 1, clock=clock)], new_owner(), lambda: None) as held:
        clock.now += 29
    assert held.lost is not None
    assert await store.keys() == ["mutex.job.1"], "a key that may have another owner was deleted"


async def test_a_lock_that_lapsed_while_others_were_taken_is_refused(store: RecordingStore) -> None:
    clock = ManualClock(1_000.0)

    class Slow(MutexLock):
        """A mutex that takes 29 s to acquire."""

        async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
            clock.now += 29
            return await super().acquire(store, owner)

    keeper = LockKeeper(store, clock)
    with pytest.raises(UnableToAcquireLockError, match=r"mutex\.job\.1 was lost.*while others were taken"):
        async with keeper.hold([MutexLock(JOB, 1, clock=clock), Slow(JOB, 2, clock=clock)], new_owner(), lambda: None):
            pytest.fail("it was held")


class Licence(BaseLock):
    """A lock as an author writes it."""

    kind = "licence"

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        return await AcquiredKey.create(store, self.key, owner, self.ttl, self.clock)


async def test_a_lock_that_an_author_wrote_is_held_like_any_other(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        async with keeper.hold([Licence(JOB, "matlab")], new_owner("first"), lambda: None):
            with pytest.raises(UnableToAcquireLockError, match="on first"):
                await hold(keeper, Licence(JOB, "matlab"))
        await hold(keeper, Licence(JOB, "matlab"))
    assert await store.keys() == []


async def test_the_order_is_by_kind_then_key_whatever_the_order_of_the_task(
    store: RecordingStore,
) -> None:
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
        store.requests.clear()
        async with LockKeeper(store).hold(given, new_owner(), not_lost) as held:
            assert store.requested("create") == order
            assert sorted(order) == sorted(store.entries)
            # The highest: a later owner of any of the keys has a higher one.
            assert held.token == max(entry.revision for entry in store.entries.values())
        assert store.requested("delete") == order[::-1]


async def test_without_locks_there_is_no_token_and_no_request(store: RecordingStore) -> None:
    async with LockKeeper(store).hold([], new_owner(), not_lost) as held:
        assert held.token is None
        assert held.check() is None
    assert store.requests == []


async def test_a_mutex_listed_twice_is_held_and_released_once(store: RecordingStore) -> None:
    async with LockKeeper(store).hold([MutexLock(JOB, 1), MutexLock(JOB, 1)], new_owner(), not_lost):
        assert sorted(store.entries) == ["mutex.job.1"]
    assert sorted(store.entries) == []


async def test_a_failure_under_locks_releases_them_in_reverse_and_goes_on(store: RecordingStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with LockKeeper(store).hold(mutexes(3), new_owner(), not_lost):
            raise ZeroDivisionError
    assert store.requested("delete") == ["mutex.job.2", "mutex.job.1", "mutex.job.0"]
    assert sorted(store.entries) == []


async def test_a_store_that_fails_in_the_middle_leaves_no_lock_taken(store: RecordingStore) -> None:
    async def fails(store: LockStore, owner: LockOwner) -> AcquiredLock:
        raise ServerUnavailableError("no answer")

    locks = mutexes(3)
    locks[2].acquire = fails  # type: ignore[method-assign]
    with pytest.raises(ServerUnavailableError):
        async with LockKeeper(store).hold(locks, new_owner(), not_lost):
            pytest.fail("the third lock fails")
    assert sorted(store.entries) == []


async def test_a_release_that_fails_prevents_neither_the_other_releases_nor_the_task(
    store: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with LockKeeper(store).hold(mutexes(2), new_owner(), not_lost):
        store.failing.add("delete")
    assert store.requested("delete") == ["mutex.job.1", "mutex.job.0"]
    assert "releasing mutex.job.1: no answer" in caplog.text


async def test_a_long_key_is_cut_in_the_line_about_its_release(
    store: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with LockKeeper(store).hold([MutexLock(JOB, *["x" * 200] * 10)], new_owner(), not_lost):
        store.failing.add("delete")
    (line,) = (message for message in caplog.messages if message.startswith("releasing mutex.job.xxx"))
    assert "xxx [cut]: no answer" in line


class Odd(MutexLock):
    """An author's lock that fails once it is taken, outside of its `release` or inside."""

    def __init__(self, key: object, failure: str) -> None:
        super().__init__(JOB, key)
        self.failure = failure

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        acquired = await super().acquire(store, owner)
        return cast("AcquiredLock", OddlyAcquired(acquired, self.failure))


class OddlyAcquired:
    """An acquired lock with a fault."""

    def __init__(self, acquired: AcquiredLock, failure: str) -> None:
        self.key, self.token, self.ttl = acquired.key, acquired.token, acquired.ttl
        self.acquired, self.failure = acquired, failure

    @property
    def deadline(self) -> float:
        if self.failure == "deadline":
            raise AttributeError("no deadline")
        return self.acquired.deadline

    def __hash__(self) -> int:
        if self.failure == "hash":
            raise TypeError("unhashable")
        return id(self)

    async def renew(self) -> None:
        await self.acquired.renew()

    async def release(self) -> None:
        if self.failure == "cancelled":
            raise asyncio.CancelledError
        await self.acquired.release()

    async def abandon(self) -> None:
        await self.release()


@pytest.mark.parametrize("failure", ["deadline", "hash", "cancelled"])
async def test_a_faulty_lock_of_an_author_keeps_no_other_lock_from_its_release(
    store: RecordingStore, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = LockKeeper(store)  # without a watchdog
    with suppress(AttributeError, TypeError):
        async with keeper.hold([MutexLock(JOB, 0), Odd(1, failure)], new_owner(), not_lost):
            pass
    assert "mutex.job.0" not in store.entries
    assert "releasing mutex.job.1" in caplog.text


class Confused(RecordingStore):
    """A store whose looks fail like a bug, not like a server."""

    async def keys(self, below: str | None = None) -> list[str]:
        raise ValueError("confused")

    async def read(self, key: str) -> Entry | None:
        if key.endswith("/writer") and any("/readers." in stored for stored in self.entries):
            raise ValueError("confused")
        return await super().read(key)


@pytest.mark.parametrize("lock", [ExclusiveRWLock(JOB, 1), SharedRWLock(JOB, 1)])
async def test_a_look_at_the_other_side_that_fails_leaves_no_key(lock: BaseLock) -> None:
    store = Confused()
    with pytest.raises(ValueError, match="confused"):
        await lock.acquire(store, new_owner())
    assert not store.entries


async def stall_until_cancelled(store: RecordingStore, verb: str, cancels: int, work: asyncio.Task[Any]) -> None:
    """Cancel `work` while it awaits the answer to `verb`, then let the answer come."""
    await wait_until(lambda: store.requested(verb), description=f"{verb} is under way")
    for _ in range(cancels):
        work.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not work.done()
    store.stalled[verb].set()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_cancelled_in_the_middle_of_acquiring_a_lock_is_taken_and_released(
    store: RecordingStore, cancels: int
) -> None:
    store.stalled["create"] = asyncio.Event()
    began = False

    async def hold() -> None:
        nonlocal began
        async with LockKeeper(store).hold(mutexes(2), new_owner(), not_lost):
            began = True

    await stall_until_cancelled(store, "create", cancels, asyncio.create_task(hold()))
    assert not began
    assert store.requested("create") == ["mutex.job.0"]
    assert store.requested("delete") == ["mutex.job.0"]
    assert sorted(store.entries) == []


async def test_locks_that_are_released_behind_their_owner_are_sent_for_at_once_and_the_keeper_ends_after_them(
    store: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    gate = store.stalled["delete"] = asyncio.Event()
    async with LockKeeper(store) as keeper:
        held = await keeper.take(mutexes(2), new_owner(), not_lost)
        await keeper.release(held, behind=True)
        assert store.requested("delete") == ["mutex.job.1"]
        next_one = asyncio.create_task(keeper.take(mutexes(2)[1:], new_owner(), not_lost))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not next_one.done(), "it waits for its turn, and is not refused"
        gate.set()
        await keeper.release(await next_one)
        held = await keeper.take(mutexes(3)[2:], new_owner(), not_lost)
        store.failing.add("delete")
        gate.clear()
        await keeper.release(held, behind=True)
        asyncio.get_running_loop().call_later(0.01, gate.set)
    assert "releasing mutex.job.2: no answer to delete of mutex.job.2; it expires within 30 s" in caplog.text
    assert list(store.entries) == ["mutex.job.2"]


async def test_a_lock_of_an_author_is_released_before_its_task_is_settled(store: RecordingStore) -> None:
    async with LockKeeper(store) as keeper:
        held = await keeper.take([Licence(JOB, 1)], new_owner(), not_lost)
        await keeper.release(held, behind=True)
        assert not store.entries


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_cancelled_in_the_middle_of_releasing_all_are_released(store: RecordingStore, cancels: int) -> None:
    store.stalled["delete"] = asyncio.Event()

    async def hold() -> None:
        async with LockKeeper(store).hold(mutexes(3), new_owner(), not_lost):
            pass

    await stall_until_cancelled(store, "delete", cancels, asyncio.create_task(hold()))
    assert store.requested("delete") == ["mutex.job.2", "mutex.job.1", "mutex.job.0"]
    assert sorted(store.entries) == []


async def test_cancelled_while_a_busy_lock_is_asked_for_is_a_cancellation(store: RecordingStore) -> None:
    store.stalled["create"] = asyncio.Event()
    store.steal("mutex.job.0")

    async def hold() -> None:
        async with LockKeeper(store).hold(mutexes(1), new_owner(), not_lost):
            pass

    await stall_until_cancelled(store, "create", 1, asyncio.create_task(hold()))
    assert sorted(store.entries) == ["mutex.job.0"]
