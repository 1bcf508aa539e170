"""The mutex: one key, created by its holder."""

from __future__ import annotations

from typing import ClassVar

from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.locks.base import BaseLock, Capacity
from diracx.tasks.plumbing.locks.hold import Hold, KeyHold
from diracx.tasks.plumbing.locks.holder import Holder


class MutexLock(BaseLock):
    """One holder at a time for each key."""

    kind: ClassVar[str] = "mutex"
    capacity: ClassVar[Capacity] = Capacity.ONE

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Take the mutex, or say who holds it."""
        return await KeyHold.create(store, self.key, holder, self.ttl, self.clock)
