"""Locks as an operator sees them: who holds what, and how to take it away.

The bucket is read key by key in the order in which the keys were stored; what is taken or given back meanwhile may
be seen or not.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import StoredKey
from diracx.tasks.plumbing.locks.acquired import decode_owner
from diracx.tasks.plumbing.wire.names import Namespace


class LockHolder(msgspec.Struct, frozen=True):
    """Who holds a lock, or was admitted by a rate limiter in its present window."""

    task: str
    id: str
    worker: str
    since: datetime


class HeldLock(msgspec.Struct, frozen=True):
    """One lock. The fields, in this order, are those of `locks list --json`."""

    key: str
    """What `locks release` takes."""
    kind: str
    """`mutex`, `rw`, `conc`, `rate`, or that of an author's own lock."""
    holders: list[LockHolder]
    """The longest first. None for the mark of a writer that waits, and for what another's hand wrote."""
    expires_in: float | None
    """Seconds until its last key expires, unless it is renewed; by the server's clock."""


class LockReader:
    """Reads the bucket of locks.

    Every method raises `ServerUnavailableError` when no answer came.
    """

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._bucket = Bucket(connection, namespace.locks_bucket)

    async def exists(self) -> bool:
        """Whether the bucket is there."""
        try:
            await self._bucket.oldest()
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return False
            raise
        return True

    async def all(self) -> list[HeldLock]:
        """All locks, by key."""
        return [_lock(key, keys) for key, keys in sorted((await self._standing()).items())]

    async def one(self, key: str) -> HeldLock | None:
        """One lock, by its key; None when nobody has it."""
        keys = (await self._standing()).get(key)
        return None if keys is None else _lock(key, keys)

    async def release(self, key: str) -> bool:
        """Delete all keys of a lock; False when there was none.

        A holder that is alive notices at its next renewal, and its task is cancelled. Until then it goes on beside
        whoever takes the lock next.
        """
        keys = (await self._standing()).get(key, [])
        for standing in keys:
            await self._bucket.delete(standing.key, standing.revision)
        return bool(keys)

    async def _standing(self) -> dict[str, list[StoredKey]]:
        locks: dict[str, list[StoredKey]] = {}
        since = 1
        while (standing := await self._bucket.oldest(since=since)) is not None:
            locks.setdefault(standing.key.partition("./")[0], []).append(standing)
            since = standing.revision + 1
        return locks


def _lock(key: str, keys: list[StoredKey]) -> HeldLock:
    holders = [
        LockHolder(holder.task, holder.id, holder.worker, holder.since)
        for standing in keys
        if (holder := decode_owner(standing.value)) is not None and not holder.waiting
    ]
    lives = [standing.expires_in for standing in keys]
    expires_in = None if any(life is None for life in lives) else max(max(0.0, life or 0.0) for life in lives)
    return HeldLock(
        key=key,
        kind=key.partition(".")[0],
        holders=sorted(holders, key=lambda holder: holder.since),
        expires_in=None if expires_in is None else round(expires_in, 3),
    )
