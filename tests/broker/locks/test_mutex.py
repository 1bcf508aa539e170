"""A mutex in a real bucket: taken, renewed, released, lost, and all of these with answers that never came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.exceptions import LockLostError, ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import Entry, Holder, KeyHold, MutexLock, Standing
from diracx.tasks.testing import wait_until
from support.clock import ManualClock

TTL = timedelta(seconds=30)


def holder(worker: str = "w1") -> Holder:
    return Holder.new(task="lollygag:SyncOwnersTask", id="0192", worker=worker)


@pytest.fixture
def ticks() -> ManualClock:
    return ManualClock(1_000.0)


class Deaf:
    """A store that does as it is told and loses the answer of a replacement."""

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

    async def oldest(self, below: str | None = None) -> Standing | None:
        return await self._bucket.oldest(below)


async def test_a_mutex_is_taken_once_and_the_second_hears_by_whom(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7, "a.b")
    first = holder()
    hold = await lock.acquire(bucket, first)
    with pytest.raises(UnableToAcquireLockError) as caught:
        await lock.acquire(bucket, holder("w2"))
    assert caught.value.key == lock.key == "mutex.job.7.a=2Eb"
    since = first.since.isoformat(timespec="seconds")
    assert caught.value.holder == f"lollygag:SyncOwnersTask 0192 on w1 since {since}"
    await hold.release()
    await (await lock.acquire(bucket, holder("w2"))).release()


async def test_an_operator_reads_in_the_bucket_who_holds_a_lock(bucket: Bucket) -> None:
    since = datetime(2026, 12, 1, 6, tzinfo=UTC)
    who = Holder(owner="o", task="lollygag:SyncOwnersTask", id="0192", worker="w1", since=since)
    lock = MutexLock(JOB, 7)
    await lock.acquire(bucket, who)
    entry = await bucket.read(lock.key)
    assert entry is not None
    assert entry.value == (
        b'{"owner":"o","task":"lollygag:SyncOwnersTask","id":"0192","worker":"w1","since":"2026-12-01T06:00:00Z"}'
    )
    assert msgspec.json.decode(entry.value, type=Holder) == who


async def test_a_lock_that_somebody_set_by_hand_is_held_all_the_same(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    await bucket.create(lock.key, b"maintenance, ask Alice")
    with pytest.raises(UnableToAcquireLockError, match="held by maintenance, ask Alice"):
        await lock.acquire(bucket, holder())


async def test_the_token_rises_with_every_acquisition(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    tokens = []
    for _ in range(3):
        hold = await lock.acquire(bucket, holder())
        tokens.append(hold.token)
        await hold.renew()
        assert hold.token == tokens[-1]
        await hold.release()
    assert tokens == sorted(set(tokens))


async def test_a_released_lock_leaves_nothing_behind(connection: Connection, bucket: Bucket) -> None:
    hold = await MutexLock(JOB, 7).acquire(bucket, holder())
    await hold.renew()
    await hold.release()
    state = (await connection.api(f"STREAM.INFO.KV_{bucket.name}"))["state"]
    assert state["messages"] == 0


async def test_a_renewal_keeps_a_lock_past_its_first_life(bucket: Bucket) -> None:
    other = MutexLock(JOB, "other", ttl_ms=2001)
    lock = MutexLock(JOB, 7, ttl_ms=2001)
    hold = await lock.acquire(bucket, holder())
    # Taken after the lock and never renewed: once it is gone, the lock is past its first life.
    await other.acquire(bucket, holder())

    async def the_other_is_gone() -> bool:
        await hold.renew()
        return await bucket.read(other.key) is None

    await wait_until(the_other_is_gone, description="the lock that nobody renews expired")
    assert await bucket.read(lock.key) is not None
    await hold.release()


async def test_a_renewal_moves_the_deadline_by_when_it_was_sent(bucket: Bucket, ticks: ManualClock) -> None:
    hold = await KeyHold.create(bucket, "k", holder(), TTL, ticks)
    assert hold.deadline == 1000 + 29
    ticks.now += 20
    await hold.renew()
    assert hold.deadline == 1020 + 29


async def test_a_renewal_whose_answer_was_lost_is_adopted(bucket: Bucket, ticks: ManualClock) -> None:
    store = Deaf(bucket)
    hold = await KeyHold.create(store, "k", holder(), TTL, ticks)
    token, deadline = hold.token, hold.deadline
    ticks.now += 10
    with pytest.raises(ServerUnavailableError):
        await hold.renew()
    assert hold.deadline == deadline
    store.loses = False
    ticks.now += 1
    await hold.renew()
    # When the lost one was stored is not known: only the next moves the deadline.
    assert hold.deadline == deadline
    await hold.renew()
    assert hold.deadline == ticks.now + 29
    assert hold.token == token
    await hold.release()
    assert await bucket.read("k") is None


async def test_a_lock_whose_renewal_was_not_answered_is_released(bucket: Bucket) -> None:
    hold = await KeyHold.create(Deaf(bucket), "k", holder(), TTL)
    with pytest.raises(ServerUnavailableError):
        await hold.renew()
    await hold.release()
    assert await bucket.read("k") is None


async def test_an_acquisition_whose_answer_was_lost_is_ours(bucket: Bucket) -> None:
    lock, who = MutexLock(JOB, 7), holder()
    first = await lock.acquire(bucket, who)
    again = await lock.acquire(bucket, who)
    assert again.token == first.token
    with pytest.raises(UnableToAcquireLockError):
        await lock.acquire(bucket, holder())


async def test_a_stale_owner_renews_and_releases_nothing(bucket: Bucket) -> None:
    lock = MutexLock(JOB, 7)
    stale = await lock.acquire(bucket, holder("w1"))
    await bucket.delete(lock.key, stale.token)
    current = await lock.acquire(bucket, holder("w2"))
    with pytest.raises(LockLostError, match="on w2"):
        await stale.renew()
    await stale.release()
    entry = await bucket.read(lock.key)
    assert entry is not None
    assert entry.revision == current.token
    await current.renew()


async def test_a_lock_that_is_gone_is_lost_at_its_renewal(bucket: Bucket) -> None:
    hold = await MutexLock(JOB, 7).acquire(bucket, holder())
    await bucket.delete(hold.key, hold.token)
    with pytest.raises(LockLostError, match="gone"):
        await hold.renew()
    assert await bucket.read(hold.key) is None


async def test_past_its_deadline_a_lock_is_not_renewed_though_it_stands(bucket: Bucket, ticks: ManualClock) -> None:
    hold = await KeyHold.create(bucket, "k", holder(), TTL, ticks)
    ticks.now = hold.deadline
    with pytest.raises(LockLostError, match="deadline"):
        await hold.renew()
    entry = await bucket.read("k")
    assert entry is not None
    assert entry.revision == hold.token


def test_a_lock_too_short_to_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="ttl_ms=2000 is too short: more than 2000 is needed"):
        MutexLock(JOB, 7, ttl_ms=2000)
