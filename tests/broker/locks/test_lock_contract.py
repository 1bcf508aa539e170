"""The contract of the store and of each lock, over the store in memory and over a real bucket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredLock,
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    LockStore,
    MutexLock,
    RateLimiter,
    RevisionConflictError,
    SharedRWLock,
)
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from diracx.tasks.testing.lock_store import InMemoryLockStore
from support.locking import new_owner

TTL = timedelta(seconds=30)


@pytest.fixture
async def bucket(connection: Connection, names: Namespace) -> Bucket:
    """The bucket of locks of a mesh of this test."""
    await ensure(connection, [asset for asset in assets(names) if asset.name == names.locks_bucket])
    return Bucket(connection, names.locks_bucket)


@pytest.fixture(params=["memory", "bucket"])
def store(request: pytest.FixtureRequest) -> LockStore:
    """A store in memory, then a real bucket."""
    found: LockStore = InMemoryLockStore() if request.param == "memory" else request.getfixturevalue("bucket")
    return found


async def refused(store: LockStore, lock: BaseLock) -> UnableToAcquireLockError:
    """The refusal for a new owner."""
    with pytest.raises(UnableToAcquireLockError) as refusal:
        await lock.acquire(store, new_owner("somebody-new"))
    return refusal.value


async def everything(store: LockStore) -> list[str]:
    keys: list[str] = await store.keys(None)  # type: ignore[arg-type]
    return keys


# The store


async def test_a_key_is_stored_once_and_replaced_at_its_revision_only(store: LockStore) -> None:
    first = await store.create("a.b", b"1", TTL)
    with pytest.raises(RevisionConflictError):
        await store.create("a.b", b"2", TTL)
    second = await store.replace("a.b", b"2", TTL, first)
    assert second > first
    with pytest.raises(RevisionConflictError):
        await store.replace("a.b", b"3", TTL, first)
    entry = await store.read("a.b")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", second)


async def test_only_exactly_the_given_revision_is_deleted(store: LockStore) -> None:
    first = await store.create("a", b"1", TTL)
    second = await store.replace("a", b"2", TTL, first)
    await store.delete("a", first)
    assert await store.read("a") is not None
    await store.delete("a", second)
    assert await store.read("a") is None
    assert await store.create("a", b"3", TTL) > second


async def test_keys_are_listed_one_level_below(store: LockStore) -> None:
    for key in ("a.1", "a.2", "a.1.deeper", "ab.1", "a"):
        await store.create(key, b"", TTL)
    assert sorted(await store.keys("a")) == ["a.1", "a.2"]
    assert await store.keys("b") == []


async def test_the_oldest_key_tells_how_long_it_lives(store: LockStore) -> None:
    assert await store.oldest("a") is None
    await store.create("b.0", b"", TTL)
    first = await store.create("a.1", b"one", TTL)
    await store.create("a.2", b"two", TTL)
    oldest = await store.oldest("a")
    assert oldest is not None
    assert (oldest.key, oldest.value, oldest.revision) == ("a.1", b"one", first)
    assert oldest.expires_in == pytest.approx(30, abs=5)


async def test_a_key_expires_and_comes_back_at_a_higher_revision(store: LockStore) -> None:
    first = await store.create("a", b"1", timedelta(seconds=1))

    async def gone() -> bool:
        return await store.read("a") is None

    await wait_until(gone, description="the key has expired")
    assert await store.create("a", b"2", TTL) > first


# Mutex


async def test_of_many_that_want_a_mutex_one_gets_it_and_the_refusal_names_it(store: LockStore) -> None:
    lock = MutexLock(JOB, 7)
    got = await asyncio.gather(*(lock.acquire(store, new_owner(f"w{n}")) for n in range(20)), return_exceptions=True)
    holds = [hold for hold in got if not isinstance(hold, BaseException)]
    assert len(holds) == 1
    error = await refused(store, lock)
    assert "lollygag:SyncOwnersTask 0192 on w" in str(error)
    await holds[0].release()
    await (await lock.acquire(store, new_owner())).release()
    assert await everything(store) == []


async def test_tokens_of_one_key_rise(store: LockStore) -> None:
    tokens = []
    for _ in range(5):
        hold = await MutexLock(JOB, 7).acquire(store, new_owner())
        await hold.renew()
        tokens.append(hold.token)
        await hold.release()
    assert tokens == sorted(set(tokens))


# Readers and writers


async def test_readers_share_and_keep_a_writer_out(store: LockStore) -> None:
    readers = [await SharedRWLock(JOB, 7).acquire(store, new_owner(f"r{n}")) for n in range(3)]
    error = await refused(store, ExclusiveRWLock(JOB, 7))
    assert "3 readers" in str(error)
    assert error.retry_after is not None
    for reader in readers:
        await reader.release()
    await (await ExclusiveRWLock(JOB, 7).acquire(store, new_owner())).release()
    assert await everything(store) == []


async def test_a_writer_keeps_readers_and_writers_out(store: LockStore) -> None:
    writer = await ExclusiveRWLock(JOB, 7).acquire(store, new_owner("the-writer"))
    for lock in (SharedRWLock(JOB, 7), ExclusiveRWLock(JOB, 7)):
        assert "on the-writer" in str(await refused(store, lock))
    await writer.release()
    assert await everything(store) == [], "a refused reader or writer left a key behind"


async def test_a_writer_that_waits_keeps_new_readers_out_and_gets_in_when_the_old_ones_leave(store: LockStore) -> None:
    reader = await SharedRWLock(JOB, 7).acquire(store, new_owner())
    await refused(store, ExclusiveRWLock(JOB, 7))
    assert "a writer that waits" in str(await refused(store, SharedRWLock(JOB, 7)))
    await reader.renew()
    await reader.release()
    writer = await ExclusiveRWLock(JOB, 7).acquire(store, new_owner("another-writer"))
    assert "on another-writer" in str(await refused(store, SharedRWLock(JOB, 7)))
    await writer.renew()
    await writer.release()
    await (await SharedRWLock(JOB, 7).acquire(store, new_owner())).release()


async def test_a_stream_of_readers_does_not_starve_a_writer(store: LockStore) -> None:
    inside: list[AcquiredLock] = [await SharedRWLock(JOB, 7).acquire(store, new_owner())]

    async def a_reader_comes_and_the_first_one_goes() -> None:
        with suppress(UnableToAcquireLockError):
            inside.append(await SharedRWLock(JOB, 7).acquire(store, new_owner()))
        if inside:
            await inside.pop(0).release()

    async def the_writer_is_in() -> bool:
        await a_reader_comes_and_the_first_one_goes()
        try:
            inside.append(await ExclusiveRWLock(JOB, 7).acquire(store, new_owner()))
        except UnableToAcquireLockError:
            return False
        return True

    for _ in range(5):
        await a_reader_comes_and_the_first_one_goes()
        assert inside, "there is always a reader while no writer asks"
    await wait_until(the_writer_is_in, description="the writer gets in")
    await inside.pop().release()


async def test_readers_and_writers_that_race_never_meet(store: LockStore) -> None:
    inside: list[str] = []
    met: list[list[str]] = []

    async def visit(name: str, lock: BaseLock) -> None:
        for _ in range(15):
            try:
                hold = await lock.acquire(store, new_owner(name))
            except UnableToAcquireLockError:
                await asyncio.sleep(0)
                continue
            inside.append(name)
            if "writer" in inside and len(inside) > 1:
                met.append(list(inside))
            await asyncio.sleep(0)
            inside.remove(name)
            await hold.release()

    await asyncio.gather(
        *(visit("reader", SharedRWLock(JOB, 7)) for _ in range(6)),
        *(visit("writer", ExclusiveRWLock(JOB, 7)) for _ in range(3)),
    )
    assert met == []


# Limiters


async def test_no_more_than_the_limit_run_at_a_time(store: LockStore) -> None:
    lock = ConcurrencyLimiter(JOB, 7, limit=3)
    got = await asyncio.gather(*(lock.acquire(store, new_owner()) for _ in range(10)), return_exceptions=True)
    holds = [hold for hold in got if not isinstance(hold, BaseException)]
    while len(holds) < 3:  # those that picked one slot may all have gone away
        holds.append(await lock.acquire(store, new_owner()))
    assert "all 3" in str(await refused(store, lock))
    await holds.pop().release()
    holds.append(await lock.acquire(store, new_owner()))
    await refused(store, lock)
    for hold in holds:
        await hold.renew()
        await hold.release()
    assert await everything(store) == []


async def test_an_admission_counts_until_its_window_is_over_though_its_task_has_ended(store: LockStore) -> None:
    lock = RateLimiter(JOB, 7, limit=3, window_seconds=30)
    for _ in range(3):
        await (await lock.acquire(store, new_owner())).release()
    error = await refused(store, lock)
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() == pytest.approx(30, abs=5)
    assert error.pace == timedelta(seconds=10)


async def test_an_admission_is_freed_when_its_task_never_began(store: LockStore) -> None:
    lock = RateLimiter(JOB, 7, limit=1, window_seconds=30)
    await (await lock.acquire(store, new_owner())).abandon()
    await lock.acquire(store, new_owner())
    await refused(store, lock)


async def test_a_window_that_is_over_admits_again(store: LockStore) -> None:
    lock = RateLimiter(JOB, 7, limit=2, window_seconds=1)
    first = [await lock.acquire(store, new_owner()) for _ in range(2)]
    await refused(store, lock)

    async def admitted() -> bool:
        try:
            await lock.acquire(store, new_owner())
        except UnableToAcquireLockError:
            return False
        return True

    await wait_until(admitted, description="somebody is admitted in the next window")
    assert len(first) == 2


async def test_items_are_admitted_together_or_not_at_all(store: LockStore) -> None:
    many, few = (RateLimiter(JOB, 7, n_items=n, limit=5, window_seconds=30) for n in (3, 2))
    await many.acquire(store, new_owner())
    await refused(store, many)
    assert len(await everything(store)) == 3, "the refused admission kept slots"
    await few.acquire(store, new_owner())
    await refused(store, RateLimiter(JOB, 7, limit=5, window_seconds=30))
