"""The rate limiter: one slot for each admission, which the server frees when the window is over.

The limit holds in every window, wherever it starts:

* An admission creates a slot's key with the window as its TTL.
* The server drops the key no earlier than one window after it stored it. Until then nobody can create it again.
* So two admissions through one slot are at least a window apart, by the server's clock, and

      admissions in any window  <=  slots  =  limit.

No clock of this machine takes part. Three facts about the server shape the rest:

* A window is whole seconds, rounded up, because the server's TTL is.
* The server looks for expired keys up to four times a second. A slot is free again up to 0.25 s late: about a twentieth
  of a window of 2 s goes unused.
* A slot stays taken when its task ends. It is freed early only if the task never began, because another lock was busy.

What a crash leaves behind: an admission that counts until its window is over.
"""

from __future__ import annotations

import math
import random
from datetime import timedelta
from types import EllipsisType
from typing import ClassVar, Final, Self

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError, shown
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.acquired import AcquiredKey, AcquiredLock, LockOwner
from diracx.tasks.plumbing.locks.base import CountingLimiter
from diracx.tasks.plumbing.locks.slots import SlotsFullError, abandon_all, slots_of, take_slots, taken_slots

MAX_WINDOW_SECONDS: Final = 3_000_000_000
"""95 years. The server counts times in nanoseconds since 1970, in 64 bits, and refuses a later end or loses it."""
_COLLISION_RETRY_SECONDS: Final = 0.1
"""The delay before another try when slots were free but other contenders took them first."""


class Admission:
    """The slots of one admission. They need no renewal, and `release` does not free them."""

    __slots__ = ("_slots", "deadline", "key", "token", "ttl")

    def __init__(self, key: str, slots: list[AcquiredKey], window: timedelta) -> None:
        self._slots = slots
        self.key = key
        self.token = max(slot.token for slot in slots)
        self.deadline = math.inf
        self.ttl = window

    async def renew(self, store: LockStore | None = None) -> None:
        """Do nothing: the slots last for the window."""

    async def release(self) -> None:
        """Do nothing: the admission counts until the window is over."""

    async def abandon(self) -> None:
        """Free the slots: the task never began."""
        await abandon_all(self._slots)


class RateLimiter(CountingLimiter):
    """At most `limit` items in any window of `window_seconds` for each key, by the server's clock.

    Args:
        obj: The registered type of the limited object, e.g. `JOB`.
        key: The id of the limited object. Each part of the key becomes text and is escaped one to one.
        extra: Further parts of the key.
        n_items: The number of items that the task stands for. They are admitted together or not at all. A task of many
            items may wait long behind a stream of tasks of few.
        limit: The number of items. Left out: the class's `limit`. None: no limit, at no cost.
        window_seconds: The length of the window, rounded up to whole seconds. Left out: the class's `window_seconds`.
        clock: Measures the deadlines.

    Raises:
        ValueError: The limit or the window is impossible, or `n_items` is more than `limit` ever admits.

    All tasks that share a key should have the same limit and window: each applies its own. Each admission is a key in
    the bucket until its window is over, so prefer a small limit in a short window to a large one in a long window.
    """

    kind: ClassVar[str] = "rate"
    order: ClassVar[int] = 2
    frees_on_release: ClassVar[bool] = False

    window_seconds: float = 1
    """The length of the window. Set it on a subclass or on an instance."""

    def __init__(
        self,
        obj: LockedObjectType,
        key: object,
        *extra: object,
        n_items: int = 1,
        limit: int | EllipsisType | None = ...,
        window_seconds: float | EllipsisType = ...,
        clock: Clock = boottime,
    ) -> None:
        super().__init__(obj, key, *extra, clock=clock)
        self.n_items = n_items
        if not isinstance(limit, EllipsisType):
            self.limit = limit
        if not isinstance(window_seconds, EllipsisType):
            self.window_seconds = window_seconds
        self._check()
        if self.limit is not None and self.n_items > self.limit:
            raise ValueError(
                f"{type(self).__name__}: n_items={self.n_items} is more than limit={self.limit} ever admits"
            )

    def _check(self) -> None:
        super()._check()
        window: object = self.window_seconds
        if not (isinstance(window, int | float) and 0 < window <= MAX_WINDOW_SECONDS):
            raise ValueError(
                f"{type(self).__name__}: window_seconds={window!r} must be a number of seconds, more than 0, "
                f"and {MAX_WINDOW_SECONDS} at the most"
            )
        if not (isinstance(self.n_items, int) and self.n_items >= 1):
            raise ValueError(f"{type(self).__name__}: n_items={self.n_items!r} must be a whole number, at least 1")

    def limited(self, limit: int | None, window_seconds: float | None = None) -> Self:
        """Return a copy with another limit and, unless it is None, another window.

        With fewer than `n_items` it admits nothing: its task waits until the limit is raised again.

        Raises:
            ValueError: The limit or the window is impossible.
        """
        other = super().limited(limit)
        if window_seconds is not None:
            other.window_seconds = window_seconds
        other._check()
        return other

    @property
    def window(self) -> timedelta:
        """The window, rounded up to the server's whole seconds."""
        return timedelta(seconds=math.ceil(self.window_seconds))

    @property
    def contention_key(self) -> str:
        """Tasks with the same number of items: a few items may be admitted where many are refused."""
        return self.key if self.n_items == 1 else f"{self.key}./items.{self.n_items}"

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Take the slots, or say when to try again."""
        assert self.limit is not None
        if self.n_items > self.limit:
            admits = f"{shown(self.key)} admits {self.limit}{self._place}"
            reason = f"{admits}, and the task stands for {self.n_items}: raise the limit"
            raise UnableToAcquireLockError(self.key, reason=reason)

        async def claim(slot: str) -> AcquiredKey | None:
            return await AcquiredKey.claim(store, slot, owner, self.window, self.clock)

        try:
            slots = await take_slots(store, self.key, self.limit, self.n_items, claim)
        except SlotsFullError as full:
            raise await self._refusal(store, collided=full.collided) from None
        return Admission(self.key, slots, self.window)

    async def _refusal(self, store: LockStore, *, collided: bool) -> UnableToAcquireLockError:
        assert self.limit is not None
        reason = f"{shown(self.key)} has admitted its {self.limit} in {self.window.total_seconds():.0f} s{self._place}"
        oldest = None
        if collided:
            reason = f"other contenders took the free slots of {shown(self.key)} first"
        else:
            oldest = await store.oldest(slots_of(self.key))
            if self.limit - len(await taken_slots(store, self.key, self.limit)) >= self.n_items:
                # Freed meanwhile: markers were removed, or the task of another contender never began.
                oldest = None
        if oldest is None or oldest.expires_in is None:
            seconds = _COLLISION_RETRY_SECONDS * random.uniform(0.5, 1.5)
        else:
            seconds = max(oldest.expires_in, _COLLISION_RETRY_SECONDS * random.uniform(0.1, 0.5))
        return UnableToAcquireLockError(
            self.key,
            retry_after=timedelta(seconds=seconds),
            pace=self.window * self.n_items / self.limit,
            reason=reason,
        )
