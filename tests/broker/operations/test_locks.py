"""The locks of a mesh as an operator sees them, and their release."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import ConcurrencyLimiter
from diracx.tasks.plumbing.operations import locks
from diracx.tasks.plumbing.operations.locks import HeldLock, LockHolder, LockReader, OtherHolderError
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import from_rfc3339
from support.locking import new_owner

SINCE = "2026-05-04T09:30:12Z"
LATER = "2026-05-04T09:31:12Z"


def holder(task: str, since: str = SINCE) -> bytes:
    return b'{"owner":"o","task":"%b","id":"i","worker":"w","since":"%b"}' % (task.encode(), since.encode())


async def test_the_keys_of_one_lock_are_listed_together_with_the_longest_holder_first(
    connection: Connection, topology: Namespace, bucket: Bucket
) -> None:
    await bucket.create("conc.a.b./1", holder("late", LATER))
    await bucket.create("conc.a.b./0", holder("early"))
    await bucket.create("mutex.job.7", b"written by hand")
    reader = LockReader(connection, topology)
    limiter, mutex = await reader.all()
    early, late = (
        LockHolder(name, "i", "w", from_rfc3339(since)) for name, since in (("early", SINCE), ("late", LATER))
    )
    assert limiter == HeldLock("conc.a.b", "conc", [early, late], None)
    assert mutex == HeldLock("mutex.job.7", "mutex", [], None)
    assert await reader.one("conc.a.b") == limiter
    assert await reader.one("conc.a") is None


async def test_a_lock_expires_with_its_last_key(connection: Connection, topology: Namespace, bucket: Bucket) -> None:
    for slot, seconds in enumerate((30, 60)):
        await bucket.create(f"conc.a.b./{slot}", holder("a"), timedelta(seconds=seconds))
    (lock,) = await LockReader(connection, topology).all()
    assert lock.expires_in is not None
    assert 30 < lock.expires_in <= 60


async def test_a_release_deletes_every_key_of_one_lock(
    connection: Connection, topology: Namespace, bucket: Bucket
) -> None:
    for key in ("conc.a.b./0", "conc.a.b./1", "mutex.job.7"):
        await bucket.create(key, holder("a"))
    reader = LockReader(connection, topology)
    limiter = await held(reader, "conc.a.b")
    assert await reader.release(limiter)
    assert await bucket.keys() == ["mutex.job.7"]
    assert not await reader.release(limiter)


async def held(reader: LockReader, key: str) -> HeldLock:
    lock = await reader.one(key)
    assert lock is not None
    return lock


@pytest.mark.parametrize("key", ["mutex.job.7", "rw.job.7./readers.1", "leader.scheduler"])
async def test_a_lock_that_somebody_else_holds_by_now_is_not_released(
    connection: Connection, topology: Namespace, bucket: Bucket, key: str
) -> None:
    revision = await bucket.create(key, holder("early"))
    reader = LockReader(connection, topology)
    seen = await held(reader, key.partition("./")[0])
    await bucket.delete(key, revision)
    await bucket.create(key, holder("late", LATER))
    with pytest.raises(OtherHolderError, match=f"{seen.key} is held by another one by now, late i on w: look again"):
        await reader.release(seen)
    assert await bucket.keys() == [key]


async def test_the_holders_of_a_limiter_may_be_others_by_now(
    connection: Connection, topology: Namespace, bucket: Bucket
) -> None:
    await bucket.create("conc.a.b./0", holder("early"))
    reader = LockReader(connection, topology)
    seen = await held(reader, "conc.a.b")
    await bucket.create("conc.a.b./1", holder("late", LATER))
    assert await reader.release(seen)
    assert await bucket.keys() == []


async def test_a_limiter_for_one_vo_is_a_lock_of_its_own(
    connection: Connection, topology: Namespace, bucket: Bucket
) -> None:
    limiter = ConcurrencyLimiter(JOB, 7, limit=1)
    for each in (limiter, limiter.of_vo("atlas"), limiter.of_vo("lhcb")):
        await each.acquire(bucket, new_owner())
    reader = LockReader(connection, topology)
    assert [lock.key for lock in await reader.all()] == ["conc.job.7", "conc.job.7./vo.atlas", "conc.job.7./vo.lhcb"]
    assert await reader.count() == 3
    assert await reader.release(await held(reader, "conc.job.7./vo.atlas"))
    assert sorted(await bucket.keys()) == ["conc.job.7./slots.0", "conc.job.7./vo.lhcb./slots.0"]


async def test_a_count_of_locks_with_many_keys_reads_none_of_them(
    connection: Connection, topology: Namespace, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (*(f"rate.job.x./slots.{slot}" for slot in range(4)), "mutex.job.7"):
        await bucket.create(key, holder("a"))
    await connection.request(f"$KV.{bucket.name}.mutex.job.8", b"", headers={"KV-Operation": "DEL"})
    asked: list[str] = []
    api = connection.api

    async def counting(subject: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        asked.append(subject)
        return await api(subject, *arguments, **options)

    monkeypatch.setattr(connection, "api", counting)
    reader = LockReader(connection, topology)
    assert await reader.count() == 2
    assert len(asked) > 6, "each key was read"
    asked.clear()
    monkeypatch.setattr(locks, "MAX_KEYS_READ", 5)
    assert await reader.count() == 3, "a marker may be one of them"
    assert set(asked) == {f"STREAM.INFO.KV_{bucket.name}"}


async def test_locks_of_all_kinds_but_one_are_read_if_they_are_few(
    connection: Connection, topology: Namespace, bucket: Bucket
) -> None:
    for key in (*(f"rate.job.x./slots.{slot}" for slot in range(9)), "mutex.job.7", "conc.a.b./0", "conc.a.b./1"):
        await bucket.create(key, holder("a"), timedelta(seconds=30))
    reader = LockReader(connection, topology)
    found = await reader.all_but("rate", 3)
    assert [(lock.key, len(lock.holders)) for lock in found] == [("conc.a.b", 2), ("mutex.job.7", 1)]
    assert all(lock.expires_in is not None for lock in found)
    assert await reader.all_but("rate", 2) == []


async def test_a_namespace_without_a_lock_bucket_is_recognised(connection: Connection, names: Namespace) -> None:
    assert not await LockReader(connection, names).exists()
