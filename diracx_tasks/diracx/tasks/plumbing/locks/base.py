"""The base classes of all locks, and the mutex, the simplest of them.

A lock is a stateless value: a key, and the way to take it from a `LockStore`. It is taken now or not at all.

    MutexLock            one owner                           mutex.<obj>.<key>
    ExclusiveRWLock      one writer and no reader            rw.<obj>.<key>./writer
    SharedRWLock         any number of readers, no writer    rw.<obj>.<key>./readers.<acquisition>
    ConcurrencyLimiter   at most `limit` owners              conc.<obj>.<key>./slots.<number>
    RateLimiter          at most `limit` in any window       rate.<obj>.<key>./slots.<number>

To write a lock of your own, subclass `BaseLock`, set `kind` and implement `acquire(store, owner)`: take the lock now
and return an `AcquiredLock`, or raise `UnableToAcquireLockError`. Keep no state in the lock: one instance may be
taken many times. `AcquiredKey` does the rest for a lock that is one key with one owner:

    class Licence(BaseLock):
        kind = "licence"

        async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
            return await AcquiredKey.create(store, self.key, owner, self.ttl, self.clock)

`keeper` checks the deadlines of all locks of a task when the last one is taken, before the task begins, and again when
the task has ended.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final, NoReturn, Self

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.lock_registry import LockedObjectType
from diracx.tasks.plumbing.locks.acquired import SAFETY_MARGIN, AcquiredKey, AcquiredLock, LockOwner
from diracx.tasks.plumbing.wire.names import escape, lock_key

DEFAULT_TTL_MS = 30_000
"""The default life of a lock after its owner died, in milliseconds."""
MAX_TTL_MS: Final = 3_000_000_000_000
"""95 years. The server counts times in nanoseconds since 1970, in 64 bits, and refuses a later end or loses it."""

# Under its earlier name, an attribute of an author's lock would have no effect.
_RENAMED: Final = {"gives_back": "frees_on_release", "contention": "contention_key"}


_DEFAULT_TTL: Final = timedelta(milliseconds=DEFAULT_TTL_MS)


def _ttl_of(ttl_ms: float) -> timedelta:
    if not isinstance(ttl_ms, int | float):
        raise ValueError(f"ttl_ms={ttl_ms!r} is no number of milliseconds, e.g. {DEFAULT_TTL_MS}")
    shortest_ms = 2 * SAFETY_MARGIN.total_seconds() * 1000
    if ttl_ms <= shortest_ms:
        raise ValueError(f"ttl_ms={ttl_ms} is too short: more than {shortest_ms:.0f} is needed")
    if not ttl_ms <= MAX_TTL_MS:
        raise ValueError(f"ttl_ms={ttl_ms} is too long: {MAX_TTL_MS} at the most; a held lock is renewed")
    return timedelta(milliseconds=ttl_ms)


class Capacity(StrEnum):
    """The number of owners that one lock may have at a time, as far as one process can tell without asking."""

    ONE = "one"
    """A lock that this process holds is busy: other tasks of this process are refused from memory."""
    SOME = "some"
    """Only the store knows: the tasks of this process ask one after another."""
    ANY = "any"
    """Owners do not exclude each other: the tasks of this process ask concurrently."""


class BaseLock(ABC):
    """A lock that a task takes before it executes.

    Args:
        obj: The registered type of the locked object, e.g. `JOB`.
        key: The id of the locked object. Each part of the key becomes text and is escaped one to one: 7 and "7" are one
            key.
        extra: Further parts of the key.
        ttl_ms: The life of the lock after its owner died, in milliseconds. The server rounds up to whole seconds.
        clock: Measures the deadlines.

    Raises:
        TaskDefinitionError: `obj` is not registered; the text lists the registered types.
        ValueError: `ttl_ms` is no number, too short (not more than twice `SAFETY_MARGIN`), or too long for the server
            to count. Or no key can be made: it would have more than 3,000 characters, or a part is None, bytes, a
            collection, or an object without a text of its own. In `execution_locks`, it is the failure of the one task
            that has the lock.
    """

    kind: ClassVar[str]
    """The first token of the key, e.g. `mutex`: at most 50 ASCII letters, digits, `_` and `-`."""

    order: ClassVar[int] = 0
    """A task takes its locks by rising order, then by key: structural locks are 0, limiters 1, rate limiters 2."""

    capacity: ClassVar[Capacity] = Capacity.SOME
    """The number of owners at a time."""

    frees_on_release: ClassVar[bool] = True
    """Whether `release` frees the lock for others. False: only time does."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED.items():
            if hasattr(cls, old):
                raise TaskDefinitionError(
                    f"{cls.__module__}.{cls.__qualname__} sets {old}, which is {new} now; rename it"
                )

    def __init__(
        self,
        obj: LockedObjectType,
        key: object,
        *extra: object,
        ttl_ms: int = DEFAULT_TTL_MS,
        clock: Clock = boottime,
    ) -> None:
        self.obj = LockedObjectType(obj)
        self.parts = (key, *extra)
        # Made here, so that a key which the server cannot take is refused where the author wrote it.
        self._key = lock_key(self.kind, self.obj, *self.parts)
        self.ttl = _DEFAULT_TTL if ttl_ms is DEFAULT_TTL_MS else _ttl_of(ttl_ms)
        self.clock = clock

    @property
    def key(self) -> str:
        """The key in the bucket, `<kind>.<obj>.<key>[.<extra>...]`; the prefix of all keys of a lock that has many.

        The next token of such a key starts with `/`, e.g. `/slots`. Escaped parts never contain `/`, so two locks never
        share a key.
        """
        return self._key

    @property
    def redis_key(self) -> NoReturn:
        """Not available. Code that reads it would look up a key that no store has: locks are keys of a bucket, and
        have another form (`mutex.job.1`, not `lock:mutex:job:1`).

        Raises:
            AttributeError: Always; the text names `key`.
        """
        raise AttributeError(
            f"{type(self).__name__} has no redis_key, since no lock is in Redis; "
            "use `lock.key`, its key in the bucket, which has another form"
        )

    @property
    def contention_key(self) -> str:
        """Locks with the same contention key contend with each other: one refusal holds for all of them for a while."""
        return self.key

    @abstractmethod
    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Take the lock now, or fail. Never wait: a refused task waits in its queue.

        Raises:
            UnableToAcquireLockError: Somebody else holds the lock.
            ServerUnavailableError: No answer came. A key that was stored all the same expires by itself.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"


class MutexLock(BaseLock):
    """One owner at a time for each key."""

    kind: ClassVar[str] = "mutex"
    capacity: ClassVar[Capacity] = Capacity.ONE

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Create the key, or name its owner."""
        return await AcquiredKey.create(store, self.key, owner, self.ttl, self.clock)


class BaseLimiter(BaseLock):
    """A lock that bounds how many tasks run, not which. `diracx-task-run call` skips it."""

    order: ClassVar[int] = 1


class CountingLimiter(BaseLimiter):
    """A limiter with a limit, which the configuration may change."""

    limit: int | None = None
    """The limit; None: no limit, at no cost. Set it on a subclass or on an instance."""

    written_at: str = ""
    """Where the configuration sets the limit, for the texts of refusals; empty: the code sets it."""

    def _check(self) -> None:
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit >= 1):
            raise ValueError(
                f"{type(self).__name__}: limit={self.limit!r} must be a whole number, at least 1, or None for no limit"
            )

    @property
    def _place(self) -> str:
        return f" ({self.written_at})" if self.written_at else ""

    def limited(self, limit: int | None) -> Self:
        """Return a copy with another limit: the configuration overrides the code.

        Raises:
            ValueError: The limit is no whole number, or less than 1.
        """
        other = copy.copy(self)
        other.limit = limit
        other._check()
        return other

    def of_vo(self, vo: str) -> Self:
        """Return a copy that counts the tasks of one VO apart, under a key of its own."""
        other = copy.copy(self)
        # An escaped part never contains `/`, so no limiter in the code has this key.
        other._key = f"{self.key}./vo.{escape(vo)}"
        return other
