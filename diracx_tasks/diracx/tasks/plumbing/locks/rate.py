"""How many begin in a time: one slot for each admission, which the server itself frees when the window is over.

An admission creates a slot's key with the window as its time to live. The server drops the key no earlier than one
window after it stored it, and until then nobody can create it again. So the times of one slot's admissions, by the
server's clock, are at least a window apart, and

    admissions in any window, wherever it starts  <=  slots  =  limit.

No clock of ours takes part. A window is whole seconds, rounded up, since that is what the server's time to live is.
The server looks for what has expired up to four times a second: a slot is free again up to 0.25 s late, and of a
window of 2 s about a twentieth goes unused.

An admission is not given back when its task ends. It is when the task never began, because another lock was busy.

What a crash leaves behind: an admission that counts until its window is over.
"""

from __future__ import annotations

import math
import random
from datetime import timedelta
from types import EllipsisType
from typing import ClassVar, Final, Self

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.base import CountingLimiter
from diracx.tasks.plumbing.locks.hold import Hold, KeyHold
from diracx.tasks.plumbing.locks.holder import Holder
from diracx.tasks.plumbing.locks.slots import Full, slots_of, take_slots

# How long to stay away when the slots were free and others were quicker.
_OUTRUN: Final = 0.1


class Admission:
    """Slots that were taken; nothing to renew, and nothing to give back at the end."""

    __slots__ = ("_slots", "deadline", "key", "token", "ttl")

    def __init__(self, key: str, slots: list[KeyHold], window: timedelta) -> None:
        self._slots = slots
        self.key = key
        self.token = max(slot.token for slot in slots)
        self.deadline = math.inf
        self.ttl = window

    async def renew(self) -> None:
        """Nothing to do."""

    async def release(self) -> None:
        """Nothing to do: it counts until the window is over."""

    async def abandon(self) -> None:
        """Free the slots: nobody was admitted after all."""
        for slot in self._slots:
            await slot.abandon()


class RateLimiter(CountingLimiter):
    """At most `limit` items in any window of `window_seconds` for each key, by the server's clock.

    Args:
        obj: What kind of thing is limited; must be registered.
        key: Which one. Parts are turned into text and escaped one to one.
        extra: Further parts of the key.
        n_items: How many items the task stands for; they are admitted together or not at all. A task of many may
            wait long behind a stream of tasks of few.
        limit: How many items; left out, the class's `limit`. None: any number, at no cost.
        window_seconds: In what time, rounded up to whole seconds; left out, the class's `window_seconds`.
        clock: Of deadlines.

    Raises:
        ValueError: A limit or a window that cannot be, or more items than are ever admitted together.

    All who share a key should have one limit and window: each goes by its own. Each admission is a key in the bucket
    until its window is over, so a limit is better small with a short window than large with a long one.
    """

    kind: ClassVar[str] = "rate"
    order: ClassVar[int] = 2
    gives_back: ClassVar[bool] = False

    window_seconds: float = 1
    """In what time. Set it on a subclass or on an instance."""

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

    def _check(self) -> None:
        super()._check()
        if not 0 < self.window_seconds < math.inf:
            raise ValueError(f"{type(self).__name__}: window_seconds={self.window_seconds} must be more than 0")
        if self.n_items < 1:
            raise ValueError(f"{type(self).__name__}: n_items={self.n_items} must be at least 1")
        if self.limit is not None and self.n_items > self.limit:
            raise ValueError(
                f"{type(self).__name__}: n_items={self.n_items} is more than limit={self.limit} ever admits"
            )

    def limited(self, limit: int | None, window_seconds: float | None = None) -> Self:
        """The same limiter with another limit and, unless None, another window.

        Raises:
            ValueError: As the constructor does.
        """
        other = super().limited(limit)
        if window_seconds is not None:
            other.window_seconds = window_seconds
        other._check()
        return other

    @property
    def window(self) -> timedelta:
        """The window, in the server's whole seconds."""
        return timedelta(seconds=math.ceil(self.window_seconds))

    @property
    def contention(self) -> str:
        """Many items may be refused where few are admitted."""
        return self.key if self.n_items == 1 else f"{self.key}./items.{self.n_items}"

    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Be admitted, or say when to come again."""
        assert self.limit is not None

        async def claim(slot: str) -> KeyHold | None:
            return await KeyHold.claim(store, slot, holder, self.window, self.clock)

        try:
            slots = await take_slots(store, self.key, self.limit, self.n_items, claim)
        except Full as full:
            raise await self._refusal(store, outrun=full.free >= self.n_items) from None
        return Admission(self.key, slots, self.window)

    async def _refusal(self, store: LockStore, *, outrun: bool) -> UnableToAcquireLockError:
        assert self.limit is not None
        oldest = None if outrun else await store.oldest(slots_of(self.key))
        if oldest is None or oldest.expires_in is None:
            seconds = _OUTRUN * random.uniform(0.5, 1.5)
        else:
            seconds = max(oldest.expires_in, _OUTRUN * random.uniform(0.1, 0.5))
        return UnableToAcquireLockError(
            self.key,
            retry_after=timedelta(seconds=seconds),
            pace=self.window * self.n_items / self.limit,
            reason=f"{self.key} has admitted its {self.limit} in {self.window.total_seconds():.0f} s",
        )
