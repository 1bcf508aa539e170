"""A lock store in memory, for tests that need locks but no server."""

from __future__ import annotations

import math
from datetime import timedelta

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.locks import Entry, RevisionConflictError, StoredKey


class InMemoryLockStore:
    """A `LockStore` in the memory of one process.

    It behaves like a bucket on the server: revisions rise across all keys, and a time to live is rounded up to whole
    seconds.

    Args:
        clock: The clock by which keys expire.
    """

    def __init__(self, clock: Clock = boottime) -> None:
        self._clock = clock
        self._last_revision = 0
        self._entries: dict[str, tuple[Entry, float]] = {}

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        """Store a new key and return its revision.

        Raises:
            RevisionConflictError: The key exists.
        """
        return await self.replace(key, value, ttl, 0)

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        """Replace the value of a key at this revision (0 for a new key); return its new revision.

        Raises:
            RevisionConflictError: The key has another revision.
        """
        entry = await self.read(key)
        if (entry.revision if entry else 0) != revision:
            raise RevisionConflictError(key)
        self._last_revision += 1
        expires = self._clock() + math.ceil(ttl.total_seconds())
        self._entries[key] = (Entry(value=value, revision=self._last_revision), expires)
        return self._last_revision

    async def read(self, key: str) -> Entry | None:
        """Return the entry, or None."""
        entry, expires = self._entries.get(key, (None, 0.0))
        if entry is not None and self._clock() >= expires:
            del self._entries[key]
            return None
        return entry

    async def delete(self, key: str, revision: int) -> None:
        """Delete the key if it has exactly this revision."""
        if (entry := await self.read(key)) is not None and entry.revision == revision:
            del self._entries[key]

    async def keys(self, below: str | None = None) -> list[str]:
        """Return the keys: all, or those of the form `<below>.<one token>`."""
        return [stored.key for stored in await self._stored_keys(below)]

    async def oldest(self, below: str | None = None) -> StoredKey | None:
        """Return the one of those keys that was stored first, or None."""
        return min(await self._stored_keys(below), key=lambda stored: stored.revision, default=None)

    async def _stored_keys(self, below: str | None) -> list[StoredKey]:
        found = []
        for key, (_, expires) in list(self._entries.items()):
            if (below is None or key.rpartition(".")[0] == below) and (entry := await self.read(key)) is not None:
                found.append(StoredKey(key, entry.value, entry.revision, expires - self._clock()))
        return found
