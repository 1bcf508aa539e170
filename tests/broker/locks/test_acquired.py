"""A key in a real bucket that is acquired, renewed, released and lost, with and without answers of the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.exceptions import LockLostError, ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import AcquiredKey, Entry, LockOwner, MutexLock, StoredKey
from diracx.tasks.testing import wait_until
from support.clock import ManualClock
from support.locking import new_owner

TTL = timedelta(seconds=30)


@pytest.fixture
def ticks() -> ManualClock:
    return ManualClock(1_000.0)


class LosesAnswers:
    """A store that carries out each request, and loses the answers to `replace`."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.loses = True

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        return await self._bucket.create(key, value, ttl)

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        stored = await self._bucket.replace(key, value, ttl, revision)
        if self.loses:
            raise ServerUnavailableError("the answer was lost")
        return stored

    async def read(self, key: str) -> Entry | None:
        return await self._bucket.read(key)

    async def delete(self, key: str, revision: int) -> None:
        await self._bucket.delete(key, revision)

    async def keys(self, below: str | None = None) -> list[str]:
        return await self._bucket.keys(below)

    async def oldest(self, below: str | None = None) -> StoredKey | None:
        return await self._bucket.oldest(below)


async def test_a_mutex_is_taken_once_and_the_refusal_names_its_owner(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7, "a.b")
    first = new_owner()
    acquired = await lock.acquire(bucket, first)
    with pytest.raises(UnableToAcquireLockError) as caught:
        await lock.acquire(bucket, new_owner("w2"))
    assert caught.value.key == lock.key == "mutex.job.7.a=2Eb"
    assert caught.value.holder == f"lollygag:SyncOwnersTask 0192 on w1 since {first.since:%FT%T}Z"
    await acquired.release()
    await (await lock.acquire(bucket, new_owner("w2"))).release()


async def test_an_operator_reads_the_owner_of_a_lock_in_the_bucket(bucket: Bucket) -> None:
    since = datetime(2026, 12, 1, 6, tzinfo=UTC)
    owner = LockOwner(acquisition_id="o", task="lollygag:SyncOwnersTask", id="0192", worker="w1", since=since)
    lock = MutexLock(JOB, 7)
    await lock.acquire(bucket, owner)
    entry = await bucket.read(lock.key)
    assert entry is not None
    assert entry.value == (
        b'{"owner":"o","task":"lollygag:SyncOwnersTask","id":"0192","worker":"w1","since":"2026-12-01T06:00:00Z"}'
    )
    assert msgspec.json.decode(entry.value, type=LockOwner) == owner


async def test_a_lock_that_an_operator_set_by_hand_is_held(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    await bucket.create(lock.key, b"maintenance, ask Alice")
    with pytest.raises(UnableToAcquireLockError, match="held by maintenance, ask Alice"):
        await lock.acquire(bucket, new_owner())


async def test_the_token_rises_with_every_acquisition(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    tokens = []
    for _ in range(3):
        acquired = await lock.acquire(bucket, new_owner())
        tokens.append(acquired.token)
        await acquired.renew()
        assert acquired.token == tokens[-1]
        await acquired.release()
    assert tokens == sorted(set(tokens))


async def test_a_released_lock_leaves_nothing_behind(connection: Connection, bucket: Bucket) -> None:
    acquired = await MutexLock(JOB, 7).acquire(bucket, new_owner())
    await acquired.renew()
    await acquired.release()
    state = (await connection.api(f"STREAM.INFO.KV_{bucket.name}"))["state"]
    assert state["messages"] == 0


async def test_a_renewal_keeps_a_lock_past_its_first_life(bucket: Bucket) -> None:
    other = MutexLock(JOB, "other", ttl_ms=2001)
    lock = MutexLock(JOB, 7, ttl_ms=2001)
    acquired = await lock.acquire(bucket, new_owner())
    # Taken after the lock and never renewed: once it is gone, the lock is past its first life.
    await other.acquire(bucket, new_owner())

    async def the_other_is_gone() -> bool:
        await acquired.renew()
        return await bucket.read(other.key) is None

    await wait_until(the_other_is_gone, description="the lock that nobody renews expired")
    assert await bucket.read(lock.key) is not None
    await acquired.release()


async def test_a_renewal_moves_the_deadline_by_when_it_was_sent(bucket: Bucket, ticks: ManualClock) -> None:
    acquired = await AcquiredKey.create(bucket, "k", new_owner(), TTL, ticks)
    assert acquired.deadline == 1000 + 29
    ticks.now += 20
    await acquired.renew()
    assert acquired.deadline == 1020 + 29


async def test_a_renewal_whose_answer_was_lost_is_adopted(bucket: Bucket, ticks: ManualClock) -> None:
    store = LosesAnswers(bucket)
    acquired = await AcquiredKey.create(store, "k", new_owner(), TTL, ticks)
    token, deadline = acquired.token, acquired.deadline
    ticks.now += 10
    with pytest.raises(ServerUnavailableError):
        await acquired.renew()
    assert acquired.deadline == deadline
    store.loses = False
    ticks.now += 1
    # Nobody knows when the lost renewal was stored: only a renewal that replaces it moves the deadline.
    await acquired.renew()
    assert acquired.deadline == ticks.now + 29
    assert acquired.token == token
    await acquired.release()
    assert await bucket.read("k") is None


async def test_a_lock_whose_renewal_was_not_answered_is_released(bucket: Bucket) -> None:
    acquired = await AcquiredKey.create(LosesAnswers(bucket), "k", new_owner(), TTL)
    with pytest.raises(ServerUnavailableError):
        await acquired.renew()
    await acquired.release()
    assert await bucket.read("k") is None


async def test_an_acquisition_whose_answer_was_lost_succeeds_when_it_is_repeated(bucket: Bucket) -> None:
    lock, owner = MutexLock(JOB, 7), new_owner()
    first = await lock.acquire(bucket, owner)
    again = await lock.acquire(bucket, owner)
    assert again.token == first.token
    with pytest.raises(UnableToAcquireLockError):
        await lock.acquire(bucket, new_owner())


async def test_a_stale_owner_renews_and_releases_nothing(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    stale = await lock.acquire(bucket, new_owner("w1"))
    await bucket.delete(lock.key, stale.token)
    current = await lock.acquire(bucket, new_owner("w2"))
    with pytest.raises(LockLostError, match="on w2"):
        await stale.renew()
    await stale.release()
    entry = await bucket.read(lock.key)
    assert entry is not None
    assert entry.revision == current.token
    await current.renew()


async def test_a_lock_whose_key_is_gone_is_lost_at_its_renewal(bucket: Bucket) -> None:
    acquired = await MutexLock(JOB, 7).acquire(bucket, new_owner())
    await bucket.delete(acquired.key, acquired.token)
    with pytest.raises(LockLostError, match="gone"):
        await acquired.renew()
    assert await bucket.read(acquired.key) is None


async def test_past_its_deadline_a_lock_is_not_renewed_though_its_key_exists(
    bucket: Bucket, ticks: ManualClock
) -> None:
    acquired = await AcquiredKey.create(bucket, "k", new_owner(), TTL, ticks)
    ticks.now = acquired.deadline
    with pytest.raises(LockLostError, match="deadline"):
        await acquired.renew()
    entry = await bucket.read("k")
    assert entry is not None
    assert entry.revision == acquired.token
