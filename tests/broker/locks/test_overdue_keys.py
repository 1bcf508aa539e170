"""Keys that a killed server brought back without their TTL. A source makes them here: it keeps a TTL as a header only.

A bucket without expiry takes what another stream had under a time to live, and never drops it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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
from diracx.tasks.plumbing.locks.slots import slots_of
from diracx.tasks.testing import wait_until
from support.connecting import connect
from support.locking import new_owner


class Lasting(Bucket):
    """A bucket whose keys never expire."""

    async def create(self, key: str, value: bytes, ttl: timedelta | None = None) -> int:
        return await super().create(key, value, None)

    async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
        return await super().replace(key, value, None, revision)


Revive: TypeAlias = Callable[[str], Awaitable[None]]


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    async with connect(server) as connection:
        yield connection


@pytest.fixture
async def revive(connection: Connection, namespace: str) -> AsyncIterator[Revive]:
    """Puts a key into the bucket of the namespace, with a TTL of a second that the server ignores."""
    source, stream, subject = f"{namespace}_had", f"KV_{namespace}", f"$KV.{namespace}"
    transform = {"src": f"{namespace}.>", "dest": f"{subject}.>"}
    common = {"storage": "memory", "max_msgs_per_subject": 1}
    had = {"name": source, "subjects": [f"{namespace}.>"], "allow_msg_ttl": True}
    bucket = {"name": stream, "subjects": [f"{subject}.>"]}
    sources = [{"name": source, "subject_transforms": [transform]}]
    await connection.api(f"STREAM.CREATE.{source}", {**common, **had})
    await connection.api(f"STREAM.CREATE.{stream}", {**common, **bucket, "sources": sources})

    async def revived(key: str) -> None:
        value = b'{"owner":"somebody","task":"test:Gone","id":"1","worker":"w","since":"2026-01-01T00:00:00Z"}'
        await connection.request(f"{namespace}.{key}", value, headers={"Nats-TTL": "1s"})
        entries = Bucket(connection, namespace, overdue=timedelta(hours=1))
        await wait_until(lambda: entries.read(key), description="the key is in the bucket")

    yield revived
    for name in (stream, source):
        await connection.api(f"STREAM.DELETE.{name}")


@pytest.mark.parametrize(
    ("lock", "key"),
    [
        (MutexLock(JOB, 1), MutexLock(JOB, 1).key),
        (ConcurrencyLimiter(JOB, 1, limit=1), f"{slots_of(ConcurrencyLimiter(JOB, 1, limit=1).key)}.0"),
        (RateLimiter(JOB, 1, n_items=2, limit=2), f"{slots_of(RateLimiter(JOB, 1).key)}.0"),
        (ExclusiveRWLock(JOB, 1), ExclusiveRWLock(JOB, 1).writer_key),
        (ExclusiveRWLock(JOB, 1), f"{ExclusiveRWLock(JOB, 1).readers}.gone"),
        (SharedRWLock(JOB, 1), SharedRWLock(JOB, 1).writer_key),
    ],
    ids=["mutex", "slot", "one of several slots", "writer", "reader before a writer", "writer before a reader"],
)
async def test_a_key_long_past_its_ttl_excludes_nobody_and_one_that_the_server_may_yet_drop_does(
    connection: Connection, namespace: str, revive: Revive, lock: BaseLock, key: str
) -> None:
    await revive(key)
    with pytest.raises(UnableToAcquireLockError):
        await lock.acquire(Lasting(connection, namespace, overdue=timedelta(hours=1)), new_owner())
    store = Lasting(connection, namespace, overdue=timedelta(0))

    async def acquired() -> bool:
        try:
            await lock.acquire(store, new_owner())
        except UnableToAcquireLockError:
            return False
        return True

    await wait_until(acquired, description="it is free")
    if not isinstance(lock, SharedRWLock):
        with pytest.raises(UnableToAcquireLockError):
            await lock.acquire(store, new_owner())
