"""Markers that `nats kv del` and `nats kv purge` leave in place of a lock's key: they belong to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.status import StatusReader
from diracx.tasks.plumbing.wire.names import Namespace
from support.locking import new_owner
from support.nats_command import find_nats

Mark: TypeAlias = Callable[[str], Awaitable[None]]


BY_COMMAND = [pytest.param(command, marks=pytest.mark.nats_command) for command in ("nats kv del", "nats kv purge")]


@pytest.fixture(params=["DEL", "PURGE", *BY_COMMAND])
def mark(request: pytest.FixtureRequest, server: EmbeddedServer, connection: Connection, bucket: Bucket) -> Mark:
    """Leaves a marker in place of a key: by a raw publish, or by the `nats` command."""
    command, nats = request.param.split(), find_nats()

    async def marked(key: str) -> None:
        if nats is None or command[0] != "nats":
            headers = {"KV-Operation": request.param} | ({"Nats-Rollup": "sub"} if request.param == "PURGE" else {})
            await connection.request(f"$KV.{bucket.name}.{key}", b"", headers=headers)
            return
        if await bucket.read(key) is None:
            await bucket.create(key, b"to be deleted")
        arguments = ["--server", server.url, *command[1:], bucket.name, key, "--force"]
        process = await asyncio.create_subprocess_exec(nats, *arguments, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0

    return marked


async def refused(lock: BaseLock, bucket: Bucket) -> UnableToAcquireLockError:
    """The refusal for a new owner."""
    with pytest.raises(UnableToAcquireLockError) as caught:
        await lock.acquire(bucket, new_owner("somebody-new"))
    return caught.value


async def test_the_marker_of_a_reader_keeps_no_writer_out_and_is_removed(bucket: Bucket, mark: Mark) -> None:
    reader, writer = SharedRWLock(JOB, 1), ExclusiveRWLock(JOB, 1)
    await reader.acquire(bucket, new_owner())
    for key in await bucket.keys():
        await mark(key)
    await mark(f"{writer.readers}.another")
    await (await writer.acquire(bucket, new_owner())).release()
    assert await bucket.keys() == []


async def test_a_reader_beside_a_marker_keeps_a_writer_out_and_is_named(bucket: Bucket, mark: Mark) -> None:
    reader, writer = SharedRWLock(JOB, 1), ExclusiveRWLock(JOB, 1)
    await mark(f"{writer.readers}.older")
    held = await reader.acquire(bucket, new_owner("the-reader"))
    await mark(f"{writer.readers}.younger")
    assert "on the-reader" in str(await refused(writer, bucket))
    await held.release()
    await (await writer.acquire(bucket, new_owner())).release()
    assert await bucket.keys() == []


@pytest.mark.parametrize("lock", [MutexLock(JOB, 1), ExclusiveRWLock(JOB, 1), SharedRWLock(JOB, 1)])
async def test_the_marker_of_an_only_owner_keeps_nobody_out(bucket: Bucket, mark: Mark, lock: BaseLock) -> None:
    await mark(lock.writer_key if isinstance(lock, ExclusiveRWLock | SharedRWLock) else lock.key)
    await lock.acquire(bucket, new_owner())


@pytest.mark.parametrize("items", [1, 3])
async def test_markers_in_the_slots_of_a_rate_limiter_are_no_admissions(bucket: Bucket, mark: Mark, items: int) -> None:
    lock = RateLimiter(JOB, 1, limit=3, n_items=items, window_seconds=600)
    for number in range(3):
        await mark(f"{lock.key}./slots.{number}")
    await _fill(lock, bucket)
    assert len(await bucket.keys()) == 3
    assert (await refused(lock, bucket)).retry_after > timedelta(seconds=500)  # type: ignore[operator]


async def _fill(lock: RateLimiter, bucket: Bucket) -> None:
    """Admit until the limit is reached. A refusal must be for a moment only."""
    admitted = 0
    while admitted < (lock.limit or 0):
        delay = timedelta(0)
        try:
            await lock.acquire(bucket, new_owner())
            admitted += lock.n_items
        except UnableToAcquireLockError as error:
            delay = error.retry_after or delay
        assert delay < timedelta(seconds=1)
        await asyncio.sleep(delay.total_seconds())


async def test_a_marker_beside_a_living_slot_is_removed_by_the_refusal(bucket: Bucket, mark: Mark) -> None:
    for lock in (ConcurrencyLimiter(JOB, 1, limit=2), RateLimiter(JOB, 1, limit=2, window_seconds=600)):
        await mark(f"{lock.key}./slots.2")
        for number in range(2):
            await lock.acquire(bucket, new_owner(f"w{number}"))
        await refused(lock, bucket)
        assert sorted(await bucket.keys(f"{lock.key}./slots")) == [f"{lock.key}./slots.{number}" for number in range(2)]


async def test_a_renewal_lets_the_next_refusal_free_a_slot_with_a_younger_marker(bucket: Bucket, mark: Mark) -> None:
    lock = ConcurrencyLimiter(JOB, 1, limit=20)
    held = [await lock.acquire(bucket, new_owner()) for _ in range(20)]
    deleted = held.pop()
    await mark(deleted.key)
    for acquired in held:
        await acquired.renew()
    assert (await bucket.oldest(f"{lock.key}./slots")) is not None
    assert deleted.key not in await bucket.keys()
    assert (await lock.acquire(bucket, new_owner())).key == deleted.key


async def test_markers_are_neither_listed_as_locks_nor_released(
    connection: Connection, topology: Namespace, bucket: Bucket, mark: Mark
) -> None:
    lock = SharedRWLock(JOB, 1)
    await mark(f"{lock.readers}.gone")
    reader = LockReader(connection, topology)
    assert await reader.all() == []
    assert await reader.one(lock.key) is None
    await lock.acquire(bucket, new_owner())
    (held,) = await reader.all()
    assert len(held.holders) == 1
    assert await reader.release(held)
    assert not await reader.release(held)
    await (await ExclusiveRWLock(JOB, 1).acquire(bucket, new_owner())).release()
    assert await bucket.keys() == []


async def test_status_counts_locks_that_are_held_and_no_markers(
    connection: Connection, topology: Namespace, bucket: Bucket, mark: Mark
) -> None:
    status, lock = StatusReader(connection, topology), SharedRWLock(JOB, 1)
    await mark(f"{lock.readers}.gone")
    await mark(MutexLock(JOB, 7).key)
    assert (await status.read()).status.locks == 0
    for _ in range(2):
        await lock.acquire(bucket, new_owner())
    await MutexLock(JOB, 8).acquire(bucket, new_owner())
    assert (await status.read()).status.locks == len(await LockReader(connection, topology).all()) == 2
