"""The key-value store that locks build on: keys with a revision and a time to live (TTL)."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import msgspec


class RevisionConflictError(Exception):
    """A compare-and-set was refused: the key is not at the expected revision."""


class Entry(msgspec.Struct, frozen=True):
    """The value of a key, and the revision that stored it."""

    value: bytes
    revision: int
    """Rises with every write to the bucket, across all keys, through deletion and expiry."""


class StoredKey(msgspec.Struct, frozen=True):
    """A key with its value and the rest of its life."""

    key: str
    value: bytes
    revision: int
    expires_in: float | None
    """Seconds until the store drops the key, by the store's clock; None: never. An estimate: show it, but do not build
    safety on it."""


class LockStore(Protocol):
    """A key-value store with compare-and-set and TTLs.

    Locks of several keys rest on two guarantees:

    * All writes are in one order.
    * A read sees every write that was answered before the read was sent.

    Every method raises `ServerUnavailableError` when no answer came. The write may have happened all the same.

    No method uses `asyncio.timeout` or a TaskGroup, see `background.uncancelled_here`.
    """

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        """Store a new key and return its revision.

        Raises:
            RevisionConflictError: The key exists.
        """

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        """Overwrite `revision` of a key and return the new revision. The TTL starts anew.

        Raises:
            RevisionConflictError: The key is at another revision, or gone.
        """

    async def read(self, key: str) -> Entry | None:
        """Return the entry as the stream's leader has it, or None."""

    async def delete(self, key: str, revision: int) -> None:
        """Delete exactly this revision and leave no marker. A key at another revision stays."""

    async def keys(self, below: str) -> list[str]:
        """Return the keys `<below>.<one more token>` as the stream's leader has them, in no order.

        Some may belong to nobody: the markers that another client left where it deleted a key. `oldest` tells.
        """

    async def oldest(self, below: str) -> StoredKey | None:
        """Return the key that was stored first of those `<below>.<one more token>` as the leader has them, or None.

        Keys that belong to nobody and were stored before it are removed.
        """
