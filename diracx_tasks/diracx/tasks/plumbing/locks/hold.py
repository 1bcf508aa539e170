"""What was taken: one key, held by one owner through revision compare-and-set.

The inequality that all of it rests on: a hold is trusted until

    deadline = sent + ttl - MARGIN

where `sent` is read *before* the request leaves (on `CLOCK_BOOTTIME`), and the store drops the key no earlier than
`ttl` after it stored it. Since it stores after we sent, nobody else can own the key before the deadline. Past the
deadline a hold is lost for good: it is neither renewed nor released.

What a crash leaves behind: a key that expires by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import msgspec

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import LockLostError, UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError
from diracx.tasks.plumbing.locks.holder import Holder, in_words

MARGIN = timedelta(seconds=1)
"""How long before its key may expire a hold stops being trusted."""

_encode = msgspec.json.Encoder().encode


class Hold(Protocol):
    """A lock that was taken."""

    key: str
    token: int
    """The fencing token: strictly rising for one key."""
    deadline: float
    """Until when the hold is trusted, on the clock of `clock.boottime`; infinite for what needs no renewal."""
    ttl: timedelta

    async def renew(self) -> None:
        """Move the deadline on. `LockLostError` if somebody else has the key or it is gone."""

    async def release(self) -> None:
        """The task has ended: give the lock back. A hold that is no longer ours is left alone."""

    async def abandon(self) -> None:
        """The task never began: undo the taking."""


class KeyHold:
    """One key, held by one owner."""

    __slots__ = ("_clock", "_revision", "_store", "_unanswered", "_value", "deadline", "key", "token", "ttl")

    def __init__(
        self,
        store: LockStore,
        key: str,
        value: bytes,
        ttl: timedelta,
        revision: int,
        sent: float,
        clock: Clock,
    ) -> None:
        self._store = store
        self._clock = clock
        self._value = value
        self._revision = revision
        self._unanswered = False
        self.key = key
        self.ttl = ttl
        self.token = revision
        self.deadline = self._deadline_after(sent)

    @property
    def revision(self) -> int:
        """The revision at which the key is ours, as far as is known."""
        return self._revision

    @classmethod
    async def claim(cls, store: LockStore, key: str, holder: Holder, ttl: timedelta, clock: Clock) -> KeyHold | None:
        """Create the key, or return None if it exists."""
        value = _encode(holder)
        sent = clock()
        try:
            revision = await store.create(key, value, ttl)
        except RevisionConflictError:
            return None
        return cls(store, key, value, ttl, revision, sent, clock)

    @classmethod
    async def create(
        cls,
        store: LockStore,
        key: str,
        holder: Holder,
        ttl: timedelta,
        clock: Clock = boottime,
        yields: Callable[[Entry], bool] | None = None,
    ) -> KeyHold:
        """Create the key, or take it over where that is allowed.

        Args:
            yields: Tells of an entry that stands in the way whether it may be replaced; None: never.

        Raises:
            UnableToAcquireLockError: It exists.
        """
        if (hold := await cls.claim(store, key, holder, ttl, clock)) is not None:
            return hold
        entry, value = await store.read(key), _encode(holder)
        if entry is not None and entry.value == value:
            # An earlier try of this very acquisition was stored though its answer was lost. When is not known, so
            # only a renewal gives it a deadline.
            hold = cls(store, key, value, ttl, entry.revision, clock(), clock)
            try:
                await hold.renew()
            except LockLostError:
                raise UnableToAcquireLockError(key) from None
            return hold
        if entry is not None and yields is not None and yields(entry):
            sent = clock()
            try:
                revision = await store.replace(key, value, ttl, entry.revision)
            except RevisionConflictError:
                raise UnableToAcquireLockError(key) from None
            return cls(store, key, value, ttl, revision, sent, clock)
        raise UnableToAcquireLockError(key, None if entry is None else in_words(entry.value))

    def _deadline_after(self, sent: float) -> float:
        return sent + (self.ttl - MARGIN).total_seconds()

    async def renew(self) -> None:
        """Store the key again; adopt our own write if only its answer was lost."""
        sent = self._clock()
        if sent >= self.deadline:
            raise LockLostError(self.key, "its deadline passed before it was renewed")
        self._unanswered = True
        try:
            self._revision = await self._store.replace(self.key, self._value, self.ttl, self._revision)
        except RevisionConflictError:
            entry = await self._store.read(self.key)
            if entry is None or entry.value != self._value:
                raise LockLostError(self.key, "it is gone" if entry is None else in_words(entry.value)) from None
            # Our own write, sent at a time that is not known: the next renewal moves the deadline on.
            self._revision = entry.revision
        else:
            self.deadline = self._deadline_after(sent)
        self._unanswered = False

    async def release(self) -> None:
        """Delete our revision; after a renewal whose answer was lost, look which one is ours."""
        if self._unanswered:
            entry = await self._store.read(self.key)
            if entry is None or entry.value != self._value:
                return
            self._revision = entry.revision
        await self._store.delete(self.key, self._revision)

    async def abandon(self) -> None:
        """The same as `release`."""
        await self.release()
