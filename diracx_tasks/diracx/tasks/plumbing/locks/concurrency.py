"""The concurrency limiter: one slot for each task that runs, held like a mutex.

A lower limit takes effect as tasks end. Slots beyond the new limit are not counted, so until their owners end no more
tasks run than the old limit allowed.
"""

from __future__ import annotations

from types import EllipsisType
from typing import ClassVar

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.acquired import AcquiredKey, AcquiredLock, LockOwner, describe_owner
from diracx.tasks.plumbing.locks.base import DEFAULT_TTL_MS, CountingLimiter
from diracx.tasks.plumbing.locks.slots import SlotsFullError, slots_of, take_slots


class ConcurrencyLimiter(CountingLimiter):
    """At most `limit` owners at a time for each key.

    Args:
        obj: The registered type of the limited object, e.g. `JOB`.
        key: The id of the limited object. Each part of the key becomes text and is escaped one to one.
        extra: Further parts of the key.
        limit: The number of owners. Left out: the class's `limit`. None: no limit, at no cost.
        ttl_ms: The life of a slot after its owner died, in milliseconds. The server rounds up to whole seconds.
        clock: Measures the deadlines.

    All tasks that share a key should have the same limit: each applies its own.
    """

    kind: ClassVar[str] = "conc"

    def __init__(
        self,
        obj: LockedObjectType,
        key: object,
        *extra: object,
        limit: int | EllipsisType | None = ...,
        ttl_ms: int = DEFAULT_TTL_MS,
        clock: Clock = boottime,
    ) -> None:
        super().__init__(obj, key, *extra, ttl_ms=ttl_ms, clock=clock)
        if not isinstance(limit, EllipsisType):
            self.limit = limit
        self._check()

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Take a slot, or name the owner that has held one for longest."""
        assert self.limit is not None

        async def claim(slot: str) -> AcquiredKey | None:
            return await AcquiredKey.claim(store, slot, owner, self.ttl, self.clock)

        try:
            return (await take_slots(store, self.key, self.limit, 1, claim))[0]
        except SlotsFullError:
            oldest = await store.oldest(slots_of(self.key))
            among = "" if oldest is None else f", among them {describe_owner(oldest.value)}"
            raise UnableToAcquireLockError(
                self.key, f"all {self.limit} that may run at a time{self._place}{among}"
            ) from None
