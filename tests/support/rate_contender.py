"""A process that acquires a rate limiter as often as it can: `rate_contender.py URL NAMESPACE LIMIT WINDOW SECONDS`.

It prints a line when it is ready, starts when it reads one, and in the end prints how often it asked, how often it was
admitted, and its CPU time in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from uuid import uuid4

from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import LockOwner, RateLimiter
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.wire.names import Namespace

LANES = 4
SECOND = timedelta(seconds=1)


async def main(url: str, namespace: str, limit: int, window: float, seconds: float) -> None:
    """Contend in a few lanes, each of which retries when the limiter says."""
    limiter = RateLimiter(JOB, 7, limit=limit, window_seconds=window)
    settings = ConnectionSettings(servers=(url,))
    asked = admitted = 0
    async with (
        Connection.open(settings, name="contender", inbox_prefix="_INBOX_test") as connection,
        LockKeeper(Bucket(connection, Namespace(namespace).locks_bucket)) as keeper,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.monotonic() + seconds

        async def lane() -> None:
            nonlocal asked, admitted
            while time.monotonic() < end:
                asked += 1
                owner = LockOwner.new(task="test:Contender", id=uuid4().hex, worker="w")
                try:
                    async with keeper.hold([limiter], owner, lambda: None):
                        admitted += 1
                except UnableToAcquireLockError as refusal:
                    # A limiter always sets `retry_after`; None fails here.
                    await asyncio.sleep(refusal.retry_after / SECOND)  # type: ignore[operator]

        await asyncio.gather(*(lane() for _ in range(LANES)))
    print(asked, admitted, time.process_time(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
