"""The arbiter between tasks of one process that want the same lock, so that a crowd of them costs the server little.

One process is one contender for each lock:

* Tasks that want one lock ask for it one after another.
* While this process holds the lock, its other tasks are refused without a request.
* A refusal by the server is remembered for about a second, with the owner and the time of the next try. So is a request
  that got no answer. The second is jittered, so that processes do not ask again in step.
* When this process frees a lock, it forgets the refusals of that key.

The memory only ever refuses. Only the store grants a lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

from diracx.tasks.plumbing.clock import Clock
from diracx.tasks.plumbing.exceptions import ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.key_value_store import LockStore
from diracx.tasks.plumbing.locks.acquired import AcquiredLock, LockOwner
from diracx.tasks.plumbing.locks.base import BaseLock, Capacity

E = TypeVar("E", bound=Exception)

_REFUSAL_SECONDS: Final = 1.0
"""A refusal is remembered this long, plus or minus half."""
_MAX_CONTENTIONS: Final = 1_000
"""Beyond this number, those that nobody needs are forgotten."""


@dataclass(slots=True)
class _Refusal:
    """A refusal that is repeated from memory."""

    error: UnableToAcquireLockError | ServerError
    """A copy: with its traceback, a refusal would keep the task that it refused, its message included."""
    until: float
    retry_at: float | None

    def repeated(self, now: float) -> UnableToAcquireLockError | ServerError:
        error = self.error
        if not isinstance(error, UnableToAcquireLockError):
            return _without_traceback(error)
        retry_after = None if self.retry_at is None else timedelta(seconds=max(0.0, self.retry_at - now))
        return UnableToAcquireLockError(error.key, error.holder, retry_after, pace=error.pace, reason=error.reason)


@dataclass(slots=True)
class _Contention:
    """The state of one contention key in this process."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    """The number of tasks that hold the lock or wait for their turn."""
    owner: LockOwner | None = None
    refusal: _Refusal | None = None


def _without_traceback(error: E) -> E:
    """A copy of an error, whatever its constructor takes, without its traceback and its causes."""
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied


class LocalLockArbiter:
    """Decides which task of this process may ask the store for a lock.

    Args:
        clock: Measures for how long a refusal is remembered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_key: dict[str, dict[str, _Contention]] = {}
        self._count = 0
        """The number of contentions of all keys: one key has many if its tasks stand for many numbers of items."""
        self._max_count = _MAX_CONTENTIONS

    async def take(self, lock: BaseLock, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Wait for the turn of this task, then take `lock` from `store`, unless memory refuses it.

        Raises:
            UnableToAcquireLockError: The lock is held. The store was not asked if this process knew it.
            ServerError: The store did not answer, now or a moment ago.
        """
        contention = self._contention(lock)
        contention.users += 1
        try:
            if lock.capacity is Capacity.ANY:
                return await self._ask(contention, lock, store, owner)
            await contention.turn.acquire()
            try:
                acquired = await self._ask(contention, lock, store, owner)
                contention.owner = owner
                return acquired
            finally:
                contention.turn.release()
        except BaseException:
            contention.users -= 1
            raise

    async def give_back(self, lock: BaseLock, release: Callable[[], Awaitable[None]]) -> None:
        """Await `release`, which frees the lock. Tasks of this process that want the lock wait meanwhile."""
        contention = self._contention(lock)
        try:
            if lock.capacity is Capacity.ANY:
                await release()
                return
            await contention.turn.acquire()
            try:
                await release()
            finally:
                contention.owner = None
                contention.turn.release()
        finally:
            contention.users -= 1
            self._forget_refusals(lock)

    def _forget_refusals(self, lock: BaseLock) -> None:
        if lock.frees_on_release:
            for contention in self._by_key[lock.key].values():
                contention.refusal = None
        self._prune_key(lock.key)

    def _contention(self, lock: BaseLock) -> _Contention:
        key, name = lock.key, lock.contention_key
        if (contentions := self._by_key.get(key)) is not None and (contention := contentions.get(name)) is not None:
            return contention
        if self._count >= self._max_count:
            self._prune()
        contention = self._by_key.setdefault(key, {})[name] = _Contention()
        self._count += 1
        return contention

    async def _ask(self, contention: _Contention, lock: BaseLock, store: LockStore, owner: LockOwner) -> AcquiredLock:
        if lock.capacity is Capacity.ONE and contention.owner is not None:
            raise UnableToAcquireLockError(lock.key, str(contention.owner))
        if contention.refusal is not None:
            now = self._clock()
            if now < contention.refusal.until:
                raise contention.refusal.repeated(now)
            contention.refusal = None
        try:
            return await lock.acquire(store, owner)
        except (UnableToAcquireLockError, ServerError) as error:
            contention.refusal = self._remembered(error)
            raise

    def _remembered(self, error: UnableToAcquireLockError | ServerError) -> _Refusal:
        now, error = self._clock(), _without_traceback(error)
        lasts = _REFUSAL_SECONDS * random.uniform(0.5, 1.5)
        if isinstance(error, UnableToAcquireLockError) and error.retry_after is not None:
            seconds = error.retry_after.total_seconds()
            return _Refusal(error, now + min(lasts, seconds), now + seconds)
        return _Refusal(error, now + lasts, None)

    def _prune(self) -> None:
        for key in list(self._by_key):
            self._prune_key(key)
        self._max_count = max(_MAX_CONTENTIONS, 2 * self._count)

    def _prune_key(self, key: str) -> None:
        """Forget what no task of this process uses of a key, and what refuses nobody any more."""
        contentions = self._by_key[key]
        for name, each in [*contentions.items()]:
            if each.users == 0 and (each.refusal is None or each.refusal.until <= self._clock()):
                del contentions[name]
                self._count -= 1
        if not contentions:
            del self._by_key[key]
