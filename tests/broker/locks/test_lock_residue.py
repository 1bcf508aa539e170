"""Taking and giving back leaves nothing behind, however often."""

from __future__ import annotations

import asyncio

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, ExclusiveRWLock, MutexLock, SharedRWLock
from diracx.tasks.plumbing.wire.names import Namespace
from support.locking import new_owner

PAIRS = 20_000
LANES = 100


async def test_twenty_thousand_pairs_leave_no_message_in_any_bucket(connection: Connection, names: Namespace) -> None:
    await ensure(connection, assets(names))
    store = Bucket(connection, names.locks_bucket)
    numbers = iter(range(PAIRS))

    async def lane(own: int) -> None:
        mine: list[BaseLock] = [SharedRWLock(JOB, "shared"), ConcurrencyLimiter(JOB, own, limit=3)]
        mine += [ExclusiveRWLock(JOB, own), MutexLock(JOB, own)]
        for number in numbers:
            # Mostly mutexes, on a key of its own and on keys that never come again.
            lock = mine[number % 4] if number % 10 == 0 else mine[3] if number % 2 else MutexLock(JOB, own, number)
            hold = await lock.acquire(store, new_owner())
            await hold.release()

    await asyncio.gather(*(lane(own) for own in range(LANES)))
    for bucket in (names.locks_bucket, names.attempts_bucket, names.results_bucket):
        state = (await connection.api(f"STREAM.INFO.KV_{bucket}"))["state"]
        assert (state["messages"], state["bytes"]) == (0, 0), bucket
    state = (await connection.api(f"STREAM.INFO.KV_{names.locks_bucket}"))["state"]
    assert state["last_seq"] >= PAIRS
    assert next(numbers, None) is None
