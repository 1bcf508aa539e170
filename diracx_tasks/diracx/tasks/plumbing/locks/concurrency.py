"""How many run at a time: one slot for each, held like a mutex.

A limit that is lowered takes effect as holders end: those in slots beyond it are not counted, so until then no more
run than the old limit allowed.
"""

from __future__ import annotations

from types import EllipsisType
from typing import ClassVar

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.base import DEFAULT_TTL_MS, CountingLimiter
from diracx.tasks.plumbing.locks.hold import Hold, KeyHold
from diracx.tasks.plumbing.locks.holder import Holder, in_words
from diracx.tasks.plumbing.locks.slots import Full, slots_of, take_slots


class ConcurrencyLimiter(CountingLimiter):
    """At most `limit` holders at a time for each key.

    Args:
        obj: What kind of thing is limited; must be registered.
        key: Which one. Parts are turned into text and escaped one to one.
        extra: Further parts of the key.
        limit: How many; left out, the class's `limit`. None: any number, at no cost.
        ttl_ms: Life of a slot after its holder died, in milliseconds; the server rounds up to whole seconds.
        clock: Of deadlines.

    All who share a key should have one limit: each goes by its own.
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

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Take a slot, or say who has had one for longest."""
        assert self.limit is not None

        async def claim(slot: str) -> KeyHold | None:
            return await KeyHold.claim(store, slot, holder, self.ttl, self.clock)

        try:
            return (await take_slots(store, self.key, self.limit, 1, claim))[0]
        except Full:
            oldest = await store.oldest(slots_of(self.key))
            among = "" if oldest is None else f", among them {in_words(oldest.value)}"
            raise UnableToAcquireLockError(self.key, f"all {self.limit} that may run at a time{among}") from None
