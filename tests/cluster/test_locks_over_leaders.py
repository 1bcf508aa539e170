"""Locks while the leader of their bucket is killed, and none answers until another one is elected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.exceptions import ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.testing import wait_until
from support.cluster import ClusterMesh
from support.lock_store import not_lost
from support.locking import new_owner

PATIENCE = 60.0


@asynccontextmanager
async def contending(bucket: Bucket, lock: MutexLock) -> AsyncIterator[list[int]]:
    """During the block another worker tries to take the lock, again and again; yields the tokens that it got."""
    tokens: list[int] = []

    async def contend() -> None:
        while True:
            try:
                async with keeper.hold([lock], new_owner("w2"), not_lost) as held:
                    tokens.append(held.token or 0)
            except (UnableToAcquireLockError, ServerError):
                pass
            await asyncio.sleep(0.1)

    async with LockKeeper(bucket) as keeper:
        trying = asyncio.create_task(contend())
        try:
            yield tokens
        finally:
            trying.cancel()
            await asyncio.wait([trying])


async def expires(bucket: Bucket, key: str) -> None:
    """Return once the key can be created anew."""

    async def created() -> bool:
        try:
            await bucket.create(key, b"{}", timedelta(seconds=2))
        except (RevisionConflictError, ServerError):
            return False
        return True

    await wait_until(created, description=f"{key} has expired", timeout=PATIENCE)


@pytest.fixture
async def elsewhere(cluster: EmbeddedCluster, cluster_mesh: ClusterMesh) -> AsyncIterator[Bucket]:
    """The bucket of the locks over the connection of another process."""
    settings = ConnectionSettings(servers=tuple(cluster.url.split(",")))
    async with Connection.open(settings, name="another test", inbox_prefix="_INBOX_other") as connection:
        yield Bucket(connection, cluster_mesh.locks.name)


async def test_a_lock_outlives_the_leader_of_its_bucket_and_the_next_holder_has_a_greater_token(
    cluster_mesh: ClusterMesh, elsewhere: Bucket
) -> None:
    bucket, lock, orphaned = cluster_mesh.locks, MutexLock(JOB, 1, ttl_ms=30_000), "mutex.job.2"
    async with LockKeeper(bucket) as keeper:
        async with keeper.hold([lock], new_owner("w1"), not_lost) as held:
            token = held.token
            before = await bucket.read("mutex.job.1")
            await bucket.create(orphaned, b"{}", timedelta(seconds=2))
            async with contending(elsewhere, lock) as tokens:
                await cluster_mesh.end_leader(f"KV_{bucket.name}")
                await expires(bucket, orphaned)

                async def renewed() -> bool:
                    now = await bucket.read("mutex.job.1")
                    return before is not None and now is not None and now.revision > before.revision

                await wait_until(renewed, description="the lock is renewed at the new leader", timeout=PATIENCE)
            assert tokens == []
        async with contending(elsewhere, lock) as tokens:
            await wait_until(lambda: tokens, description="another worker has it", timeout=PATIENCE)
    assert token is not None
    assert tokens[0] > token


@pytest.mark.long
async def test_a_holder_that_cannot_renew_learns_that_it_lost_the_lock_before_another_one_has_it(
    cluster_mesh: ClusterMesh, elsewhere: Bucket
) -> None:
    bucket, lock = cluster_mesh.locks, MutexLock(JOB, 1, ttl_ms=3_000)
    lost = asyncio.Event()
    taken_when_lost: list[int] = []
    async with LockKeeper(bucket) as keeper:

        def on_lost() -> None:
            taken_when_lost.append(len(tokens))
            lost.set()

        async with keeper.hold([lock], new_owner("w1"), on_lost) as held:
            token = held.token
            async with contending(elsewhere, lock) as tokens:
                # No leader is elected within the 3 s for which the lock is held.
                await cluster_mesh.end_leader(f"KV_{bucket.name}")
                await asyncio.wait_for(lost.wait(), PATIENCE)
                await wait_until(lambda: tokens, description="another worker has it", timeout=PATIENCE)
    assert taken_when_lost == [0]
    assert token is not None
    assert tokens[0] > token
