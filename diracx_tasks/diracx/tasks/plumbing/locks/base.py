"""What all locks have in common, and the protocol of an author's own.

A lock of an author's own subclasses `BaseLock`, sets `kind` and implements `acquire(store, holder)`: take it now and
return a `Hold`, or raise `UnableToAcquireLockError`. It may keep nothing in itself, since one instance may be taken
many times. `KeyHold` does the rest for whatever is one key with one owner:

    class Licence(BaseLock):
        kind = "licence"

        async def acquire(self, store: LockStore, holder: Holder) -> Hold:
            return await KeyHold.create(store, self.key, holder, self.ttl, self.clock)

Whoever holds locks keeps to this: the deadlines are looked at once more when all are taken, before anything is done
under them, and again when it has ended.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, Self

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.hold import MARGIN, Hold
from diracx.tasks.plumbing.locks.holder import Holder
from diracx.tasks.plumbing.wire.names import lock_key

DEFAULT_TTL_MS = 30_000
"""Life of a lock whose holder died, in milliseconds."""


class Capacity(StrEnum):
    """How many may hold one lock at a time, as far as its process can tell without asking."""

    ONE = "one"
    """Held by this process means busy: who else wants it here is answered from memory."""
    SOME = "some"
    """Only the store knows; the contenders of one process ask one after another."""
    ANY = "any"
    """They do not stand in each other's way, and ask side by side."""


class BaseLock(ABC):
    """A lock that a task takes before it executes.

    Args:
        obj: What kind of thing is locked; must be registered.
        key: Which one. Parts are turned into text and escaped one to one.
        extra: Further parts of the key.
        ttl_ms: Life of the lock after its holder died, in milliseconds; the server rounds up to whole seconds.
        clock: Of deadlines.

    Raises:
        TaskDefinitionError: `obj` is not registered; the registered ones are named.
        ValueError: `ttl_ms` is too short to be held.
    """

    kind: ClassVar[str]
    """First token of the key."""

    order: ClassVar[int] = 0
    """Locks of a task are taken by rising order, then by key: structural ones 0, limiters 1, rates 2."""

    capacity: ClassVar[Capacity] = Capacity.SOME
    """How many may hold it at a time."""

    gives_back: ClassVar[bool] = True
    """False: what was taken stays taken when the task ends, and only time frees it."""

    def __init__(
        self,
        obj: LockedObjectType,
        key: object,
        *extra: object,
        ttl_ms: int = DEFAULT_TTL_MS,
        clock: Clock = boottime,
    ) -> None:
        if ttl_ms <= 2 * MARGIN.total_seconds() * 1000:
            raise ValueError(
                f"ttl_ms={ttl_ms} is too short: more than {2 * MARGIN.total_seconds() * 1000:.0f} is needed"
            )
        self.obj = LockedObjectType(obj)
        self.parts = (key, *extra)
        self.ttl = timedelta(milliseconds=ttl_ms)
        self.clock = clock

    @cached_property
    def key(self) -> str:
        """The key in the bucket: `<kind>.<obj>.<key>[.<extra>...]`; where a lock is several keys, what they begin with.

        What follows it then starts with a token such as `/slots`: `/` is nothing that a part is escaped to, so no
        key of one lock is that of another.
        """
        return lock_key(self.kind, self.obj, *self.parts)

    @property
    def contention(self) -> str:
        """What its contenders have in common: one refusal speaks for all of them for a moment."""
        return self.key

    @abstractmethod
    async def acquire(self, store: LockStore, holder: Holder) -> Hold:
        """Take the lock now or not at all.

        Raises:
            UnableToAcquireLockError: Somebody else holds it.
            ServerUnavailableError: No answer came; what was stored meanwhile expires by itself.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"


class BaseLimiter(BaseLock):
    """A lock that bounds how many run, not which. `diracx-task-run call` skips it."""

    order: ClassVar[int] = 1


class CountingLimiter(BaseLimiter):
    """A limiter with a number, which the configuration may change."""

    limit: int | None = None
    """How many; None: any number, at no cost. Set it on a subclass or on an instance."""

    def _check(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{type(self).__name__}: limit={self.limit} must be at least 1, or None for no limit")

    def limited(self, limit: int | None) -> Self:
        """The same limiter with another limit: the configuration's word instead of the code's.

        Raises:
            ValueError: It is less than 1.
        """
        other = copy.copy(self)
        other.limit = limit
        other._check()
        return other
