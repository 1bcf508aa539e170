"""The store that locks need: keys with a revision and a time to live."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import msgspec


class RevisionConflictError(Exception):
    """The key is not at the revision that was expected."""


class Entry(msgspec.Struct, frozen=True):
    """What a key holds."""

    value: bytes
    revision: int
    """Unique in the bucket, rising; an entry that is gone and comes back has a higher one."""


class Standing(msgspec.Struct, frozen=True):
    """A key as it stands in the store, with what is left of its life."""

    key: str
    value: bytes
    revision: int
    expires_in: float | None
    """Seconds until the store drops it, by the store's clock; None: never. Good for advice, not for safety."""


class LockStore(Protocol):
    """Keys with a revision and a time to live. Lost answers are not hidden.

    Writes are in one order, and a read sees every write that was answered before it was sent: locks of several keys
    rest on that. Every method raises `ServerUnavailableError` when no answer came; a write may still have happened.
    """

    async def create(self, key: str, value: bytes, ttl: timedelta) -> int:
        """Store a new key and return its revision. `RevisionConflictError` if it exists."""

    async def replace(self, key: str, value: bytes, ttl: timedelta, revision: int) -> int:
        """Store over `revision` and return the new one; the life of the key starts anew.

        `RevisionConflictError` if the key is at another revision or gone.
        """

    async def read(self, key: str) -> Entry | None:
        """The entry as the leader has it, or None."""

    async def delete(self, key: str, revision: int) -> None:
        """Delete exactly this revision; another owner's stays. Nothing is left behind."""

    async def keys(self, below: str) -> list[str]:
        """The keys `<below>.<one more token>`, as the leader has them, in no order."""

    async def oldest(self, below: str) -> Standing | None:
        """Of those keys, the one that was stored first; None when there is none."""
